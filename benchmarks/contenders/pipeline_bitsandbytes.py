"""bitsandbytes: AdamW with 8-bit states, on the CPU."""

from itertools import repeat

import bitsandbytes
import torch

from benchmarks.contenders.pipeline import PipelineContender
from benchmarks.pipelines import PipelineTask
from benchmarks.works import Array


class AdamW8bit(PipelineContender):
    @staticmethod
    def start(threads: int) -> None:
        torch.set_num_threads(threads)

    @classmethod
    def unsupported(cls, task: PipelineTask) -> str | None:
        return None if task.pipeline.state_dtype == "8bit" else "raced with 8-bit states alone"

    def allocate(self, parameters: list[Array]) -> None:
        self.parameters = [torch.from_numpy(a).clone().requires_grad_() for a in parameters]
        self.optimizer_8bit = bitsandbytes.optim.AdamW8bit(self.parameters, **self.hyper)

    def set_gradients(self, gradients: list[Array]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient).clone()

    def step(self) -> None:
        self.optimizer_8bit.step()

    def run(self, times: int) -> None:
        step = self.optimizer_8bit.step
        for _ in repeat(None, times):
            step()

    def values(self) -> list[Array]:
        return [parameter.detach().numpy() for parameter in self.parameters]
