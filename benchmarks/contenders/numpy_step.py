"""Careful NumPy: in place, no temporaries, one scratch buffer for all arrays."""

import numpy as np

from benchmarks.contenders.base import GivenGradients, StepContender
from benchmarks.works import Array, StepTask

_UPDATES = {
    "sgd": "_sgd",
    "sgd_momentum": "_sgd_momentum",
    "rmsprop": "_rmsprop",
    "rmsprop_momentum": "_rmsprop",
    "rmsprop_centered": "_rmsprop",
    "rmsprop_centered_momentum": "_rmsprop",
    "adam": "_adam",
    "adam_amsgrad": "_adam",
}


class NumpyInPlace(StepContender):
    def compile(self) -> None:
        self.update = getattr(self, _UPDATES[self.optimizer.rule])

    @classmethod
    def unsupported(cls, task: StepTask) -> str | None:
        return None if task.optimizer.rule in _UPDATES else f"no form of {task.optimizer.rule}"

    def allocate(self, parameters: list[Array]) -> None:
        self.steps = 0
        self.parameters = [array.copy() for array in parameters]
        self.states = [
            [np.zeros_like(array) for _ in range(self.optimizer.states)] for array in parameters
        ]
        scratch = np.empty((2, max(array.size for array in parameters)), np.float32)
        self.scratch = [
            [row[: array.size].reshape(array.shape) for row in scratch] for array in parameters
        ]

    def set_gradients(self, gradients: list[Array]) -> None:
        self.gradients = [array.copy() for array in gradients]

    def step(self) -> None:
        self.steps += 1
        self.update()

    def values(self) -> list[Array]:
        return self.parameters

    def _arrays(self):
        return zip(self.parameters, self.gradients, self.states, self.scratch, strict=True)

    def _sgd(self) -> None:
        lr = self.hyper["lr"]
        for p, g, _, (t, _) in self._arrays():
            np.multiply(g, lr, out=t)
            np.subtract(p, t, out=p)

    def _sgd_momentum(self) -> None:
        lr, momentum = self.hyper["lr"], self.hyper["momentum"]
        for p, g, (b,), (t, _) in self._arrays():
            np.multiply(b, momentum, out=b)
            np.add(b, g, out=b)
            np.multiply(b, lr, out=t)
            np.subtract(p, t, out=p)

    def _rmsprop(self) -> None:
        lr, alpha, momentum = self.hyper["lr"], self.hyper["alpha"], self.hyper.get("momentum")
        centered = self.hyper.get("centered", False)
        for p, g, (v, *more), (t, u) in self._arrays():
            np.multiply(v, alpha, out=v)
            np.multiply(g, g, out=t)
            np.multiply(t, 1 - alpha, out=t)
            np.add(v, t, out=v)
            if centered:
                a = more[0]
                np.multiply(a, alpha, out=a)
                np.multiply(g, 1 - alpha, out=t)
                np.add(a, t, out=a)
                np.multiply(a, a, out=t)
                np.subtract(v, t, out=t)
                np.maximum(t, 0, out=t)
            np.sqrt(t if centered else v, out=t)
            np.add(t, 1e-8, out=t)
            np.divide(g, t, out=u)
            if momentum is not None:
                b = more[-1]
                np.multiply(b, momentum, out=b)
                np.add(b, u, out=b)
                u = b
            np.multiply(u, lr, out=t)
            np.subtract(p, t, out=p)

    def _adam(self) -> None:
        lr, (beta1, beta2) = self.hyper["lr"], (0.9, 0.999)
        decay = 1 - lr * self.hyper["weight_decay"]
        root_scale = (1 - beta2**self.steps) ** -0.5
        step_size = lr / (1 - beta1**self.steps)
        for p, g, (m, v, *top), (t, _) in self._arrays():
            np.multiply(m, beta1, out=m)
            np.multiply(g, 1 - beta1, out=t)
            np.add(m, t, out=m)
            np.multiply(v, beta2, out=v)
            np.multiply(g, g, out=t)
            np.multiply(t, 1 - beta2, out=t)
            np.add(v, t, out=v)
            if top:
                np.maximum(top[0], v, out=top[0])
            np.sqrt(top[0] if top else v, out=t)
            np.multiply(t, root_scale, out=t)
            np.add(t, 1e-8, out=t)
            np.divide(m, t, out=t)
            np.multiply(t, step_size, out=t)
            np.multiply(p, decay, out=p)
            np.subtract(p, t, out=p)


class NumpyGiven(GivenGradients, NumpyInPlace):
    def receive(self) -> None:
        """NumPy reads them as they lie."""
        self.gradients = self.given
