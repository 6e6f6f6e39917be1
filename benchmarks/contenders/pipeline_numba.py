"""numba's plain step with float32 states: what smaller ones are to keep up with."""

from benchmarks.contenders.numba_step import Numba as NumbaStep
from benchmarks.contenders.pipeline import PipelineContender
from benchmarks.pipelines import PipelineTask


class Numba(PipelineContender, NumbaStep):
    @classmethod
    def unsupported(cls, task: PipelineTask) -> str | None:
        return None if task.pipeline.states_only else "raced at the plain step alone"


class NumbaFastmath(Numba):
    fastmath = True
