"""What one hyperparameter, one state is in PyTorch and in instep. No layout of a state_dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instep import _check
from instep._check import Array
from instep.optim import SGD, Adam, AdamW, RMSprop
from instep.optim.base import Optimizer

CLASSES: dict[str, type[Optimizer]] = {c.__name__: c for c in (SGD, RMSprop, Adam, AdamW)}
KNOWN = ", ".join(CLASSES)
_STATES = {
    "SGD": ("momentum_buffer",),
    "RMSprop": ("square_avg", "grad_avg", "momentum_buffer"),
    "Adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
}
_STATES["AdamW"] = _STATES["Adam"]
# With these hyperparameters, PyTorch takes it for granted that whatever has states has this one.
_NEEDED = {"grad_avg": "centered", "momentum_buffer": "momentum", "max_exp_avg_sq": "amsgrad"}

# What a group of PyTorch has besides, with its defaults: how to compute, not what.
_SGD_FLAGS = {"foreach": None, "differentiable": False, "fused": None}
_ADAM_FLAGS = {**_SGD_FLAGS, "capturable": False}
FLAGS: dict[str, dict[str, Any]] = {
    "SGD": _SGD_FLAGS,
    "RMSprop": {"foreach": None, "differentiable": False, "capturable": False},
    "Adam": {**_ADAM_FLAGS, "decoupled_weight_decay": False},
    "AdamW": {**_ADAM_FLAGS, "decoupled_weight_decay": True},
}
# And what it may have: names, and what PyTorch's schedulers note there.
_NOTES = {"params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "swa_lr"}
_NOTES |= {"base_momentum", "max_momentum"}

_MOST_FLOAT32 = 2**24  # float32 counts no further
_BITS = np.dtype(np.uint16)  # of a bfloat16, where ml_dtypes is not installed


# ---- hyperparameters ---------------------------------------------------------------------------


def hyperparameters(kind: str, group: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Those of a group of PyTorch; `maximize` came with version 1.11."""
    known = {*CLASSES[kind].hyperparameters, "maximize"}
    unknown = sorted(group.keys() - known - _NOTES - FLAGS[kind].keys())
    if unknown:
        raise ValueError(
            f"param_groups[{k}] has {unknown}, which instep.{kind} does not know; delete what does "
            "not change the numbers from the group"
        )
    return {"maximize": False, **{name: group[name] for name in group if name in known}}


def numbers(kind: str, group: Mapping[str, Any], where: str, step: int) -> dict[str, Any]:
    """The hyperparameters of a group as numbers, schedules at their value of the step."""
    checks = {**CLASSES[kind].hyperparameters, "maximize": _check.flag}
    found: dict[str, Any] = {}
    for name, check in checks.items():
        if name not in group:
            raise ValueError(f"{where} lacks {name!r}, which {kind} has")
        value, place = group[name], f"{where}[{name!r}]"
        if name != "betas":
            found[name] = _value(check, place, value, step)
            continue
        pair = tuple(value) if isinstance(value, tuple | list) else ()
        if len(pair) != 2:
            raise TypeError(f"{place} must be a pair of numbers, got {value!r:.80}")
        found[name] = tuple([_value(check, f"{place}[{i}]", v, step) for i, v in enumerate(pair)])
    return found


def _value(check: Callable[[str, object], Any], where: str, value: Any, step: int) -> Any:
    if check is _check.flag:
        return check(where, value)
    if callable(value):
        return _check.scheduled(check, where, value, step)
    return check(where, _number(where, value))


def _number(where: str, value: Any) -> Any:
    """A Python number, also of a tensor or an array with one element."""
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{where} must be a number, got {value!r:.80}") from error


def count(where: str, value: Any) -> int:
    number = _number(where, value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{where} must be a whole number, got {value!r:.80}")
    if not 0 <= number <= 2**62 or number != int(number):
        raise ValueError(f"{where} must be a whole number of at least 0, got {value!r:.80}")
    return int(number)


# ---- states ------------------------------------------------------------------------------------


def entry_for_torch(
    kind: str, where: str, entry: Mapping[str, Any], hyper: Mapping[str, Any]
) -> dict[str, Array]:
    """What PyTorch has of a parameter: nothing before its first gradient."""
    step = count(f"{where}['step']", entry.get("step", 0))
    states = _states(kind, where, entry, ("step",))
    if not step or not states:
        return {}
    if kind == "SGD":
        return states
    # An option switched on since the last step: instep makes the state in the next one, of zeros.
    like = next(iter(states.values()))
    for name in _STATES[kind]:
        if name not in states and hyper.get(_NEEDED.get(name, "")):
            states[name] = np.zeros_like(like)
    dtype = np.float32 if step <= _MOST_FLOAT32 else np.float64
    return {"step": np.array(step, dtype), **states}


def entry_for_instep(
    kind: str, where: str, entry: Mapping[str, Any], steps: int | None
) -> dict[str, Any]:
    """What instep has of a parameter. A buffer of momentum means that there was a gradient."""
    states: dict[str, Any] = _states(kind, where, entry, () if kind == "SGD" else ("step",))
    if not states:
        return {}
    if kind == "SGD":
        return {"step": steps or 1, **states}
    if "step" not in entry:
        raise ValueError(f"{where} has {sorted(states)}, but no 'step'")
    return {"step": count(f"{where}['step']", entry["step"]), **states}


def _states(
    kind: str, where: str, entry: Mapping[str, Any], others: Sequence[str]
) -> dict[str, Array]:
    """Copies of the states that are there; PyTorch once had None for one that is not."""
    known = _STATES[kind]
    states = {
        name: _floats(f"{where}[{name!r}]", entry[name])
        for name in known
        if entry.get(name) is not None
    }
    unknown = [name for name in entry if name not in known and name not in others]
    if unknown:
        raise ValueError(f"{where} has {unknown}; {kind} has the states {list(known)}")
    return states


def _floats(where: str, value: Any) -> Array:
    """A new array, in C order, of float64 if the values need it, else of float32."""
    array = _as_array(where, value)
    if array.dtype == _BITS:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif array.dtype in (np.int8, np.uint8):
        raise TypeError(
            f"{where} is kept in 8 bits, which PyTorch does not know; load the state into an "
            "optimizer with state_dtype='float32', and pass the state of that one"
        )
    elif array.dtype.kind != "f" and not _check.is_bfloat16(array.dtype):
        raise TypeError(f"{where} must be floating-point, got {array.dtype}")
    return np.array(array, np.float64 if array.dtype.itemsize > 4 else np.float32, order="C")


def _as_array(where: str, value: Any) -> Array:
    """The values of an array or a tensor; a bfloat16 tensor's as float32."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{where} is a masked array; its mask would be ignored: pass the .data")
    try:
        if callable(getattr(value, "detach", None)):
            tensor = value.detach().cpu()
            # NumPy has no bfloat16, and each of its values is one of float32 too.
            return np.asarray(
                (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
            )
        if hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
            return np.asarray(value)
        return np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(
            f"{where} is {type(value).__name__}, not readable as an array: {error}; pass a dense "
            "tensor or an array"
        ) from error
