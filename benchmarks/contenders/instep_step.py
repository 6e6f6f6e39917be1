"""instep itself, through its public interface."""

from itertools import repeat

import instep
from benchmarks.contenders.base import GivenGradients, StepContender
from benchmarks.works import Array


class Instep(StepContender):
    def allocate(self, parameters: list[Array]) -> None:
        self.parameters = [array.copy() for array in parameters]
        kind = getattr(instep, self.optimizer.class_name)
        self.instep = kind(_tree(self.parameters), threads=self.threads, **self.hyper)

    def set_gradients(self, gradients: list[Array]) -> None:
        self.gradients = _tree([array.copy() for array in gradients])

    def step(self) -> None:
        self.instep.step(self.gradients)

    def run(self, times: int) -> None:
        step, gradients = self.instep.step, self.gradients
        for _ in repeat(None, times):
            step(gradients)

    def values(self) -> list[Array]:
        return self.parameters

    @staticmethod
    def note() -> str:
        return f"instruction set {instep.isa()} of {', '.join(instep.available_isas())}"


class InstepGiven(GivenGradients, Instep):
    def receive(self) -> None:
        self.gradients = _tree(self.given)


def _tree(arrays: list[Array]) -> Array | list[Array]:
    """A lone array is passed as it is, as a user would."""
    return arrays[0] if len(arrays) == 1 else arrays
