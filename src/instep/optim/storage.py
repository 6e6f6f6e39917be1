"""How the states of an optimizer are kept: in the type computed in, or in fewer bits.

The formats are csrc/stored.h; docs/math.md has their formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instep import _check, _core
from instep._check import Array
from instep.optim.options import Option

if TYPE_CHECKING:
    from instep.optim.leaves import Leaf, Leaves

BLOCK = 128  # elements of the walk that share a scale
CHOICES = ("float32", "bfloat16", "8bit")
_ROUNDED = ("bfloat16", "8bit")
_CODES = {"SIGNED": np.dtype(np.int8)}
_FORMATS = _core.states()  # state -> how it may be kept, as csrc/kernels.def says
_RULES = _core.rules()
_BITS = np.dtype(np.uint16)  # of a bfloat16


def bfloat16() -> np.dtype[Any]:
    """ml_dtypes.bfloat16 where that can be imported, else uint16 for its bits."""
    try:
        import ml_dtypes
    except ImportError:
        return _BITS
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    _core.register_bfloat16(dtype)
    return dtype


def scale_name(state: str) -> str:
    """What the scales of a state in 8 bits are called."""
    return f"{state}_scale"


def suiting(rule_of: Callable[..., str], state_dtype: str | None) -> Callable[..., str]:
    """`rule_of`, which chooses a rule, with an error where its states bear no rounding."""

    def checked(*arguments: Any) -> str:
        rule = rule_of(*arguments)
        full = [name for name in _RULES[rule][1] if _FORMATS[name] == "FULL"]
        if full and state_dtype in _ROUNDED:
            raise ValueError(
                f"state_dtype={state_dtype!r} does not go with centered=True: of square_avg - "
                "grad_avg**2 rounding leaves noise, and steps without bound; use "
                "state_dtype='float32', or centered=False"
            )
        return rule

    return checked


# ---- arrays ----------------------------------------------------------------------------------


def new_state(leaf: Leaf, name: str, stream: int, state_dtype: str | None) -> dict[str, Array]:
    """A state of zeros, with its scales if it has any."""
    if state_dtype is None:
        return {name: leaf.new_array(stream)}
    if state_dtype == "8bit":
        codes = leaf.new_array(stream, _code_dtype(name))
        blocks = -(-codes.size // BLOCK)
        return {name: codes, scale_name(name): np.zeros(blocks, np.float32)}
    wide = state_dtype == "float32"
    return {name: leaf.new_array(stream, np.dtype(np.float32) if wide else bfloat16())}


def _code_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(np.int8 if _FORMATS[name] == "SIGNED" else np.uint8)


def handed(states: Mapping[str, Array], names: Sequence[str]) -> tuple[Any, Any]:
    """The states of these names and their scales, as the core takes them."""
    scales = tuple([states.get(scale_name(name)) for name in names])
    return tuple([states[name] for name in names]), scales


def decoded(array: Array, scales: Array | None, axes: Sequence[int]) -> Array:
    """The values of a state; a float array is returned as it is.

    `axes`: the walk in which its blocks follow each other, outermost axis first."""
    if array.dtype.kind == "f":
        return array
    bits = array.view(_BITS) if _check.is_bfloat16(array.dtype) else array
    codes = np.asarray(bits.transpose(axes), order="C")
    values = np.empty(codes.shape, np.float32)
    _core.decode_state(codes, scales, values)
    return values.transpose(np.argsort(axes)) if axes else values


def encoded(
    values: Array, leaf: Leaf, name: str, stream: int, state_dtype: str | None
) -> dict[str, Array]:
    """A new state of these values, rounded to the nearest, with its scales."""
    state = new_state(leaf, name, stream, state_dtype)
    with np.errstate(over="ignore"):
        if state_dtype not in _ROUNDED:
            state[name][...] = values
            return state
        axes = leaf.axes()
        walked = np.asarray(values.transpose(axes), np.float32, order="C")
    _core.encode_state(walked, state[name].transpose(axes), state.get(scale_name(name)))
    return state


# ---- snapshots -------------------------------------------------------------------------------


def saved(leaf: Leaf, steps: int) -> dict[str, Any]:
    """The entry of a leaf in a snapshot.

    Where states have blocks, "axes" tells in which order these walk through the array: what saves
    and loads an array may lay it out anew."""
    entry: dict[str, Any] = {"step": steps}
    entry |= {name: array.copy(order="K") for name, array in leaf.state.items()}
    if any(scale_name(name) in leaf.state for name in leaf.state):
        entry["axes"] = leaf.axes()
    return entry


def loaded(
    where: str, entry: Mapping[str, Any], leaf: Leaf, name: str, stream: int, dtype: str | None
) -> dict[str, Array]:
    """The state `name` of a snapshot's entry as `dtype` wants it; `where` names the entry.

    Nothing is rounded where the snapshot has the same type and the same walk."""
    array, scales, axes = _checked(where, entry, leaf, name)
    state = new_state(leaf, name, stream, dtype)
    kept = state[name].view(_BITS) if _check.is_bfloat16(state[name].dtype) else state[name]
    same_walk = _long(axes, array.shape) == _long(leaf.axes(), array.shape)
    if array.dtype == kept.dtype and (scales is None or same_walk):
        kept[...] = array
        if scales is not None:
            state[scale_name(name)][...] = scales
        return state
    values = decoded(array, scales, axes)
    if dtype == "8bit" and kept.dtype == np.uint8 and (values < 0).any():
        raise ValueError(f"{where}[{name!r}] has elements below 0, which is no second moment")
    return encoded(values, leaf, name, stream, dtype)


def _long(axes: Sequence[int], shape: tuple[int, ...]) -> list[int]:
    """The axes that matter to the order of elements."""
    return [axis for axis in axes if shape[axis] > 1]


def _checked(
    where: str, entry: Mapping[str, Any], leaf: Leaf, name: str
) -> tuple[Array, Array | None, tuple[int, ...]]:
    """The array, scales and axes of a state in a snapshot; bfloat16 as its bits."""
    array = np.asarray(entry[name])
    if _check.is_bfloat16(array.dtype):
        array = array.view(_BITS)
    in_blocks = array.dtype.kind != "f" and array.dtype != _BITS
    if in_blocks and (array.dtype != _code_dtype(name) or scale_name(name) not in entry):
        raise TypeError(
            f"{where}[{name!r}] must be floating-point, or {_code_dtype(name)} with "
            f"{scale_name(name)!r} beside it, got {array.dtype}"
        )
    if array.shape != leaf.parameter.shape:
        raise ValueError(
            f"{where}[{name!r}] has shape {array.shape}, the parameter {leaf.parameter.shape}"
        )
    axes = tuple(range(array.ndim))
    if not in_blocks:
        return array, None, axes
    scales = _checked_scales(f"{where}[{scale_name(name)!r}]", entry[scale_name(name)], array.size)
    axes = tuple(entry.get("axes", axes))
    if sorted(axes) != list(range(array.ndim)):
        raise ValueError(f"{where}['axes'] must name {array.ndim} axes once each, got {axes}")
    return array, scales, axes


def _checked_scales(where: str, value: Any, size: int) -> Array:
    scales = np.asarray(value)
    if scales.dtype.kind != "f":
        raise TypeError(f"{where} must be floating-point, got {scales.dtype}")
    if scales.shape != (-(-size // BLOCK),):
        raise ValueError(
            f"{where} has shape {scales.shape}; {size} elements have {-(-size // BLOCK)} blocks"
        )
    if (scales < 0).any():
        raise ValueError(f"{where} has scales below 0")
    return np.ascontiguousarray(scales, np.float32)


# ---- what an optimizer has -------------------------------------------------------------------


class StoredStates:
    """The part of an optimizer that is about how it keeps its states."""

    seed = Option(_check.seed, optional=False)

    _leaves: Leaves
    _steady: _core.Steady
    _seed: int = 0
    _state_dtype: str | None = None

    @property
    def state_dtype(self) -> str | None:
        """How the states are kept: None, "float32", "bfloat16" or "8bit".

        Fixed when the optimizer is made. A new one with another `state_dtype` takes over with
        `load_state_dict`, which converts.
        """
        return self._state_dtype

    def decoded_state(self, name: str) -> dict[str, Any]:
        """The entry of `state` for one parameter with what its states stand for.

        Parameters
        ----------
        name : str
            A key of `state`.

        Returns
        -------
        dict
            "step" and float copies of the states, whatever `state_dtype` is; no scales.

        Raises
        ------
        KeyError
            No parameter of that name has had a gradient.
        """
        with self._steady.lock:
            steps = self._leaves.steps()
            for i, leaf in enumerate(self._leaves.all):
                if leaf.name == name and (leaf.state or steps[i]):
                    return {"step": steps[i], **_decoded_states(leaf)}
        raise KeyError(f"{name!r} has no state; list(opt.state) names those that have one")


def _decoded_states(leaf: Leaf) -> dict[str, Array]:
    axes, states = leaf.axes(), leaf.state
    return {
        name: np.array(decoded(states[name], states.get(scale_name(name)), axes), order="K")
        for name in states
        if name in _FORMATS
    }
