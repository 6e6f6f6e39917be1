"""torch.optim: the fused C++ kernels, and what a user gets who asks for nothing."""

import inspect
from itertools import repeat
from typing import Any

import torch

from benchmarks.contenders.base import GivenGradients, StepContender
from benchmarks.works import Array, StepTask


class TorchDefault(StepContender):
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @staticmethod
    def start(threads: int) -> None:
        torch.set_num_threads(threads)

    def allocate(self, parameters: list[Array]) -> None:
        # A clone lies in torch's own allocation, not in NumPy's.
        self.parameters = [torch.from_numpy(a).clone().requires_grad_() for a in parameters]
        kind = getattr(torch.optim, self.optimizer.class_name)
        self.torch = kind(self.parameters, **self.options, **self.hyper)

    def set_gradients(self, gradients: list[Array]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient).clone()

    def step(self) -> None:
        self.torch.step()

    def run(self, times: int) -> None:
        step = self.torch.step
        for _ in repeat(None, times):
            step()

    def values(self) -> list[Array]:
        return [parameter.detach().numpy() for parameter in self.parameters]


class TorchForeach(TorchDefault):
    options = {"foreach": True}  # noqa: RUF012 - never changed


class TorchFused(TorchDefault):
    options = {"fused": True}  # noqa: RUF012 - never changed

    @classmethod
    def unsupported(cls, task: StepTask) -> str | None:
        name = task.optimizer.class_name
        if "fused" not in inspect.signature(getattr(torch.optim, name)).parameters:
            return f"torch has no fused {name}"
        return None


class TorchDefaultGiven(GivenGradients, TorchDefault):
    def receive(self) -> None:
        """A view of NumPy's memory with its strides, which the plain loop heeds."""
        for parameter, given in zip(self.parameters, self.given, strict=True):
            parameter.grad = torch.from_numpy(given)


class TorchForeachGiven(TorchForeach, TorchDefaultGiven):
    pass


class TorchFusedGiven(GivenGradients, TorchFused):
    def receive(self) -> None:
        """The fused kernel walks memory as if there were no strides: it needs a dense copy."""
        for parameter, given in zip(self.parameters, self.given, strict=True):
            parameter.grad.copy_(torch.from_numpy(given))
