"""What `instep.plots` draws: arguments checked, and made into arrays that axes can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from instep.schedules._check import at_least, finite

Curve = npt.NDArray[np.float64]

LARGEST = 1e100  # what is beyond is drawn there: matplotlib's axes overflow near float64's end
MOST_POINTS = 2000  # of a schedule; more cannot be told apart in a picture
MOST_STEPS = 2**53  # as floats, which axes have, steps beyond run together


def named(schedules: Any) -> dict[str, Any]:
    """The schedules with their labels."""
    if isinstance(schedules, Mapping):
        found = {str(label): schedule for label, schedule in schedules.items()}
    else:
        several = list(schedules) if isinstance(schedules, Sequence) else [schedules]
        found = {}
        for number, schedule in enumerate(several):
            name = type(schedule).__name__
            found[name if name not in found else f"{name} {number}"] = schedule
    if not found:
        raise ValueError("schedules must be at least one, got none")
    for label, schedule in found.items():
        if not callable(schedule):
            raise TypeError(
                f"schedules[{label!r}] must be a schedule or another function of the step, "
                f"got {schedule!r}"
            )
    return found


def drawn_steps(steps: Any) -> npt.NDArray[np.int64]:
    """The steps to draw: all, or as many as can be seen, with both ends."""
    count = at_least(1)("steps", steps)
    if count > MOST_STEPS:
        raise ValueError(f"steps must be at most 2**53, got {count}")
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.linspace(0, count - 1, MOST_POINTS).astype(np.int64)


def curve(label: str, schedule: Any, at: npt.NDArray[np.int64]) -> Curve:
    """The values of a schedule at some steps."""
    name = f"schedules[{label!r}] at step"
    return _in_view([finite(f"{name} {step}", schedule(step)) for step in at.tolist()])


def run(losses: Any, lrs: Any) -> tuple[Curve | None, Curve]:
    """Rates, if there are any, and losses."""
    values = _floats("losses", losses)
    values = np.where(np.isinf(values), values, _in_view(values))
    if values.ndim != 1:
        raise ValueError(f"losses must be a flat sequence, got shape {values.shape}")
    if not np.isfinite(values).any():
        raise ValueError(f"losses must have a finite one to draw, got {values[:4].tolist()}")
    if lrs is None:
        return None, values
    rates = _floats("lrs", lrs)
    if rates.ndim > 1:
        raise ValueError(f"lrs must be a number or a flat sequence, got shape {rates.shape}")
    rates = np.full(len(values), rates) if rates.ndim == 0 else rates
    if len(rates) != len(values):
        raise ValueError(f"lrs and losses must be equally many, got {len(rates)} and {len(values)}")
    wrong = np.flatnonzero(~np.isfinite(rates))
    if wrong.size:
        raise ValueError(f"lrs[{wrong[0]}] must be finite, got {rates[wrong[0]]}")
    return _in_view(rates), values


def returned_by(function: str, name: str, value: Any, *attributes: str) -> None:
    """The check of an object that another function made."""
    if not all(hasattr(value, attribute) for attribute in attributes):
        raise TypeError(f"{name} must be what instep.{function} returned, got {value!r:.60}")


def _floats(name: str, values: Any) -> Curve:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a sequence of numbers: {error}") from None


def _in_view(values: Any) -> Curve:
    return np.clip(np.asarray(values, np.float64), -LARGEST, LARGEST)
