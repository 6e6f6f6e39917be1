"""The update written as one compiled loop per array: what a NumPy user can do with numba.

``error_model="numpy"`` and float32 coefficients, without which numba neither vectorizes the
division nor stays in float32. `prange` is a plain loop unless ``parallel=True``.
"""

import functools
from typing import Any

import numba
import numpy as np

from benchmarks.contenders.base import GivenGradients, StepContender
from benchmarks.works import Array, StepTask

_f32 = np.float32


def sgd(p, g, lr):
    lr = _f32(lr)
    for i in numba.prange(p.size):
        p[i] -= lr * g[i]


def sgd_momentum(p, g, buffer, lr, momentum):
    lr, momentum = _f32(lr), _f32(momentum)
    for i in numba.prange(p.size):
        b = momentum * buffer[i] + g[i]
        buffer[i] = b
        p[i] -= lr * b


def rmsprop_plain(p, g, square, lr, alpha, one_minus_alpha, eps):
    lr, alpha, one_minus_alpha, eps = _f32(lr), _f32(alpha), _f32(one_minus_alpha), _f32(eps)
    for i in numba.prange(p.size):
        v = alpha * square[i] + one_minus_alpha * (g[i] * g[i])
        square[i] = v
        p[i] -= lr * g[i] / (np.sqrt(v) + eps)


def rmsprop_momentum(p, g, square, buffer, lr, alpha, one_minus_alpha, eps, momentum):
    lr, alpha, one_minus_alpha = _f32(lr), _f32(alpha), _f32(one_minus_alpha)
    eps, momentum = _f32(eps), _f32(momentum)
    for i in numba.prange(p.size):
        v = alpha * square[i] + one_minus_alpha * (g[i] * g[i])
        b = momentum * buffer[i] + g[i] / (np.sqrt(v) + eps)
        square[i] = v
        buffer[i] = b
        p[i] -= lr * b


def rmsprop_centered(p, g, square, mean, lr, alpha, one_minus_alpha, eps):
    lr, alpha, one_minus_alpha = _f32(lr), _f32(alpha), _f32(one_minus_alpha)
    eps, zero = _f32(eps), _f32(0)
    for i in numba.prange(p.size):
        v = alpha * square[i] + one_minus_alpha * (g[i] * g[i])
        a = alpha * mean[i] + one_minus_alpha * g[i]
        variance = v - a * a
        variance = variance if variance > zero else zero
        square[i] = v
        mean[i] = a
        p[i] -= lr * g[i] / (np.sqrt(variance) + eps)


def rmsprop(p, g, square, mean, buffer, lr, alpha, one_minus_alpha, eps, momentum):
    lr, alpha, one_minus_alpha = _f32(lr), _f32(alpha), _f32(one_minus_alpha)
    eps, momentum, zero = _f32(eps), _f32(momentum), _f32(0)
    for i in numba.prange(p.size):
        v = alpha * square[i] + one_minus_alpha * (g[i] * g[i])
        a = alpha * mean[i] + one_minus_alpha * g[i]
        variance = v - a * a
        variance = variance if variance > zero else zero
        b = momentum * buffer[i] + g[i] / (np.sqrt(variance) + eps)
        square[i] = v
        mean[i] = a
        buffer[i] = b
        p[i] -= lr * b


def adamw(p, g, m, v, beta1, one_minus_beta1, beta2, one_minus_beta2, decay, scale, eps, size):
    beta1, one_minus_beta1 = _f32(beta1), _f32(one_minus_beta1)
    beta2, one_minus_beta2 = _f32(beta2), _f32(one_minus_beta2)
    decay, scale, eps, size = _f32(decay), _f32(scale), _f32(eps), _f32(size)
    for i in numba.prange(p.size):
        m_i = beta1 * m[i] + one_minus_beta1 * g[i]
        v_i = beta2 * v[i] + one_minus_beta2 * (g[i] * g[i])
        m[i] = m_i
        v[i] = v_i
        p[i] = decay * p[i] - size * m_i / (np.sqrt(v_i) * scale + eps)


def amsgrad(
    p, g, m, v, top, beta1, one_minus_beta1, beta2, one_minus_beta2, decay, scale, eps, size
):
    beta1, one_minus_beta1 = _f32(beta1), _f32(one_minus_beta1)
    beta2, one_minus_beta2 = _f32(beta2), _f32(one_minus_beta2)
    decay, scale, eps, size = _f32(decay), _f32(scale), _f32(eps), _f32(size)
    for i in numba.prange(p.size):
        m_i = beta1 * m[i] + one_minus_beta1 * g[i]
        v_i = beta2 * v[i] + one_minus_beta2 * (g[i] * g[i])
        top_i = v_i if v_i > top[i] else top[i]
        m[i] = m_i
        v[i] = v_i
        top[i] = top_i
        p[i] = decay * p[i] - size * m_i / (np.sqrt(top_i) * scale + eps)


_BODIES = {
    "sgd": sgd,
    "sgd_momentum": sgd_momentum,
    "rmsprop": rmsprop_plain,
    "rmsprop_momentum": rmsprop_momentum,
    "rmsprop_centered": rmsprop_centered,
    "rmsprop_centered_momentum": rmsprop,
    "adam": adamw,
    "adam_amsgrad": amsgrad,
}


@functools.cache
def _compiled(rule: str, fastmath: bool, parallel: bool) -> Any:
    options = {"fastmath": fastmath, "parallel": parallel}
    return numba.njit(error_model="numpy", **options)(_BODIES[rule])


class Numba(StepContender):
    fastmath = False

    @staticmethod
    def start(threads: int) -> None:
        numba.set_num_threads(threads)

    def compile(self) -> None:
        self.kernel = _compiled(self.optimizer.rule, self.fastmath, self.threads > 1)
        self.coefficients = getattr(self, f"_{self.optimizer.class_name.lower()}")

    @classmethod
    def unsupported(cls, task: StepTask) -> str | None:
        return None if task.optimizer.rule in _BODIES else f"no loop for {task.optimizer.rule}"

    def allocate(self, parameters: list[Array]) -> None:
        self.steps = 0
        self.shapes = [array.shape for array in parameters]
        self.parameters = [array.flatten() for array in parameters]
        self.states = [
            tuple(np.zeros_like(array) for _ in range(self.optimizer.states))
            for array in self.parameters
        ]

    def set_gradients(self, gradients: list[Array]) -> None:
        arrays = zip(self.parameters, gradients, self.states, strict=True)
        self.arguments = [(p, g.flatten(), *states) for p, g, states in arrays]

    def step(self) -> None:
        self.steps += 1
        kernel, coefficients = self.kernel, self.coefficients()
        for arrays in self.arguments:
            kernel(*arrays, *coefficients)

    def values(self) -> list[Array]:
        pairs = zip(self.parameters, self.shapes, strict=True)
        return [array.reshape(shape) for array, shape in pairs]

    @staticmethod
    def note() -> str | None:
        try:
            return f"threading layer {numba.threading_layer()}"
        except ValueError:  # nothing has run in parallel
            return None

    def _sgd(self) -> tuple[float, ...]:
        return self.hyper["lr"], *self._momentum()

    def _momentum(self) -> tuple[float, ...]:
        return (self.hyper["momentum"],) if "momentum" in self.hyper else ()

    def _rmsprop(self) -> tuple[float, ...]:
        hyper: dict[str, Any] = self.hyper
        alpha = hyper["alpha"]
        return hyper["lr"], alpha, 1.0 - alpha, 1e-8, *self._momentum()

    def _adamw(self) -> tuple[float, ...]:
        lr, (beta1, beta2) = self.hyper["lr"], (0.9, 0.999)
        decay = 1.0 - lr * self.hyper["weight_decay"]
        scale = (1.0 - beta2**self.steps) ** -0.5
        size = lr / (1.0 - beta1**self.steps)
        return beta1, 1.0 - beta1, beta2, 1.0 - beta2, decay, scale, 1e-8, size


class NumbaFastmath(Numba):
    fastmath = True


class NumbaGiven(GivenGradients, Numba):
    def receive(self) -> None:
        for (_, gradient, *_), given in zip(self.arguments, self.given, strict=True):
            np.copyto(gradient.reshape(given.shape), given)


class NumbaFastmathGiven(NumbaGiven):
    fastmath = True
