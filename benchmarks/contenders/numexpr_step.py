"""numexpr: the update as a user writes it, each expression one pass over memory in blocks.

Coefficients are float32 scalars, without which numexpr computes in float64.
"""

from typing import Any

import numexpr
import numpy as np

from benchmarks.contenders.base import GivenGradients, StepContender
from benchmarks.works import Array, StepTask

# Per rule: what is assigned to what, in turn. p, g and the states s0, s1, s2; t is scratch.
_SQUARE = ("s0", "alpha * s0 + one_minus_alpha * (g * g)")
_MEAN = ("s1", "alpha * s1 + one_minus_alpha * g")
_VARIANCE = ("t", "s0 - s1 * s1")
_CENTERED = "g / (sqrt(where(t > 0, t, zero)) + eps)"
_MOMENTS = [
    ("s0", "beta1 * s0 + one_minus_beta1 * g"),
    ("s1", "beta2 * s1 + one_minus_beta2 * (g * g)"),
]
_ADAM = "decay * p - size * s0 / (sqrt({}) * scale + eps)"
_EXPRESSIONS: dict[str, list[tuple[str, str]]] = {
    "sgd": [("p", "p - lr * g")],
    "sgd_momentum": [("s0", "momentum * s0 + g"), ("p", "p - lr * s0")],
    "rmsprop": [_SQUARE, ("p", "p - lr * g / (sqrt(s0) + eps)")],
    "rmsprop_momentum": [
        _SQUARE,
        ("s1", "momentum * s1 + g / (sqrt(s0) + eps)"),
        ("p", "p - lr * s1"),
    ],
    "rmsprop_centered": [_SQUARE, _MEAN, _VARIANCE, ("p", f"p - lr * {_CENTERED}")],
    "rmsprop_centered_momentum": [
        _SQUARE,
        _MEAN,
        _VARIANCE,
        ("s2", f"momentum * s2 + {_CENTERED}"),
        ("p", "p - lr * s2"),
    ],
    "adam": [*_MOMENTS, ("p", _ADAM.format("s1"))],
    "adam_amsgrad": [*_MOMENTS, ("s2", "where(s1 > s2, s1, s2)"), ("p", _ADAM.format("s2"))],
}


class Numexpr(StepContender):
    @staticmethod
    def start(threads: int) -> None:
        numexpr.set_num_threads(threads)

    @classmethod
    def unsupported(cls, task: StepTask) -> str | None:
        rule = task.optimizer.rule
        return None if rule in _EXPRESSIONS else f"no expressions for {rule}"

    def allocate(self, parameters: list[Array]) -> None:
        self.steps = 0
        self.parameters = [array.copy() for array in parameters]
        scratch = np.empty(max(array.size for array in parameters), np.float32)
        self.arrays = []
        for p in self.parameters:
            states = {f"s{k}": np.zeros_like(p) for k in range(self.optimizer.states)}
            self.arrays.append({"p": p, "t": scratch[: p.size].reshape(p.shape), **states})

    def set_gradients(self, gradients: list[Array]) -> None:
        for arrays, gradient in zip(self.arrays, gradients, strict=True):
            arrays["g"] = gradient.copy()

    def step(self) -> None:
        self.steps += 1
        expressions, coefficients = _EXPRESSIONS[self.optimizer.rule], self._coefficients()
        for arrays in self.arrays:
            names = arrays | coefficients
            for target, expression in expressions:
                numexpr.evaluate(expression, names, {}, out=arrays[target])

    def values(self) -> list[Array]:
        return self.parameters

    def _coefficients(self) -> dict[str, Any]:
        hyper: dict[str, float] = {"zero": 0.0, "eps": 1e-8, "lr": self.hyper["lr"]}
        hyper["momentum"] = self.hyper.get("momentum", 0.0)
        if "alpha" in self.hyper:
            hyper |= {"alpha": self.hyper["alpha"], "one_minus_alpha": 1 - self.hyper["alpha"]}
        if self.optimizer.class_name == "AdamW":
            beta1, beta2 = 0.9, 0.999
            hyper |= {"beta1": beta1, "one_minus_beta1": 1 - beta1}
            hyper |= {"beta2": beta2, "one_minus_beta2": 1 - beta2}
            hyper["decay"] = 1 - self.hyper["lr"] * self.hyper["weight_decay"]
            hyper["scale"] = (1 - beta2**self.steps) ** -0.5
            hyper["size"] = self.hyper["lr"] / (1 - beta1**self.steps)
        return {name: np.float32(value) for name, value in hyper.items()}


class NumexprGiven(GivenGradients, Numexpr):
    def receive(self) -> None:
        """numexpr reads them as they lie."""
        for arrays, given in zip(self.arrays, self.given, strict=True):
            arrays["g"] = given
