"""What a step looks at before it writes: the global gradient norm, and elements that forbid it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from instep import _check
from instep.optim.leaves import Leaves

# Squares of float64 gradients leave float64's range beyond about 1e154 and below about 1e-162.
_SMALL, _UP, _DOWN = 2.0**-900, 2.0**600, 2.0**-600
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def clips(clip_norm: Any, clip_value: Any, step: int) -> tuple[float | None, float | None]:
    """The two options at the 0-based step."""
    if clip_norm is not None and callable(clip_norm):
        clip_norm = _check.scheduled(_check.non_negative, "clip_norm", clip_norm, step)
    if clip_value is not None and callable(clip_value):
        clip_value = _check.scheduled(_check.positive, "clip_value", clip_value, step)
    return clip_norm, clip_value


def gradient_norm(leaves: Leaves, gradients: Sequence[Any], threads: int) -> tuple[float, int]:
    """Global L2 norm of the bound gradients and how many of their elements are not finite.

    norm = sqrt(sum g^2), accumulated in float64 in a fixed order.
    """
    total = leaves.sum_squares(1.0, threads)
    if _SMALL <= total < math.inf:
        return math.sqrt(total), 0
    if total < _SMALL:
        return math.sqrt(leaves.sum_squares(_UP, threads)) / _UP, 0
    bad = sum(count_nonfinite(gradients))
    if bad:
        return math.sqrt(total), bad  # NaN, or infinite
    return math.sqrt(leaves.sum_squares(_DOWN, threads)) / _DOWN, 0


def count_nonfinite(
    gradients: Sequence[Any], computed_in: Sequence[Any] | None = None, scale: float = 1.0
) -> list[int]:
    """Elements of each gradient that are NaN or infinite.

    With `computed_in`, after scaling and rounding to the dtype in which each parameter's rule
    computes. Only called when there is something to find.
    """
    counts = []
    with np.errstate(all="ignore"):
        for i, gradient in enumerate(gradients):
            if gradient is None:
                counts.append(0)
                continue
            if computed_in is not None or gradient.dtype.itemsize > 8:
                gradient = gradient.astype(np.float64) * scale  # long double is read as float64
            if computed_in is not None:
                gradient = gradient.astype(computed_in[i])
            counts.append(int(gradient.size - np.count_nonzero(np.isfinite(gradient))))
    return counts


def count_unusable(
    leaves: Leaves, gradients: Sequence[Any], scale: float, largest: float, bad: int
) -> list[int]:
    """Elements of each gradient that forbid a step: also those that overflow in a float32
    parameter. `scale` is all that they are multiplied by, `largest` bounds what becomes of them,
    and `bad` of them are not finite."""
    if bad:
        return count_nonfinite(gradients)
    if largest <= _LARGEST_FLOAT32:
        return []
    return count_nonfinite(gradients, [leaf.dtype for leaf in leaves.all], scale)


def unusable(leaves: Leaves, counts: Sequence[int]) -> FloatingPointError:
    first = next(i for i, count in enumerate(counts) if count)
    return FloatingPointError(
        f"{leaves.all[first].grad_path} has {counts[first]} NaN or infinite elements "
        f"({sum(counts)} in all); nothing was updated. Lower the learning rate, clip, or use "
        "nonfinite='skip'"
    )
