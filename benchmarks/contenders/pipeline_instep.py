"""instep: a step with its options."""

from itertools import repeat
from typing import Any

import numpy as np

import instep
from benchmarks.contenders.pipeline import PipelineContender
from benchmarks.pipelines import CLIP_NORM, EMA_DECAY
from benchmarks.works import Array


class Instep(PipelineContender):
    def allocate(self, parameters: list[Array]) -> None:
        pipeline, options = self.task.pipeline, dict[str, Any](self.hyper)
        if pipeline.around:
            options |= {"clip_norm": CLIP_NORM, "ema_decay": EMA_DECAY, "zero_grads": True}
        if pipeline.state_dtype != "float32":
            options["state_dtype"] = pipeline.state_dtype
        self.parameters = [self._stored(array) for array in parameters]
        self.instep = instep.AdamW(self.parameters, threads=self.threads, **options)

    def _stored(self, array: Array) -> Array:
        if not self.task.pipeline.mixed:
            return array.copy()
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)

    def set_gradients(self, gradients: list[Array]) -> None:
        self.gradients = [self._stored(array) for array in gradients]

    def step(self) -> None:
        self.instep.step(self.gradients)

    def run(self, times: int) -> None:
        step, gradients = self.instep.step, self.gradients
        if self.task.pipeline.around:
            one = gradients[0]
            for _ in repeat(None, times):
                one[0] += 1  # something to clip: the step before has zeroed all
                step(gradients)
        else:
            for _ in repeat(None, times):
                step(gradients)

    def values(self) -> list[Array]:
        return self.instep.master if self.task.pipeline.mixed else self.parameters

    def average_values(self) -> list[Array]:
        return self.instep.ema

    def is_complete(self) -> bool:
        if self.task.pipeline.around:
            return not any(gradient.any() for gradient in self.gradients)
        if self.task.pipeline.mixed:
            pairs = zip(self.parameters, self.instep.master, strict=True)
            return all(np.array_equal(p, m.astype(p.dtype)) for p, m in pairs)
        return True

    @staticmethod
    def note() -> str:
        return f"instruction set {instep.isa()} of {', '.join(instep.available_isas())}"


def state_bytes(state_dtype: str) -> float:
    """Bytes of state per parameter that an AdamW keeps, scales included."""
    p = np.zeros(65_536, np.float32)
    opt = instep.AdamW(p, state_dtype=state_dtype)
    opt.step(np.ones_like(p))
    arrays = [v for entry in opt.state.values() for v in entry.values() if np.ndim(v)]
    return sum(array.nbytes for array in arrays) / p.size
