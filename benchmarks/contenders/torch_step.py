"""torch.optim: the fused C++ kernels, and what a user gets who asks for nothing."""

import inspect
from itertools import repeat
from typing import Any

import torch

from benchmarks.contenders.base import StepContender
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


class TorchFused(TorchDefault):
    options = {"fused": True}  # noqa: RUF012 - never changed

    @classmethod
    def unsupported(cls, task: StepTask) -> str | None:
        name = task.optimizer.class_name
        if "fused" not in inspect.signature(getattr(torch.optim, name)).parameters:
            return f"torch has no fused {name}"
        return None
