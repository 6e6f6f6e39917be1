"""What a contender of `python -m benchmarks.bench_pipeline` shares with the others."""

import numpy as np

from benchmarks.contenders.base import StepContender
from benchmarks.pipelines import CLIP_NORM, EMA_DECAY, PIPELINE_TASKS, PipelineTask
from benchmarks.verify import STEPS, positions, sample
from benchmarks.works import Array, gradients, load_reference, parameters


class PipelineContender(StepContender):
    """One library at one kind of step."""

    tasks = PIPELINE_TASKS
    task: PipelineTask

    def __init__(self, task: PipelineTask, threads: int) -> None:
        super().__init__(task, threads)
        self.hyper = dict(task.pipeline.hyper)

    @property
    def bound(self) -> float:
        return self.task.pipeline.bound

    def renew(self) -> None:
        shapes = self.task.work.shapes
        self.allocate(self._start())
        self.set_gradients(self._rounded(gradients(shapes, 0)))

    def _start(self) -> list[Array]:
        return self._rounded(parameters(self.task.work.shapes))

    def _rounded(self, arrays: list[Array]) -> list[Array]:
        """To bfloat16 and back, where that is what comes in."""
        if not self.task.pipeline.mixed:
            return arrays
        import ml_dtypes

        return [array.astype(ml_dtypes.bfloat16).astype(np.float32) for array in arrays]

    def error(self) -> float:
        """Steps with new gradients each: the largest error of parameters and averages against the
        float64 twin, over the largest distance travelled. Gradients must then be zero, copies the
        rounded parameters."""
        start = self._start()
        at = [positions(array.size) for array in start]
        self.allocate(start)
        given, norms = [], []
        for step in range(STEPS):
            grads = self._rounded(gradients(self.task.work.shapes, step))
            self.set_gradients(grads)
            self.run(1)
            if self.task.pipeline.around:
                grads[0].flat[0] += 1  # as `run` does
            given.append(sample(grads, at))
            norms.append(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads)))
        expected, average = self._twin(sample(start, at), given, norms)
        travelled = np.max(np.abs(np.concatenate(expected) - np.concatenate(sample(start, at))))
        found, wanted = sample(self.values(), at), expected
        if self.task.pipeline.around:
            found, wanted = found + sample(self.average_values(), at), expected + average
        error = np.max(np.abs(np.concatenate(found) - np.concatenate(wanted)))
        return float(error / travelled) if self.is_complete() else float("nan")

    def _twin(
        self, params: list[Array], grads: list[list[Array]], norms: list[float]
    ) -> tuple[list[Array], list[Array]]:
        """Parameters, and their averages, in float64."""
        rule = load_reference().RULES["adamw"]
        average: list[Array] = [p.copy() for p in params]
        states: list[dict[str, Array]] = [{} for _ in params]
        for t, (step, norm) in enumerate(zip(grads, norms, strict=True), 1):
            factor = min(1.0, CLIP_NORM / norm) if self.task.pipeline.around else 1.0
            for i, grad in enumerate(step):
                params[i], states[i] = rule(
                    params[i], factor * grad, states[i], step=t, **self.hyper
                )
                average[i] += (1 - EMA_DECAY) * (params[i] - average[i])
        return params, average

    def average_values(self) -> list[Array]:
        """The moving averages as NumPy arrays; for kinds that have them."""
        raise NotImplementedError

    def is_complete(self) -> bool:
        """Is what else a step of this kind leaves behind as it should be?"""
        return True
