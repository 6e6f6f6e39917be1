"""DeepSpeed's CPUAdam, a C++ kernel with AVX-512: compiled here, for this CPU, when first used.

Not in the extra ``bench``: see benchmarks/README.md for how to install it.
"""

import logging
import os
from typing import Any

import torch

# It looks for a GPU and talks about it otherwise.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.disable(logging.WARNING)

from deepspeed.ops.adam import DeepSpeedCPUAdam  # noqa: E402 - after the above

from benchmarks.contenders.base import GivenGradients  # noqa: E402
from benchmarks.contenders.torch_step import TorchDefault  # noqa: E402
from benchmarks.works import Array, StepTask  # noqa: E402


class CPUAdam(TorchDefault):
    @staticmethod
    def start(threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            CPUAdam._make([torch.nn.Parameter(torch.ones(1))])
        except Exception as error:
            reason = f"deepspeed, or rather its CPUAdam, which could not be built: {error}"
            raise ModuleNotFoundError(reason, name=reason) from None

    @staticmethod
    def _make(parameters: list[Any], **hyper: Any) -> DeepSpeedCPUAdam:
        return DeepSpeedCPUAdam(parameters, adamw_mode=True, **hyper)

    @classmethod
    def unsupported(cls, task: StepTask) -> str | None:
        return None if task.optimizer.rule == "adam" else f"CPUAdam has no {task.optimizer.rule}"

    def allocate(self, parameters: list[Array]) -> None:
        self.parameters = [torch.from_numpy(a).clone().requires_grad_() for a in parameters]
        self.torch = self._make(self.parameters, **self.hyper)


class CPUAdamGiven(GivenGradients, CPUAdam):
    def receive(self) -> None:
        """The kernel walks memory as if there were no strides: it needs a dense copy."""
        for parameter, given in zip(self.parameters, self.given, strict=True):
            parameter.grad.copy_(torch.from_numpy(given))
