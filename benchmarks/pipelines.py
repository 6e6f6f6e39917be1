"""What is timed of all that a step does: what loops do around the update, and smaller states.

Needs NumPy alone, so that every process of a benchmark can read these tables.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.works import OPTIMIZERS, RULES, Optimizer, Work

ADAMW = OPTIMIZERS["adamw"]
CLIP_NORM = 1.0
EMA_DECAY = 0.999


@dataclass(frozen=True)
class Pipeline:
    """One kind of step. All of them update with AdamW."""

    bytes_per_element: float  # that must move where arrays lie in memory
    hyper: dict[str, Any]  # of the rule
    bound: float  # largest error of a parameter against the float64 twin, of the distance travelled
    state_dtype: str = "float32"
    around: bool = False  # clip by the global norm, average the parameters, zero the gradients
    mixed: bool = False  # bfloat16 gradients in, float32 master, bfloat16 parameters out

    @property
    def states_only(self) -> bool:
        """Does it differ from the plain step in its states alone? Then that is the peers' task."""
        return not (self.around or self.mixed)


# Zeroed gradients let the momentum decay; with beta1 = 0.9 it would be subnormal, and slow for
# those who do not mind, before a batch ends.
_SLOW = {**RULES[ADAMW.rule][1], "betas": (0.99, 0.999)}
_USUAL = RULES[ADAMW.rule][1]

PIPELINES: dict[str, Pipeline] = {
    # Parameter, two states and average read and written, the gradient read twice and zeroed.
    "clip, AdamW, EMA, zero": Pipeline(44, _SLOW, 1e-4, around=True),
    # As the plain step, with a gradient of two bytes and two bytes of parameter written.
    "bfloat16 in and out": Pipeline(28, _USUAL, 1e-4, mixed=True),
    "float32 states": Pipeline(28, _USUAL, 1e-4),
    # Rounded without bias, so that errors of a few steps are those of single roundings: 2^-8 of
    # a bfloat16, 1/127 of the largest of a block.
    "bfloat16 states": Pipeline(20, _USUAL, 0.05, "bfloat16"),
    "8-bit states": Pipeline(16 + 4 * 4 / 128, _USUAL, 0.5, "8bit"),
}

WORKS: dict[str, Work] = {
    "64K": Work(((65_536,),), (1, 2), ("adamw",)),
    "1000x100": Work(((100,),) * 1000, (1,), ("adamw",)),
    "16M": Work(((16_777_216,),), (2,), ("adamw",)),
    "64M": Work(((67_108_864,),), (1, 2), ("adamw",)),
}


class PipelineTask(NamedTuple):
    """A kind of step over one work's arrays."""

    pipeline: Pipeline
    work: Work

    @property
    def optimizer(self) -> Optimizer:
        return ADAMW

    @property
    def elements(self) -> int:
        return self.work.elements

    @property
    def traffic(self) -> int:
        """Bytes that a step must move."""
        return round(self.elements * self.pipeline.bytes_per_element)

    @property
    def memory(self) -> int:
        """Bytes that a contender needs: parameter, gradient, states, average, two for verifying."""
        return 4 * self.elements * 7


PIPELINE_TASKS = {
    (kind, name): PipelineTask(pipeline, work)
    for name, work in WORKS.items()
    for kind, pipeline in PIPELINES.items()
}
