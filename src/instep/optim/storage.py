"""How the states of an optimizer are kept: in the type computed in, or in fewer bits.

The formats are those of csrc/stored.h; docs/math.md has their formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instep import _check, _core
from instep._check import Array
from instep.optim.memory import NewArrays, quiet, walk_order
from instep.optim.options import Option
from instep.optim.parts import Part

if TYPE_CHECKING:
    from instep.optim.leaves import Leaf

BLOCK = 128  # elements of the walk that share a scale
_ROUNDED = ("bfloat16", "8bit")
_FORMATS = _core.states()  # state -> how it may be kept, as csrc/kernels.def says
_RULES = _core.rules()
_FLOAT32 = np.dtype(np.float32)
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


def _code_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(np.int8 if _FORMATS[name] == "SIGNED" else np.uint8)


def _parts(leaf: Leaf, name: str, state_dtype: str | None) -> dict[str, tuple[Array, Any]]:
    """The arrays that make up a state: name -> an array of its shape and walk, and its dtype."""
    like = leaf.parameter
    if state_dtype == "8bit":
        blocks = np.broadcast_to(np.False_, -(-like.size // BLOCK))  # a shape alone
        return {name: (like, _code_dtype(name)), scale_name(name): (blocks, _FLOAT32)}
    if state_dtype == "bfloat16":
        return {name: (like, bfloat16())}
    return {name: (like, _FLOAT32 if state_dtype == "float32" else leaf.dtype)}


def new_state(
    leaf: Leaf, name: str, stream: int, new: NewArrays, state_dtype: str | None
) -> dict[str, Array]:
    """Room for a state and its scales, if it has any; zeros unless it is a factory's."""
    made = {}
    for part, (like, dtype) in _parts(leaf, name, state_dtype).items():
        dense = state_dtype in _ROUNDED
        made[part] = new.make(f"{leaf.name}.{part}", like, dtype, stream, dense)
    return made


def handed(states: Mapping[str, Array], names: Sequence[str]) -> tuple[Any, Any]:
    """The states of these names and their scales, as the core takes them."""
    scales = tuple([states.get(scale_name(name)) for name in names])
    return tuple([states[name] for name in names]), scales


def _decoded(array: Array, scales: Array | None, axes: Sequence[int]) -> Array:
    """The values of a state; a float array is returned as it is.

    `axes`: the walk in which its blocks follow each other, outermost axis first."""
    if array.dtype.kind == "f":
        return array
    bits = array.view(_BITS) if _check.is_bfloat16(array.dtype) else array
    codes = np.asarray(bits.transpose(axes), order="C")
    values = np.empty(codes.shape, np.float32)
    _core.decode_state(codes, scales, values)
    return values.transpose(np.argsort(axes)) if axes else values


def _encoded(values: Array, leaf: Leaf, name: str, state_dtype: str) -> dict[str, Array]:
    """The arrays of a state that has these values, rounded to the nearest."""
    axes = walk_order(leaf.parameter)
    with quiet():
        walked = np.asarray(values.transpose(axes), np.float32, order="C")
    parts = _parts(leaf, name, state_dtype)
    codes = np.empty(walked.shape, parts[name][1])
    found = {name: codes.transpose(np.argsort(axes)) if axes else codes}
    if state_dtype == "8bit":
        found[scale_name(name)] = np.empty(parts[scale_name(name)][0].shape, np.float32)
    _core.encode_state(walked, codes, found.get(scale_name(name)))
    return found


# ---- snapshots -------------------------------------------------------------------------------


def walk(leaf: Leaf) -> dict[str, Any]:
    """What the entry of a leaf in a snapshot says besides its arrays: if these have blocks, the
    "axes" in whose order the blocks walk. What saves and loads an array may lay it out anew."""
    in_blocks = any(scale_name(name) in leaf.state for name in leaf.state)
    return {"axes": tuple(walk_order(leaf.parameter))} if in_blocks else {}


def states_in(where: str, entry: Mapping[str, Any], known: set[str]) -> list[str]:
    """The names of the states in an entry; `where` names it."""
    scales = {scale_name(name) for name in known if name in entry}
    names = [name for name in entry if name not in {"step", "axes", *scales}]
    for name in names:
        if name not in known:
            raise ValueError(f"{where} has a state {name!r}; known: {sorted(known)}")
    return names


def loaded(
    where: str, entry: Mapping[str, Any], leaf: Leaf, name: str, state_dtype: str | None
) -> dict[str, Array]:
    """The values of the arrays that make up a state of an optimizer, from a snapshot's entry.

    Nothing is rounded where the snapshot has the same type and the same walk."""
    array, scales, axes = _checked(where, entry, leaf, name)
    shape = array.shape
    if state_dtype == "8bit":
        same_walk = _long(axes, shape) == _long(walk_order(leaf.parameter), shape)
        if scales is not None and same_walk:
            return {name: array, scale_name(name): scales}
    elif state_dtype == "bfloat16" and array.dtype == _BITS:
        return {name: array.view(bfloat16())}
    values = _decoded(array, scales, axes)
    if state_dtype == "8bit" and _code_dtype(name) == np.uint8 and (values < 0).any():
        raise ValueError(f"{where}[{name!r}] has elements below 0, which no second moment has")
    return (
        {name: values} if state_dtype not in _ROUNDED else _encoded(values, leaf, name, state_dtype)
    )


def _long(axes: Sequence[int], shape: tuple[int, ...]) -> list[int]:
    """The axes that matter to the order of elements."""
    return [axis for axis in axes if shape[axis] > 1]


def _checked(
    where: str, entry: Mapping[str, Any], leaf: Leaf, name: str
) -> tuple[Array, Array | None, list[int]]:
    """The array, scales and axes of a state in a snapshot; bfloat16 as its bits."""
    array = np.asarray(entry[name])
    if _check.is_bfloat16(array.dtype):
        array = array.view(_BITS)
    in_blocks = array.dtype.kind != "f" and array.dtype != _BITS
    if not in_blocks and scale_name(name) in entry:
        raise TypeError(
            f"{where}[{name!r}] is {array.dtype} with {scale_name(name)!r} beside it, which only "
            f"{_code_dtype(name)} has: give the codes their dtype back, or leave the scales out"
        )
    if in_blocks and (array.dtype != _code_dtype(name) or scale_name(name) not in entry):
        raise TypeError(
            f"{where}[{name!r}] must be floating-point, or {_code_dtype(name)} with "
            f"{scale_name(name)!r} beside it, got {array.dtype}"
        )
    if array.shape != leaf.parameter.shape:
        raise ValueError(
            f"{where}[{name!r}] has shape {array.shape}, the parameter {leaf.parameter.shape}"
        )
    axes = list(range(array.ndim))
    if not in_blocks:
        return array, None, axes
    scales = _checked_scales(f"{where}[{scale_name(name)!r}]", entry[scale_name(name)], array.size)
    return array, scales, _checked_axes(f"{where}['axes']", entry.get("axes", axes), array.ndim)


def _checked_axes(where: str, value: Any, ndim: int) -> list[int]:
    axes = value.tolist() if isinstance(value, np.ndarray) else value
    listed = isinstance(axes, list | tuple) and len(axes) == ndim
    if not listed or any(axis not in axes for axis in range(ndim)):
        raise ValueError(f"{where} must name {ndim} axes once each, got {value!r:.60}")
    return [int(axis) for axis in axes]


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


class StoredStates(Part):
    """What every optimizer offers for states in fewer bits."""

    seed = Option(_check.seed, optional=False)

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
    axes, states = walk_order(leaf.parameter), leaf.state
    return {
        name: np.array(_decoded(states[name], states.get(scale_name(name)), axes), order="K")
        for name in states
        if name in _FORMATS
    }
