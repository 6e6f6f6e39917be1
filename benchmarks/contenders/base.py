"""What a contender must do to be verified and timed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import repeat
from typing import Any, ClassVar

from benchmarks import verify
from benchmarks.works import (
    LAYOUTS,
    LOSS_TASKS,
    STEPS,
    Array,
    LossTask,
    StepTask,
    gradients,
    laid_out,
    parameters,
)


class Contender(ABC):
    """One library at one task, in a process of its own.

    Arrays that are passed in are copied into whatever the library itself would allocate: nobody
    is timed on foreign memory, and nothing is converted while the clock runs.
    """

    tasks: ClassVar[Mapping[tuple[str, str], Any]]  # what it can be asked for

    def __init__(self, task: Any, threads: int) -> None:
        self.task = task
        self.threads = threads
        self.compile()
        self._kept = frozenset(vars(self))

    @staticmethod  # noqa: B027 - a hook that some have no use for
    def start(threads: int) -> None:
        """Once per process, before anything else: limit the library to so many threads."""

    @classmethod
    def unsupported(cls, task: Any) -> str | None:
        """Why the library cannot be raced at this, or None."""
        return None

    @staticmethod
    def note() -> str | None:
        """Something about the library that the reader of the table should know."""
        return None

    def compile(self) -> None:  # noqa: B027 - a hook that some have no use for
        """Once per task, what does not depend on where the arrays lie."""

    @property
    def bound(self) -> float:
        """The largest error with which it is timed."""
        return verify.BOUND

    @abstractmethod
    def error(self) -> float:
        """How far its results are from those of the float64 twin."""

    @abstractmethod
    def renew(self) -> None:
        """Begin again with newly allocated arrays."""

    @abstractmethod
    def run(self, times: int) -> None:
        """Do it so many times, as a user would write it; what is timed."""

    def forget(self) -> None:
        """Drop all arrays, so that one contender's at a time are in memory."""
        for name in vars(self).keys() - self._kept - {"_kept"}:
            delattr(self, name)


class StepContender(Contender):
    """One library's optimizer over one work's arrays."""

    tasks = STEPS

    def __init__(self, task: StepTask, threads: int) -> None:
        self.optimizer = task.optimizer
        self.hyper = task.optimizer.hyper
        super().__init__(task, threads)

    def error(self) -> float:
        return verify.step_error(self)

    def renew(self) -> None:
        self.allocate(parameters(self.task.work.shapes))
        self.set_gradients(gradients(self.task.work.shapes, 0))

    def run(self, times: int) -> None:
        """Many steps with the same gradients."""
        step = self.step
        for _ in repeat(None, times):
            step()

    def twin(self, reference: Any) -> Any:
        """The float64 rule that this contender's parameters are compared with."""
        return reference.RULES[self.optimizer.class_name.lower()]

    @abstractmethod
    def allocate(self, parameters: list[Array]) -> None:
        """Make new parameters and an optimizer at its first step."""

    @abstractmethod
    def set_gradients(self, gradients: list[Array]) -> None:
        """The gradients of the next steps, in the library's own type."""

    @abstractmethod
    def step(self) -> None:
        """One step, as a user would write it."""

    @abstractmethod
    def values(self) -> list[Array]:
        """The parameters as NumPy arrays."""


class GivenGradients(StepContender):
    """Gradients come as NumPy arrays in the work's layout, as a backward pass leaves them: what the
    library needs done to them is part of the step."""

    tasks = LAYOUTS

    def set_gradients(self, gradients: list[Array]) -> None:
        self.given = [laid_out(gradient, self.task.work.layout) for gradient in gradients]
        super().set_gradients(gradients)

    def run(self, times: int) -> None:
        receive, step = self.receive, self.step
        for _ in repeat(None, times):
            receive()
            step()

    @abstractmethod
    def receive(self) -> None:
        """Bring the given gradients to where the step reads them."""


class LossContender(Contender):
    """One library's value and gradient of one loss."""

    tasks = LOSS_TASKS
    losses: ClassVar[Mapping[str, Any] | None] = None  # those it has; None: all

    @classmethod
    def unsupported(cls, task: LossTask) -> str | None:
        return None if cls.losses is None or task.kind in cls.losses else f"no {task.kind}"

    def __init__(self, task: LossTask, threads: int) -> None:
        self.data = task.data()
        super().__init__(task, threads)

    def error(self) -> float:
        return verify.loss_error(self)

    def renew(self) -> None:
        self.allocate(*self.data)

    def twin(self, reference: Any) -> Any:
        """The float64 loss that this contender's results are compared with."""
        return reference.LOSSES[self.task.kind]

    @abstractmethod
    def allocate(self, pred: Array, target: Array) -> None:
        """Copy both; make the buffers, where the library writes into given ones."""

    @abstractmethod
    def result(self) -> tuple[float, Array]:
        """Value and gradient of the last run."""
