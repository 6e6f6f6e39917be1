"""Checks of the fields of schedules: each returns the value as it is kept, or names it."""

import itertools
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

from instep import _check

Check = Callable[[str, Any], Any]


def seen(value: object) -> str:
    return f"got {value!r} ({type(value).__name__})"


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def number(name: str, value: Any) -> float:
    """The number as a Python float, NaN and infinity too."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number, {seen(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def finite(name: str, value: Any) -> float:
    found = number(name, value)
    if not math.isfinite(found):
        raise ValueError(f"{name} must be finite, {seen(value)}")
    return found


def non_negative(name: str, value: Any) -> float:
    return _check.non_negative(name, finite(name, value))


def positive(name: str, value: Any) -> float:
    return _check.positive(name, finite(name, value))


def decay_factor(name: str, value: Any) -> float:
    """A factor in (0, 1]."""
    found = finite(name, value)
    if not 0 < found <= 1:
        raise ValueError(
            f"{name} must be greater than 0 and at most 1, got {found!r}; "
            "Interpolate and Lambda can grow"
        )
    return found


def fraction(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    found = finite(name, value)
    if not 0 <= found < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {found!r}")
    return found


def at_least(minimum: int) -> Check:
    """The check of a whole number."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be an int, {seen(value)}")
        found = operator.index(value)
        if found < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {found}")
        return found

    return check


def one_of(*choices: str) -> Check:
    """The check of a word."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, {seen(value)}")
        if value not in choices:
            known = ", ".join(repr(choice) for choice in choices)
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
        return value

    return check


def entries(name: str, value: Any) -> tuple[Any, ...]:
    """A list, tuple, array or other iterable as a tuple."""
    try:
        if not isinstance(value, str | bytes | Mapping):  # of which only the keys would be taken
            return tuple(value)
    except TypeError:  # not to be iterated
        pass
    raise TypeError(f"{name} must be a list or tuple, {seen(value)}")


def increasing(name: str, value: Any, minimum: int = 1) -> tuple[int, ...]:
    """Steps, each after the one before."""
    check = at_least(minimum)
    steps = tuple(check(f"{name}[{k}]", step) for k, step in enumerate(entries(name, value)))
    for before, step in itertools.pairwise(steps):
        if step <= before:
            raise ValueError(f"{name} must increase, got {step} after {before} in {steps}")
    return steps
