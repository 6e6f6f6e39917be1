"""torch: its best sequence around the fused AdamW, which is also who keeps float32 states."""

from itertools import repeat

import torch

from benchmarks.contenders.pipeline import PipelineContender
from benchmarks.contenders.torch_step import TorchFused
from benchmarks.pipelines import CLIP_NORM, EMA_DECAY, PipelineTask
from benchmarks.works import Array

Tensor = torch.Tensor


class Torch(PipelineContender, TorchFused):
    """Clipping by clip_grad_norm_, averaging and zeroing by one foreach call each; for bfloat16 in
    and out, masters whose gradients are converted and which are copied back by one each."""

    @property
    def bound(self) -> float:
        """clip_grad_norm_ sums in float32: on 64M elements it scales by 0.03 % too much."""
        return max(super().bound, 1e-3)

    def allocate(self, parameters: list[Array]) -> None:
        super().allocate(parameters)
        if self.task.pipeline.around:
            self.averages = [p.detach().clone() for p in self.parameters]
        if self.task.pipeline.mixed:
            self.copies = [p.detach().to(torch.bfloat16) for p in self.parameters]

    def set_gradients(self, gradients: list[Array]) -> None:
        super().set_gradients(gradients)
        self.wide: list[Tensor] = [p.grad for p in self.parameters]
        if self.task.pipeline.mixed:
            self.narrow = [g.to(torch.bfloat16) for g in self.wide]

    def run(self, times: int) -> None:
        if self.task.pipeline.around:
            self._run_around(times)
        elif self.task.pipeline.mixed:
            self._run_mixed(times)
        else:
            super().run(times)

    @torch.no_grad()
    def _run_around(self, times: int) -> None:
        step, parameters, averages = self.torch.step, self.parameters, self.averages
        clip, grads, weight = torch.nn.utils.clip_grad_norm_, self.wide, 1 - EMA_DECAY
        one = grads[0].numpy()
        for _ in repeat(None, times):
            one[0] += 1  # something to clip: the step before has zeroed all
            clip(parameters, CLIP_NORM, foreach=True)
            step()
            torch._foreach_lerp_(averages, parameters, weight)
            torch._foreach_zero_(grads)

    @torch.no_grad()
    def _run_mixed(self, times: int) -> None:
        step, masters, wide = self.torch.step, self.parameters, self.wide
        for _ in repeat(None, times):
            torch._foreach_copy_(wide, self.narrow)
            step()
            torch._foreach_copy_(self.copies, masters)

    def average_values(self) -> list[Array]:
        return [average.numpy() for average in self.averages]

    def is_complete(self) -> bool:
        if self.task.pipeline.around:
            return not any(bool(g.any()) for g in self.wide)
        if self.task.pipeline.mixed:
            pairs = zip(self.copies, self.parameters, strict=True)
            return all(bool((c == p.to(torch.bfloat16)).all()) for c, p in pairs)
        return True

    @classmethod
    def unsupported(cls, task: PipelineTask) -> str | None:
        return None
