"""Validation of what losses are given, and its messages."""

from collections.abc import Mapping

import numpy as np

from instep import _check, _core
from instep._check import Array, describe, is_bfloat16, native, overlaps_itself, share_memory

_FLOATS = {np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)}


# ---- options -----------------------------------------------------------------------------------


def number(name: str, value: object) -> float:
    """Any finite number; unlike a hyperparameter, never a schedule."""
    return _check.real(name, value, "a number")


def positive(name: str, value: object) -> float:
    return _check.positive(name, number(name, value))


def non_negative(name: str, value: object) -> float:
    return _check.non_negative(name, number(name, value))


def share(name: str, value: object) -> float:
    """A number in [0, 1]."""
    found = number(name, value)
    if not 0 <= found <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return found


def inner_share(name: str, value: object) -> float:
    """A number in (0, 1)."""
    found = number(name, value)
    if not 0 < found < 1:
        raise ValueError(f"{name} must be greater than 0 and less than 1, got {value!r}")
    return found


def integer(name: str, value: object) -> int:
    """An int of 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    found = int(value)
    if not -(2**63) <= found < 2**63:
        raise ValueError(f"{name} must fit into 64 bits, got {found}")
    return found


# ---- arrays ------------------------------------------------------------------------------------


def _readable(name: str, value: object) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; its mask would be ignored: fill it first")
    array = np.asarray(value)
    if is_bfloat16(array.dtype):
        _core.register_bfloat16(array.dtype)
    native(name, array)
    return array


def prediction(pred: object) -> Array:
    array = _readable("pred", pred)
    if array.dtype not in _FLOATS and not is_bfloat16(array.dtype):
        raise TypeError(
            f"pred must be float32, float64, float16 or bfloat16, got a {describe(array)}"
        )
    return array


def same_shape(name: str, array: Array, pred: Array) -> None:
    if array.shape != pred.shape:
        raise ValueError(
            f"{name} has shape {array.shape}, pred has {pred.shape}; nothing is broadcast: use "
            "reshape, or numpy.broadcast_to if that is meant"
        )


def real_array(name: str, value: object) -> Array:
    array = _readable(name, value)
    if not _core.is_real(array):
        raise TypeError(f"{name} must hold real numbers, got a {describe(array)}")
    return array


def elements(name: str, value: object, pred: Array) -> Array:
    """An array of real numbers, one per prediction: a target, a weight, a mask."""
    array = real_array(name, value)
    same_shape(name, array, pred)
    return array


def broadcast(name: str, value: object, pred: Array) -> Array:
    """Like `elements`, for an option that is meant to be broadcast."""
    array = real_array(name, value)
    try:
        return np.broadcast_to(array, pred.shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}, which cannot be broadcast to pred's {pred.shape}"
        ) from None


def within(name: str, array: Array, low: float, high: float, sizes: bool, wanted: str) -> None:
    """All elements (or their absolute values) are in [low, high] or NaN."""
    if not _core.count_outside(array, low, high, sizes):
        return
    values = np.abs(array) if sizes else array
    position = np.unravel_index(np.argmax((values < low) | (values > high)), array.shape)
    where = [int(i) for i in position]
    found = array[position]
    raise ValueError(f"{name}{where if where else ''} is {found}, but {wanted}")


def too_small() -> ValueError:
    return ValueError(
        "the weights that count sum to less than 2.3e-308, too little to divide by; multiply them"
    )


# ---- classes -----------------------------------------------------------------------------------


def class_axis(pred: Array) -> int:
    return min(1, pred.ndim - 1)


def classes(pred: object) -> Array:
    """A prediction with a class axis."""
    array = prediction(pred)
    if array.ndim == 0:
        raise ValueError("pred must have a class axis: shape (C,), (N, C) or (N, C, ...)")
    if array.shape[class_axis(array)] == 0:
        raise ValueError(f"pred has no classes: shape {array.shape}")
    return array


def class_weight(weight: object, pred: Array) -> Array:
    """One float64 per class."""
    array = real_array("weight", weight)
    count = pred.shape[class_axis(pred)]
    if array.shape != (count,):
        raise ValueError(f"weight must have one entry per class ({count},), got {array.shape}")
    return np.require(array, np.float64, ["C", "ALIGNED", "ENSUREARRAY"])


def class_target(target: object, pred: Array, ignore_index: int) -> Array:
    array = _readable("target", target)
    if _core.is_float(array):
        same_shape("soft target", array, pred)
        if ignore_index != -100:
            raise ValueError(
                f"ignore_index={ignore_index} needs integer labels, target is {describe(array)}"
            )
        return array
    if not _core.is_integer(array):
        raise TypeError(f"target must hold integer labels or soft targets, got {describe(array)}")
    axis = class_axis(pred)
    rows = pred.shape[:axis] + pred.shape[axis + 1 :]
    if array.shape != rows:
        raise ValueError(
            f"labels must have shape {rows} for pred of shape {pred.shape}, got {array.shape}; "
            "one-hot targets must be floating-point"
        )
    return array


def label_error(target: Array, position: int, classes: int, ignore_index: int) -> ValueError:
    where = tuple(int(i) for i in np.unravel_index(position, target.shape))
    return ValueError(
        f"target{list(where) if where else ''} is {target[where]}, but labels must be in "
        f"[0, {classes}) or ignore_index={ignore_index}"
    )


# ---- the gradient ------------------------------------------------------------------------------


def output(out: object, pred: Array, others: Mapping[str, Array | None]) -> Array:
    """Where the gradient goes."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    if isinstance(out, np.ma.MaskedArray):
        raise TypeError("out is a masked array; its mask would be ignored: pass the .data")
    if out.shape != pred.shape:
        raise ValueError(f"out has shape {out.shape}, pred has {pred.shape}")
    if out.dtype != pred.dtype:
        raise TypeError(f"out is {out.dtype}, but must have pred's dtype {pred.dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if out.size > 1 and overlaps_itself(out):
        raise ValueError(f"out overlaps itself (strides {out.strides}); pass a copy")
    steps = zip(out.strides, pred.strides, out.shape, strict=True)
    same = out.__array_interface__["data"][0] == pred.__array_interface__["data"][0] and all(
        a == b for a, b, length in steps if length > 1
    )
    if not same and share_memory(out, pred):
        raise ValueError("out overlaps pred partly; pass pred itself or other memory")
    for name, other in others.items():
        if other is not None and share_memory(out, other):
            raise ValueError(f"out overlaps {name}; pass other memory")
    return out
