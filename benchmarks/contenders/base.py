"""What a contender must do to be verified and timed."""

from abc import ABC, abstractmethod
from itertools import repeat
from typing import Any

from benchmarks.works import Array, Optimizer


class Contender(ABC):
    """One library's optimizer over one work's arrays, in a process of its own.

    Arrays that are passed in are copied into whatever the library itself would allocate: nobody
    is timed on foreign memory, and nothing is converted inside a timed step.
    """

    def __init__(self, optimizer: Optimizer, threads: int) -> None:
        self.optimizer = optimizer
        self.hyper = optimizer.hyper
        self.threads = threads
        self.compile()

    @staticmethod  # noqa: B027 - a hook that some have no use for
    def start(threads: int) -> None:
        """Once per process, before anything else: limit the library to so many threads."""

    @staticmethod
    def unsupported(optimizer: Optimizer) -> str | None:
        """Why this optimizer cannot be raced, or None."""
        return None

    @staticmethod
    def note() -> str | None:
        """Something about the library that the reader of the table should know."""
        return None

    def twin(self, reference: Any) -> Any:
        """The float64 rule that this contender's parameters are compared with."""
        return reference.RULES[self.optimizer.class_name.lower()]

    def compile(self) -> None:  # noqa: B027 - a hook that some have no use for
        """Once per work, what does not depend on where the arrays lie."""

    @abstractmethod
    def allocate(self, parameters: list[Array]) -> None:
        """Make new parameters and an optimizer at its first step."""

    @abstractmethod
    def set_gradients(self, gradients: list[Array]) -> None:
        """The gradients of the next steps, in the library's own type."""

    @abstractmethod
    def step(self) -> None:
        """One step, as a user would write it."""

    def run(self, steps: int) -> None:
        """Many steps with the same gradients; what is timed."""
        step = self.step
        for _ in repeat(None, steps):
            step()

    @abstractmethod
    def values(self) -> list[Array]:
        """The parameters as NumPy arrays."""
