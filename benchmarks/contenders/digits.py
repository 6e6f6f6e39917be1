"""What a contender at the whole training step shares with the others."""

from abc import abstractmethod
from itertools import cycle

from benchmarks.contenders.base import Contender
from benchmarks.digits import DIGITS_TASKS, STEPS, DigitsTask, error, start


class DigitsContender(Contender):
    """One way of training the network of examples/digits.py."""

    tasks = DIGITS_TASKS
    task: DigitsTask

    @staticmethod
    def start(threads: int) -> None:
        start()  # says what is missing

    @property
    def bound(self) -> float:
        """Of the first loss. float32 losses part by 1e-6; a wrong rate, decay or gradient by
        1e-2."""
        return 1e-3

    def error(self) -> float:
        self.renew()
        losses = []
        for _ in range(STEPS):
            self.run(1)
            losses.append(self.loss())
        return error(losses, self.task.around)

    def renew(self) -> None:
        self.begin()
        self.order = cycle(self.batches())

    def batches(self) -> list:
        """The rows of each batch, in the library's own type."""
        return start().batches

    @abstractmethod
    def begin(self) -> None:
        """Make new parameters and an optimizer at its first step."""

    @abstractmethod
    def loss(self) -> float:
        """That of the last step."""
