"""Schedules: hyperparameters that change with the step.

A schedule is an immutable value and a pure function of the 0-based step: ``s(0)`` is what the
first step uses, and nothing is counted inside, so a schedule can be shared, plotted, pickled,
written as JSON and resumed anywhere. After its end a schedule holds its last value. Any
hyperparameter of an optimizer may be a schedule, not only the learning rate; lengths are in
optimizer steps.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, overload

import numpy as np
import numpy.typing as npt

__all__ = ["Constant", "CosineAnnealing", "Schedule", "Warmup"]


def _seen(value: object) -> str:
    return f"got {value!r} ({type(value).__name__})"


def _finite(name: str, value: Any) -> float:
    """The number as a Python float, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, {_seen(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, {_seen(value)}")
    return number


def _count(name: str, value: Any, minimum: int) -> int:
    """The whole number as a Python int, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, {_seen(value)}")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


@dataclass(frozen=True)
class Schedule:
    """Base class of all schedules.

    A new schedule is a frozen dataclass with one method, ``_at(step)``, the value at a
    non-negative Python int. Calling, arrays, equality, hashing, pickling and JSON follow; the
    class name is its name in JSON. ``__post_init__`` validates the fields.

    Fields may be numbers, strings, None, other schedules, and tuples of these.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Halving(Schedule):
    ...     lr: float
    ...     every: int
    ...
    ...     def _at(self, step):
    ...         return self.lr * 0.5 ** (step // self.every)
    >>> Halving(0.1, every=10)(25)
    0.025
    >>> Schedule.from_dict({"schedule": "Halving", "lr": 0.1, "every": 10})
    Halving(lr=0.1, every=10)
    """

    _known: ClassVar[dict[str, type[Schedule]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Defining the same class again (a notebook cell run twice) is fine; another class under a
        # taken name would make saved schedules mean something else.
        known = Schedule._known.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ValueError(
                f"a schedule named {cls.__name__!r} exists already in {known.__module__}; "
                "choose another class name"
            )
        Schedule._known[cls.__name__] = cls

    def _at(self, step: int) -> float:
        """The value at ``step``, a Python int of at least 0."""
        raise NotImplementedError(f"{type(self).__name__} does not define _at(step)")

    @overload
    def __call__(self, step: int | np.integer[Any]) -> float: ...

    @overload
    def __call__(self, step: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]: ...

    def __call__(
        self, step: int | np.integer[Any] | npt.NDArray[np.integer[Any]]
    ) -> float | npt.NDArray[np.float64]:
        """Value at the 0-based ``step``, or at each step of an integer array.

        Parameters
        ----------
        step : int or ndarray of int
            0 is the first step.

        Returns
        -------
        float or ndarray of float64
            An array has the shape of ``step``; each element is exactly what the call with that
            int returns.

        Raises
        ------
        TypeError
            If ``step`` is neither an integer nor an array of integers.
        ValueError
            If ``step`` is negative.
        """
        # Called once per training step with an int: that way out comes first.
        if type(step) is int and step >= 0:
            return self._at(step)
        if isinstance(step, np.ndarray):
            if step.dtype.kind not in "iu":
                raise TypeError(f"step must be an array of integers, got dtype {step.dtype}")
            if step.size and step.min() < 0:
                raise ValueError(f"step must be at least 0, got an array with {step.min()}")
            # One element at a time, because NumPy's cos may differ from math.cos in the last bit.
            values = (self._at(t) for t in step.ravel().tolist())
            return np.fromiter(values, np.float64, count=step.size).reshape(step.shape)
        return self._at(_count("step", step, 0))

    def to_dict(self) -> dict[str, Any]:
        """The schedule as a dict that ``json`` can write.

        Returns
        -------
        dict
            ``{"schedule": class name, field: value, ...}``, nested schedules likewise.

        See Also
        --------
        from_dict : The way back.

        Examples
        --------
        >>> Warmup(0.1, steps=5).to_dict()
        {'schedule': 'Warmup', 'after': {'schedule': 'Constant', 'lr': 0.1}, 'steps': 5}
        """
        values = {field.name: _encode(getattr(self, field.name)) for field in fields(self)}
        return {"schedule": type(self).__name__, **values}

    @staticmethod
    def from_dict(d: Mapping[str, Any]) -> Schedule:
        """The schedule that ``to_dict`` wrote, equal to the original.

        Parameters
        ----------
        d : mapping
            ``{"schedule": class name, field: value, ...}``. Fields that have a default may be
            left out.

        Returns
        -------
        Schedule

        Raises
        ------
        TypeError
            If ``d`` is not a mapping, or a field has the wrong type.
        ValueError
            If the name is unknown, a field is missing or unexpected, or a value is not allowed.

        Examples
        --------
        >>> Schedule.from_dict({"schedule": "CosineAnnealing", "lr": 0.1, "total_steps": 50})
        CosineAnnealing(lr=0.1, total_steps=50, min_lr=0.0)
        """
        if not isinstance(d, Mapping):
            raise TypeError(f"a schedule must be a dict as made by to_dict(), {_seen(d)}")
        name = d.get("schedule")
        if not isinstance(name, str) or name not in Schedule._known:
            known = ", ".join(sorted(Schedule._known))
            raise ValueError(f"'schedule' must be one of {known}, got {name!r}")
        cls = Schedule._known[name]
        values = {str(key): _decode(value) for key, value in d.items() if key != "schedule"}
        expected = {field.name: field for field in fields(cls)}
        required = {
            field.name
            for field in expected.values()
            if field.default is MISSING and field.default_factory is MISSING
        }
        missing, unexpected = required - values.keys(), values.keys() - expected.keys()
        if missing or unexpected:
            raise ValueError(
                f"{name} has the fields {', '.join(expected)}; "
                f"missing: {', '.join(sorted(missing)) or 'none'}, "
                f"unexpected: {', '.join(sorted(unexpected)) or 'none'}"
            )
        return cls(**values)


def _encode(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_encode(entry) for entry in value] if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Schedule.from_dict(value)
    # JSON has no tuples; a list would not be hashable.
    return tuple(_decode(entry) for entry in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Parameters
    ----------
    lr : float
        The value; any finite number.

    Notes
    -----
    ``lr(t) = lr``

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", _finite("Constant: lr", self.lr))

    def _at(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True, init=False)
class Warmup(Schedule):
    """A linear warm-up in front of another schedule.

    Parameters
    ----------
    after : Schedule or float
        What follows the warm-up, starting at its own step 0. A number stands for
        ``Constant(number)``.
    steps : int
        Length of the warm-up in steps; 0 means none.

    Notes
    -----
    ``lr(t) = after(0) * (t + 1) / steps`` for ``t < steps``, then ``after(t - steps)``

    The first step already moves, by ``after(0) / steps``, where many warm-ups spend it at a
    learning rate of 0. The last warm-up step, ``t = steps - 1``, uses exactly ``after(0)``, and so
    does the step after it. The whole lasts ``steps`` longer than ``after`` alone: to end a cosine
    at step ``total``, give it ``total - steps``.

    References
    ----------
    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677.

    Examples
    --------
    >>> schedule = Warmup(CosineAnnealing(0.8, total_steps=100), steps=4)
    >>> [schedule(t) for t in (0, 1, 2, 3, 4)]
    [0.2, 0.4, 0.6000000000000001, 0.8, 0.8]
    >>> schedule(104)
    0.0
    """

    after: Schedule
    steps: int

    # Written out, because a number is taken for `after` but never kept.
    def __init__(self, after: Schedule | float, steps: int) -> None:
        if not isinstance(after, Schedule):
            if isinstance(after, bool) or not isinstance(after, numbers.Real):
                raise TypeError(f"Warmup: after must be a schedule or a number, {_seen(after)}")
            after = Constant(_finite("Warmup: after", after))
        object.__setattr__(self, "after", after)
        object.__setattr__(self, "steps", _count("Warmup: steps", steps, 0))

    def _at(self, step: int) -> float:
        if step < self.steps:
            # The quotient first: it is exactly 1 at the last warm-up step.
            return self.after._at(0) * ((step + 1) / self.steps)
        return self.after._at(step - self.steps)


@dataclass(frozen=True)
class CosineAnnealing(Schedule):
    """Half a cosine wave from ``lr`` down to ``min_lr``, without restarts.

    Parameters
    ----------
    lr : float
        Value at step 0.
    total_steps : int
        Steps until ``min_lr`` is reached, at least 1; from ``t = total_steps`` on it is held.
    min_lr : float, default 0.0
        Value at the end.

    Notes
    -----
    ``lr(t) = min_lr + (lr - min_lr) * (1 + cos(pi * t / total_steps)) / 2`` for
    ``t < total_steps``, then ``min_lr``

    Up to ``total_steps`` this is PyTorch's ``CosineAnnealingLR``, which goes up again afterwards.
    A run of ``total_steps`` steps uses ``t = 0 ... total_steps - 1`` and so ends just above
    ``min_lr``.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
    arXiv:1608.03983.

    Examples
    --------
    >>> schedule = CosineAnnealing(0.1, total_steps=100, min_lr=0.02)
    >>> schedule(0), round(schedule(50), 12), schedule(100), schedule(1000)
    (0.1, 0.06, 0.02, 0.02)
    """

    lr: float
    total_steps: int
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", _finite("CosineAnnealing: lr", self.lr))
        total_steps = _count("CosineAnnealing: total_steps", self.total_steps, 1)
        object.__setattr__(self, "total_steps", total_steps)
        object.__setattr__(self, "min_lr", _finite("CosineAnnealing: min_lr", self.min_lr))

    def _at(self, step: int) -> float:
        if step >= self.total_steps:
            return self.min_lr
        # The formula as a weighted mean: exactly lr at step 0, and lr - min_lr cannot overflow.
        share = 0.5 + 0.5 * math.cos(math.pi * (step / self.total_steps))
        return share * self.lr + (1.0 - share) * self.min_lr
