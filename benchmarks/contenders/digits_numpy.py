"""examples/digits.py as it is, with instep; and with its AdamW and a loss in plain NumPy."""

from itertools import repeat

import numpy as np

import instep
from benchmarks.contenders.digits import DigitsContender
from benchmarks.digits import CLIP_NORM, DECAY, RATE, example, rates, start
from benchmarks.works import Array


class Instep(DigitsContender):
    @staticmethod
    def start(threads: int) -> None:
        instep.set_num_threads(threads)
        start()

    def begin(self) -> None:
        self.params = {name: value.copy() for name, value in start().params.items()}
        options = {"lr": RATE, "weight_decay": DECAY}
        if self.task.around:
            steps = rates(around=True)
            options |= {"lr": instep.schedules.Lambda(lambda t: steps[min(t, len(steps) - 1)])}
            options |= {"clip_norm": CLIP_NORM}
        self.instep = instep.AdamW(self.params, **options)

    def run(self, times: int) -> None:
        params, opt, (_, x, y, _) = self.params, self.instep, start()
        forward, backward = example().forward, example().backward
        for rows in (next(self.order) for _ in repeat(None, times)):
            logits, inputs = forward(params, x[rows])
            value, dlogits = instep.losses.cross_entropy(logits, y[rows], out=logits)
            backward(params, inputs, dlogits, opt.grads)
            opt.step()
        self.value = value

    def loss(self) -> float:
        return self.value


class PlainNumpy(DigitsContender):
    def begin(self) -> None:
        params = {name: value.copy() for name, value in start().params.items()}
        steps = rates(self.task.around)
        clip_norm = CLIP_NORM if self.task.around else np.inf
        self.numpy = example().NumpyAdamW(
            params, lambda t: steps[min(t, len(steps) - 1)], DECAY, clip_norm
        )
        self.grads = {name: np.empty_like(value) for name, value in params.items()}

    def run(self, times: int) -> None:
        params, (_, x, y, _) = self.numpy.params, start()
        forward, backward = example().forward, example().backward
        for rows in (next(self.order) for _ in repeat(None, times)):
            logits, inputs = forward(params, x[rows])
            value, dlogits = _cross_entropy(logits, y[rows])
            backward(params, inputs, dlogits, self.grads)
            self.numpy.step(self.grads)
        self.value = value

    def loss(self) -> float:
        return float(self.value)


def _cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """The mean over the batch, and its gradient, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    chosen = logits[rows, labels]
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1, keepdims=True)
    value = np.mean(np.log(sums[:, 0]) - chosen)
    logits /= sums
    logits[rows, labels] -= 1
    logits /= len(labels)
    return value, logits
