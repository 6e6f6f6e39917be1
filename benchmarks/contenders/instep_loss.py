"""instep itself, through its public interface."""

from itertools import repeat

import numpy as np

import instep
from benchmarks.contenders.base import LossContender
from benchmarks.works import Array


class Instep(LossContender):
    """As it is called by who gives it no thought: the gradient is a new array each time."""

    @staticmethod
    def start(threads: int) -> None:
        instep.set_num_threads(threads)

    @staticmethod
    def note() -> str:
        return f"instruction set {instep.isa()} of {', '.join(instep.available_isas())}"

    def compile(self) -> None:
        self.loss = getattr(instep.losses, self.task.kind)

    def allocate(self, pred: Array, target: Array) -> None:
        self.pred, self.target = pred.copy(), target.copy()

    def run(self, times: int) -> None:
        loss, pred, target = self.loss, self.pred, self.target
        for _ in repeat(None, times):
            value, grad = loss(pred, target)
        self.found = value, grad

    def result(self) -> tuple[float, Array]:
        return self.found


class InstepOut(Instep):
    """The gradient goes into an array that is used again."""

    @staticmethod
    def note() -> None:
        return None

    def allocate(self, pred: Array, target: Array) -> None:
        super().allocate(pred, target)
        self.grad = np.empty_like(pred)

    def run(self, times: int) -> None:
        loss, pred, target, grad = self.loss, self.pred, self.target, self.grad
        for _ in repeat(None, times):
            value, _ = loss(pred, target, out=grad)
        self.found = value, grad
