"""sklearn._loss: its private kernels, called without the checks of the classes around them.

They return a loss per sample, of half the size for squared errors, so what is left is the sum and
the scaling by 1/n. Where exp and log take the time, the scaling is free as a sample weight; where
memory does, a multiplication in place is faster than the weights' additional stream.
"""

from itertools import repeat

import numpy as np
from sklearn._loss import loss as sklearn

from benchmarks.contenders.base import LossContender
from benchmarks.works import Array

# The class, its arguments, and what its loss must be multiplied by.
LOSSES = {
    "cross_entropy": (sklearn.HalfMultinomialLoss, {}, 1.0),
    "binary_cross_entropy_with_logits": (sklearn.HalfBinomialLoss, {}, 1.0),
    "poisson_nll": (sklearn.HalfPoissonLoss, {}, 1.0),
    "mse": (sklearn.HalfSquaredError, {}, 2.0),
    "mae": (sklearn.AbsoluteError, {}, 1.0),
    "huber": (sklearn.HuberLoss, {"delta": 1.0}, 1.0),
    "smooth_l1": (sklearn.HuberLoss, {"delta": 1.0}, 1.0),
    "quantile": (sklearn.PinballLoss, {"quantile": 0.5}, 1.0),
}
_WEIGHTED = ("cross_entropy", "binary_cross_entropy_with_logits", "poisson_nll")


class Sklearn(LossContender):
    losses = LOSSES

    def compile(self) -> None:
        kind, arguments, factor = LOSSES[self.task.kind]
        if self.task.loss.labels:
            arguments = {"n_classes": self.task.shape[1]}
        self.kernel = kind(**arguments).closs.loss_gradient
        self.scale = factor / self.task.values

    def allocate(self, pred: Array, target: Array) -> None:
        self.pred = pred.copy()
        self.target = target.astype(np.float32)  # labels too
        self.losses = np.empty(self.task.values, np.float32)
        self.grad = np.empty_like(pred)
        self.weights = None
        if self.task.kind in _WEIGHTED:
            self.weights = np.full(self.task.values, self.scale, np.float32)

    def run(self, times: int) -> None:
        kernel, weights = self.kernel, self.weights
        arguments = (self.target, self.pred, weights, self.losses, self.grad, self.threads)
        losses, grad, total = self.losses, self.grad, np.add.reduce
        scale, multiply = np.array(self.scale, np.float32), np.multiply
        for _ in repeat(None, times):
            kernel(*arguments)
            value = total(losses)
            if weights is None:
                value = value * scale
                multiply(grad, scale, grad)
        self.value = float(value)

    def result(self) -> tuple[float, Array]:
        return self.value, self.grad
