"""Nested values <-> JSON and a list of arrays.

What JSON has stands for itself. Everything else is an object of one key that begins with ``#``::

    {"#int": "0x..."}  {"#float": "nan"}  {"#complex": [1.0, 2.0]}  {"#bytes": "00ff"}
    {"#str": "hex of UTF-8"}  {"#tuple": [...]}  {"#dict": [[key, value], ...]}
    {"#scalar": [dtype, "hex of the bytes"]}  {"#array": index}  {"#schedule": index}
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from instep import _checkpoint_arrays
from instep._check import Array
from instep._checkpoint_arrays import CheckpointError, Entry
from instep.schedules import Schedule

_DEEPEST = 100  # levels; JSON readers end somewhere
_LONGEST = 100  # characters of a key in the name of an array
_MARK = "#"
_HOLDS = (
    "a checkpoint holds arrays, numbers, strings, bytes, None, schedules, and dicts, lists and "
    "tuples of these"
)


@dataclass(frozen=True)
class Place:
    """Where a value is: what it is in, and its key there. The root has its name as key."""

    above: Place | None
    key: Any

    def keys(self) -> list[Any]:
        keys, place = [], self
        while place.above is not None:
            keys.append(place.key)
            place = place.above
        return [place.key, *reversed(keys)]

    def __str__(self) -> str:
        root, *keys = self.keys()
        return str(root) + "".join(f"[{key!r}]" for key in keys)


# ---- writing ----------------------------------------------------------------------------------


class Encoder:
    """Makes JSON of values, and collects their arrays and schedules, each object once."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.arrays: list[Array] = []
        self.schedules: list[dict[str, Any]] = []
        self._indices: dict[int, int] = {}  # id of an array or a schedule -> its place
        self._alive: list[Any] = []  # whose ids are noted
        self._names: dict[str, int] = {}
        self._depth = 0

    def encode(self, value: Any, place: Place) -> Any:
        """The JSON of a value.

        Raises
        ------
        TypeError, ValueError
            What cannot be written, with its place.
        """
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, np.generic):
            array = np.asarray(value)
            dtype = self._dtype(array, place)
            return {"#scalar": [dtype, _checkpoint_arrays.stored(array).tobytes().hex()]}
        if isinstance(value, str):
            return _encode_text(str.__str__(value))
        if isinstance(value, int):
            number = int(value)
            return number if -(2**63) <= number < 2**63 else {"#int": hex(number)}
        if isinstance(value, float):
            real = float(value)
            return real if math.isfinite(real) else {"#float": repr(real)}
        if isinstance(value, complex):
            return {"#complex": [self.encode(part, place) for part in (value.real, value.imag)]}
        if isinstance(value, bytes):
            return {"#bytes": value.hex()}
        if isinstance(value, np.ndarray):
            return {"#array": self._array(value, place)}
        return self._encode_nested(value, place)

    def _encode_nested(self, value: Any, place: Place) -> Any:
        if self._depth == _DEEPEST:
            root = place.keys()[0]
            raise ValueError(f"{root} is nested more than {_DEEPEST} deep, or holds itself")
        self._depth += 1
        try:
            if isinstance(value, Schedule):
                return {"#schedule": self._schedule(value, place)}
            if isinstance(value, Mapping):
                return self._encode_mapping(value, place)
            if isinstance(value, list | tuple):
                parts = [
                    part if _is_usual(part) else self.encode(part, Place(place, k))
                    for k, part in enumerate(value)
                ]
                return parts if isinstance(value, list) else {"#tuple": parts}
        finally:
            self._depth -= 1
        raise TypeError(f"{place} is {_kind(value)}, which cannot be written; {_advice(value)}")

    def _encode_mapping(self, value: Mapping[Any, Any], place: Place) -> Any:
        pairs = [(key, self.encode(value[key], Place(place, key))) for key in value]
        if all(_is_plain(key) for key, _ in pairs):
            return dict(pairs)
        keys = [self.encode(key, Place(place, key)) for key, _ in pairs]
        return {"#dict": [[key, part] for key, (_, part) in zip(keys, pairs, strict=True)]}

    def _schedule(self, value: Schedule, place: Place) -> int:
        if id(value) not in self._indices:
            kind = type(value)
            parts = {
                field.name: self.encode(getattr(value, field.name), Place(place, field.name))
                for field in fields(value)
            }
            known = {"schedule": kind.__name__, "module": kind.__module__, "fields": parts}
            self._note(value, len(self.schedules))  # behind those that it is made of
            self.schedules.append(known)
        return self._indices[id(value)]

    def _array(self, value: Array, place: Place) -> int:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{place} is a masked array, whose mask would be lost; pass .data and .mask"
            )
        if id(value) not in self._indices:
            array = np.asarray(value)
            dtype = self._dtype(array, place)
            axes = _checkpoint_arrays.axes_of(array)
            self._note(value, len(self.arrays))
            self.entries.append(Entry(self._name(place), dtype, array.shape, axes))
            self.arrays.append(_checkpoint_arrays.stored(array))
        return self._indices[id(value)]

    def _dtype(self, array: Array, place: Place) -> Any:
        try:
            return self.encode(_checkpoint_arrays.describe(array.dtype), place)
        except (TypeError, ValueError, ImportError) as error:
            raise TypeError(
                f"{place} is an array of dtype {array.dtype}, which no file keeps without pickle; "
                "convert it, text for example with .astype('U')"
            ) from error

    def _note(self, value: Any, index: int) -> None:
        self._indices[id(value)] = index
        self._alive.append(value)

    def _name(self, place: Place) -> str:
        """A name that archives and file systems take; the JSON is what says whose it is."""
        parts = [re.sub(r"[^\w.+-]", "_", str(key)[:_LONGEST]) for key in place.keys()]
        name = "/".join(part if part.strip(".") else "_" * max(len(part), 1) for part in parts)
        self._names[name] = count = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}~{count}"


def _is_usual(part: Any) -> bool:
    """Is it what long lists are made of?"""
    return type(part) is float and math.isfinite(part)


def _is_plain(key: Any) -> bool:
    """Can the key stand for itself in JSON?"""
    return type(key) is str and not key.startswith(_MARK) and _encode_text(key) is key


def _encode_text(text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: JSON would join it with another half
        return {"#str": text.encode("utf-8", "surrogatepass").hex()}
    return text


def _kind(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"{kind} ({value!r:.60})"


def _advice(value: Any) -> str:
    if isinstance(value, np.random.Generator):
        return "pass its .bit_generator.state"
    if isinstance(value, np.random.BitGenerator):
        return "pass its .state"
    if isinstance(value, np.random.RandomState):
        return "pass its .get_state(legacy=False)"
    if isinstance(value, random.Random):
        return "pass its .getstate()"
    if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
        return "make it an array, with numpy.asarray for example"
    if callable(value):
        return (
            "a function cannot be saved: use one of instep.schedules, or a Schedule class of your "
            "own"
        )
    if isinstance(value, set | frozenset):
        return "make it a list"
    return _HOLDS


# ---- reading ----------------------------------------------------------------------------------


class Decoder:
    """Makes values of the JSON that `Encoder` wrote.

    Parameters
    ----------
    arrays : list of array
    schedules : list of dict
        As the encoder collected them.

    Raises
    ------
    CheckpointError
        A schedule that cannot be made.
    LookupError, TypeError, ValueError
        Here and in `decode`: what an encoder does not write.
    """

    def __init__(self, arrays: list[Array], schedules: Iterable[Mapping[str, Any]]) -> None:
        self._arrays = arrays
        self._schedules: list[Schedule] = []
        for known in schedules:
            self._schedules.append(self._made(known))

    def decode(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.decode(part) for part in node]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((mark, content),) = node.items()
            if mark.startswith(_MARK):
                return self._marked(mark, content)
        return {key: self.decode(part) for key, part in node.items()}

    def _marked(self, mark: str, content: Any) -> Any:
        match mark:
            case "#array":
                return self._arrays[content]
            case "#schedule":
                return self._schedules[content]
            case "#tuple":
                return tuple(self.decode(part) for part in content)
            case "#dict":
                return {self.decode(key): self.decode(part) for key, part in content}
            case "#scalar":
                return _scalar(self.decode(content[0]), bytes.fromhex(content[1]))
            case "#int":
                return int(content, 16)
            case "#float":
                return float(content)
            case "#complex":
                return complex(*[self.decode(part) for part in content])
            case "#bytes":
                return bytes.fromhex(content)
            case "#str":
                return bytes.fromhex(content).decode("utf-8", "surrogatepass")
        raise ValueError(f"unknown mark {mark!r}")

    def _made(self, known: Mapping[str, Any]) -> Schedule:
        name = known["schedule"]
        if name not in Schedule._known:
            raise CheckpointError(
                f"it has a schedule {name!r} of the module {known['module']!r}; import the module "
                "before loading"
            )
        values = {key: self.decode(part) for key, part in known["fields"].items()}
        try:
            return Schedule._known[name](**values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"its schedule {name!r} does not fit the class of today: {error}"
            ) from error


def _scalar(description: Any, content: bytes) -> Any:
    dtype = _checkpoint_arrays.dtype_of(description)
    array = np.empty((), dtype)
    if len(content) != dtype.itemsize:
        raise ValueError(f"{len(content)} bytes for a {dtype}")
    _checkpoint_arrays.bytes_of(array)[:] = content
    return array[()]
