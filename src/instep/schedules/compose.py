"""Schedules made of others, of points, and of your own function."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from instep.schedules._base import Schedule, blend
from instep.schedules._check import at_least, entries, finite, increasing, is_number, seen
from instep.schedules.decay import Constant


def schedule_or_number(name: str, value: Any) -> Schedule:
    """The check of a field that is a schedule; a number stands for a constant one."""
    if isinstance(value, Schedule):
        return value
    if not is_number(value):
        raise TypeError(f"{name} must be a schedule or a number, {seen(value)}")
    return Constant(finite(name, value))


@dataclass(frozen=True, init=False)
class Product(Schedule):
    """The product of two schedules: what ``factor * schedule`` makes.

    Parameters
    ----------
    first, second : Schedule or float
        The factors. A number stands for ``Constant(number)``.

    Notes
    -----
    ``lr(t) = first(t) * second(t)``

    Examples
    --------
    >>> from instep.schedules import LinearDecay
    >>> schedule = 0.5 * LinearDecay(0.8, total_steps=4)
    >>> schedule
    Product(first=Constant(lr=0.5), second=LinearDecay(lr=0.8, total_steps=4, end=0.0))
    >>> schedule(0), schedule(2)
    (0.4, 0.2)
    """

    first: Schedule
    second: Schedule

    def __init__(self, first: Schedule | float, second: Schedule | float) -> None:
        self._set(first=first, second=second)
        self._check(first=schedule_or_number, second=schedule_or_number)

    def _at(self, step: int) -> float:
        return self.first._at(step) * self.second._at(step)


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """A schedule that counts epochs instead of steps: what ``schedule.per_epoch(n)`` makes.

    Parameters
    ----------
    by_epoch : Schedule
        Its lengths are in epochs, and its step 0 is the first epoch.
    steps_per_epoch : int
        Optimizer steps of an epoch, at least 1.

    Notes
    -----
    ``lr(t) = by_epoch(t // steps_per_epoch)``: constant within an epoch

    Examples
    --------
    >>> from instep.schedules import CosineAnnealing
    >>> schedule = PerEpoch(CosineAnnealing(0.1, total_steps=90), steps_per_epoch=500)
    >>> schedule(499), schedule(90 * 500)
    (0.1, 0.0)
    """

    by_epoch: Schedule
    steps_per_epoch: int

    def __post_init__(self) -> None:
        self._check(by_epoch=schedule_or_number, steps_per_epoch=at_least(1))

    def _at(self, step: int) -> float:
        return self.by_epoch._at(step // self.steps_per_epoch)


@dataclass(frozen=True, init=False)
class Sequence(Schedule):
    """One schedule after another.

    Parameters
    ----------
    schedules : sequence of Schedule or float
        At least one; each starts at its own step 0. A number stands for ``Constant(number)``.
    boundaries : sequence of int
        The first step of each schedule but the first: increasing, from 1 on, one fewer than
        schedules.

    Notes
    -----
    ``lr(t) = schedules[i](t - start)``, where schedule i is the last whose ``start`` (0, then the
    boundaries) is at most t

    As optax's ``join_schedules`` and PyTorch's ``SequentialLR``. The last schedule ends it.

    Examples
    --------
    >>> from instep.schedules import CosineAnnealing, Warmup
    >>> schedule = Sequence([Warmup(0.8, 4), 0.8, CosineAnnealing(0.8, 100)], boundaries=[4, 50])
    >>> schedule(0), schedule(49), schedule(50), schedule(150)
    (0.2, 0.8, 0.8, 0.0)
    """

    schedules: tuple[Schedule, ...]
    boundaries: tuple[int, ...]

    def __init__(self, schedules: Iterable[Schedule | float], boundaries: Iterable[int]) -> None:
        self._set(schedules=schedules, boundaries=boundaries)
        self._check(schedules=_schedules, boundaries=increasing)
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"Sequence: {len(self.schedules)} schedules need {len(self.schedules) - 1} "
                f"boundaries, got {len(self.boundaries)}: {self.boundaries}"
            )

    def _at(self, step: int) -> float:
        i = bisect.bisect_right(self.boundaries, step)
        return self.schedules[i]._at(step - (self.boundaries[i - 1] if i else 0))


def _schedules(name: str, value: Any) -> tuple[Schedule, ...]:
    found = entries(name, value)
    if not found:
        raise ValueError(f"{name} must hold at least one schedule, got {value!r}")
    return tuple(schedule_or_number(f"{name}[{k}]", entry) for k, entry in enumerate(found))


@dataclass(frozen=True, init=False)
class Interpolate(Schedule):
    """Straight lines between given points.

    Parameters
    ----------
    points : sequence of (int, float)
        Pairs of a step and its value, by increasing step; at least one.

    Notes
    -----
    ``lr(t) = v0 + (v1 - v0) * (t - t0) / (t1 - t0)`` between the points (t0, v0) and (t1, v1)

    At a point its value is exact. Before the first point the first value holds, after the last
    the last. As ``numpy.interp``.

    Examples
    --------
    >>> schedule = Interpolate([(0, 0.1), (10, 0.5), (30, 0.0)])
    >>> schedule(5), schedule(10), schedule(20), schedule(1000)
    (0.3, 0.5, 0.25, 0.0)
    """

    points: tuple[tuple[int, float], ...]

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        self._set(points=points)
        self._check(points=_points)

    def _at(self, step: int) -> float:
        i = bisect.bisect_right(self.points, step, key=lambda point: point[0])
        if i == 0:
            return self.points[0][1]
        start, value = self.points[i - 1]
        if i == len(self.points):
            return value
        end, next_value = self.points[i]
        return blend((end - step) / (end - start), value, next_value)


def _points(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    pairs = [entries(f"{name}[{k}]", pair) for k, pair in enumerate(entries(name, value))]
    if not pairs:
        raise ValueError(f"{name} must hold at least one point, got {value!r}")
    for k, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"{name}[{k}] must be a pair of step and value, got {pair!r}")
    steps = increasing(f"{name}: steps", [step for step, _ in pairs], minimum=0)
    values = (finite(f"{name}[{k}]: value", number) for k, (_, number) in enumerate(pairs))
    return tuple(zip(steps, values, strict=True))


@dataclass(frozen=True)
class Lambda(Schedule):
    """A function of your own as a schedule, to be combined with others.

    Alone, a function can be given to an optimizer as it is.

    Parameters
    ----------
    function : callable
        Takes the 0-based step, a Python int, and returns a finite number. It must not depend on
        anything else, or resuming is up to you.

    Notes
    -----
    ``lr(t) = function(t)``

    It pickles if the function does (one of a module does, a lambda does not) and cannot be
    written as JSON; a `Schedule` class of your own can.

    Examples
    --------
    >>> schedule = Lambda(lambda t: 0.5 ** t)
    >>> (0.8 * schedule)(2)
    0.2
    """

    function: Callable[[int], float]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"Lambda: function must be callable, {seen(self.function)}")

    def _at(self, step: int) -> float:
        return finite("Lambda: the value of the function", self.function(step))

    def to_dict(self) -> NoReturn:
        """Raises TypeError: a function has no JSON form."""
        raise TypeError(
            f"Lambda: {self.function!r} cannot be written as JSON; pickle the schedule, or make a "
            "Schedule class of your own"
        )
