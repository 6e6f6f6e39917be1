"""The ceiling of each kind of step: roofline.c with the streams that it must move."""

import numpy as np

from benchmarks.contenders.pipeline import PipelineContender
from benchmarks.contenders.roofline import StepRoofline
from benchmarks.works import Array

_STEP_OF_TWO_STATES, _AROUND, _MIXED = 2, 6, 7  # what roofline.c calls them
_HALVES, _BYTES = 8, 9


class Roofline(PipelineContender, StepRoofline):
    """Not an optimizer, so there is nothing to verify but that it runs."""

    def error(self) -> float:
        self.renew()
        self.run(1)
        return 0.0

    def allocate(self, parameters: list[Array]) -> None:
        pipeline = self.task.pipeline
        kinds = {"bfloat16": (np.uint16, _HALVES), "8bit": (np.uint8, _BYTES)}
        state, self.kind = kinds.get(pipeline.state_dtype, (np.float32, _STEP_OF_TWO_STATES))
        self.parameters = [array.copy() for array in parameters]
        self.states = [[np.zeros(a.shape, state) for _ in range(2)] for a in parameters]
        if pipeline.around:
            self.kind = _AROUND
            self.states = [[*s, a.copy()] for s, a in zip(self.states, parameters, strict=True)]
        if pipeline.mixed:
            self.kind = _MIXED
            self.states = [[*s, np.zeros(s[0].shape, np.uint16)] for s in self.states]

    def set_gradients(self, gradients: list[Array]) -> None:
        mixed = self.task.pipeline.mixed
        self.gradients = [np.ones(a.shape, np.uint16) if mixed else a.copy() for a in gradients]
        groups = zip(self.parameters, self.gradients, self.states, strict=True)
        self.point_to([(p, g, *states) for p, g, states in groups], self.kind, 1e-9)
