"""Every validation of arrays and hyperparameters, with its message.

Each message names the place, the value seen and the fix. TypeError for a wrong kind,
ValueError for a wrong value.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from instep import _core

Array = npt.NDArray[Any]

_TRAINED = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16))
# Beyond this effort an exact overlap test counts as "may overlap".
_OVERLAP_EFFORT = 1_000_000


# ---- hyperparameters --------------------------------------------------------------------------


def real(name: str, value: object, wanted: str = "a number or a schedule") -> float:
    """Any finite number."""
    if type(value) is float and math.isfinite(value):
        return value  # nearly always, and once per step of a schedule
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got an int beyond float64") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def non_negative(name: str, value: object) -> float:
    number = real(name, value)
    if number < 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
    return number


def positive(name: str, value: object) -> float:
    number = real(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}")
    return number


def divisor(name: str, value: object) -> float:
    """A positive number with a finite inverse."""
    number = positive(name, value)
    if math.isinf(1.0 / number):
        raise ValueError(
            f"{name} is {value!r}, and 1 / {name} is beyond float64; pass at least 1e-308, and "
            "multiply the gradients by the rest yourself"
        )
    return number


def fraction(name: str, value: object) -> float:
    """A number in [0, 1)."""
    number = real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return number


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: object, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name} must be one of {listed}, got {value!r}")
    return value


def nonfinite_policy(name: str, value: object) -> str:
    return choice(name, value, ("propagate", "skip", "raise"))


def state_dtype(name: str, value: object) -> str | None:
    return None if value is None else choice(name, value, ("float32", "bfloat16", "8bit"))


def array_factory(name: str, value: object) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(
            f"{name} must be a function (name, shape, dtype) -> array, or None, got {value!r:.60}"
        )
    return value


def number_or_schedule(check: Callable[[str, object], float]) -> Callable[[str, object], Any]:
    """The check of an option that may be a schedule, whose values are checked at each step."""
    return lambda name, value: value if callable(value) else check(name, value)


MOST_THREADS = 2**31 - 1  # a C int; the pool starts far fewer


def thread_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    if value > MOST_THREADS:
        raise ValueError(f"{name} must be below 2**31, got {value!r}")
    return int(value)


def seed(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} must be at least 0 and below 2**64, got {value!r}")
    return int(value)


# ---- arrays ------------------------------------------------------------------------------------


def describe(array: Array) -> str:
    """What to call an array in a message."""
    return f"{array.dtype} array of shape {array.shape}"


def native(path: str, array: Array) -> None:
    if not array.dtype.isnative:
        raise TypeError(
            f"{path} has byte order {array.dtype.str!r}, which the CPU does not compute in; "
            "convert it once with array.astype(array.dtype.newbyteorder('='))"
        )


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.itemsize == 2 and dtype.name == "bfloat16"  # the name takes a microsecond


def _without_copy(path: str, leaf: object) -> Array:
    """An array over the memory of `leaf`, never a copy."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"{path} is a masked array; its mask would be ignored: pass the .data")
    if isinstance(leaf, np.ndarray):
        return np.asarray(leaf)
    try:
        if isinstance(leaf, np.generic):
            raise TypeError("a NumPy scalar is immutable")
        return np.asarray(memoryview(leaf))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    if hasattr(leaf, "__dlpack__"):
        try:
            return np.from_dlpack(leaf)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            raise TypeError(
                f"{path} is {type(leaf).__name__} whose memory NumPy cannot share: {error}"
            ) from error
    raise TypeError(
        f"{path} is {type(leaf).__name__} ({leaf!r:.60}), not an array that can be updated in "
        "place; make it one with numpy.array(..., dtype=numpy.float32)"
    )


def overlaps_itself(array: Array) -> bool:
    """Do two elements of one array share a byte?"""
    axes = sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
    extent = array.itemsize
    for stride, length in axes:
        if stride < extent:
            break
        extent = stride * (length - 1) + extent
    else:
        return False
    # Strides interleave: decide by the offsets themselves. Rare, and only when constructing.
    offsets = np.zeros(1, np.int64)
    for stride, length in axes:
        offsets = np.add.outer(offsets, np.arange(length) * stride).ravel()
    offsets.sort()
    return bool((np.diff(offsets) < array.itemsize).any())


def parameter(path: str, leaf: object) -> Array:
    """The array to be updated in place."""
    array = _without_copy(path, leaf)
    if is_bfloat16(array.dtype):
        _core.register_bfloat16(array.dtype)
    elif array.dtype.newbyteorder("=") not in _TRAINED:
        raise TypeError(
            f"{path} is a {describe(array)}, which cannot be trained; make it float32 or float64, "
            "or float16 or ml_dtypes.bfloat16, which get a float32 master"
        )
    native(path, array)
    if not array.flags.writeable:
        raise read_only(path, array)
    if array.size > 1 and overlaps_itself(array):
        raise ValueError(
            f"{path} overlaps itself (shape {array.shape}, strides {array.strides}): one byte "
            "would be updated more than once; pass a copy"
        )
    return array


def read_only(path: str, array: Array) -> ValueError:
    return ValueError(
        f"{path} is a read-only {describe(array)} and cannot be updated in place; pass a writable "
        "array (numpy.array(x) copies), and None as the gradient of a frozen parameter"
    )


def share_memory(a: Array, b: Array) -> bool:
    """Exactly, unless that is too hard to find out; then True."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_EFFORT)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def meetings(
    arrays: Sequence[Array], matters: Callable[[int, int], bool] = lambda i, k: True
) -> Iterator[tuple[int, int]]:
    """The pairs that share memory, of those that matter."""
    bounds = [np.lib.array_utils.byte_bounds(array) for array in arrays]
    order = sorted((i for i in range(len(arrays)) if arrays[i].size), key=lambda i: bounds[i])
    open_ones: list[int] = []
    for i in order:
        open_ones = [k for k in open_ones if bounds[k][1] > bounds[i][0]]
        for k in open_ones:
            if matters(k, i) and share_memory(arrays[k], arrays[i]):
                yield k, i
        open_ones.append(i)


def disjoint(arrays: Sequence[Array], paths: Sequence[str]) -> None:
    """No two parameters share memory."""
    for k, i in meetings(arrays):
        raise ValueError(
            f"{paths[i]} overlaps {paths[k]} in memory: its elements would be updated "
            "twice; pass each parameter once"
        )


# ---- gradients ---------------------------------------------------------------------------------


def gradient(path: str, leaf: object) -> Array:
    """A plain array that can be read as a gradient."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"{path} is a masked array; its mask would be ignored: fill it first")
    try:
        if hasattr(leaf, "__array__") or type(leaf) is float:
            array = np.asarray(leaf)
        elif hasattr(leaf, "__dlpack__"):
            array = np.from_dlpack(leaf)
        else:
            array = np.asarray(memoryview(leaf))  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(
            f"{path} is {type(leaf).__name__} ({leaf!r:.60}), not readable as an array: {error}; "
            "pass an array, or None if the parameter has no gradient"
        ) from error
    if is_bfloat16(array.dtype):
        _core.register_bfloat16(array.dtype)
    elif array.dtype.kind != "f":
        raise TypeError(
            f"{path} is a {describe(array)}, but a gradient must be floating-point; convert it "
            "with .astype(numpy.float32)"
        )
    native(path, array)
    return array


def gradient_shape(path: str, array: Array, wanted: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"{path} has shape {array.shape}, but its parameter has shape {wanted}; gradients are "
        "never broadcast: use numpy.broadcast_to if that is meant"
    )


def gradient_overlap(path: str, array: Array, others: Iterable[tuple[str, Array]]) -> None:
    """No gradient shares memory with what the step writes."""
    for name, other in others:
        if share_memory(array, other):
            raise ValueError(
                f"{path} overlaps {name} in memory, which the step writes; pass a copy of the "
                "gradient"
            )


def is_array(path: str, leaf: object) -> None:
    """An array, and not what an array was made of: zeros in that might be zeros in a copy."""
    if not isinstance(leaf, np.ndarray):
        raise TypeError(
            f"{path} is {type(leaf).__name__}, and zero_grads=True zeroes NumPy arrays alone; pass "
            "an array, or set zero_grads=False"
        )


def read_only_gradient(path: str, array: Array) -> ValueError:
    return ValueError(
        f"{path} is a read-only {describe(array)}, which zero_grads=True cannot zero; pass a "
        "writable array, or set zero_grads=False"
    )


def gradients_apart(paths: Sequence[str], leaves: Sequence[Array | None]) -> None:
    """Zeroing one gradient, or an element of it, changes no other."""
    found = [(path, array) for path, array in zip(paths, leaves, strict=True) if array is not None]
    for path, array in found:
        if array.size > 1 and overlaps_itself(array):
            raise ValueError(
                f"{path} overlaps itself (shape {array.shape}, strides {array.strides}): with "
                "zero_grads=True an element would be zeroed before it is read; pass a copy"
            )
    for k, i in meetings([array for _, array in found]):
        raise ValueError(
            f"{found[i][0]} overlaps {found[k][0]} in memory: with zero_grads=True it would be "
            "zeroed before it is read; pass a copy"
        )


# ---- schedules ---------------------------------------------------------------------------------


def scheduled(check: Callable[[str, object], float], name: str, schedule: Any, step: int) -> float:
    """The value of a schedule at a step, checked like a constant."""
    value = schedule(step)
    try:
        return check(name, value)
    except (TypeError, ValueError):  # the name in full only where it is read
        return check(f"{name} (its schedule at step {step})", value)
