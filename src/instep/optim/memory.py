"""Where the arrays of an optimizer lie: in memory of its own, or where a `state_factory` says."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from instep import _check
from instep._check import Array
from instep.optim.options import Option

Factory = Callable[[str, tuple[int, ...], np.dtype[Any]], Array]
Named = Iterable[tuple[str, Array]]  # names for messages

_LINE = 64  # bytes of a cache line
_PAGE = 4096
_APART = 768  # bytes between streams within a page
_LARGE = 16 * _PAGE  # where a page more is nothing
_SMALL = _PAGE // 2  # two of a page would agree in the last 12 bits of their addresses
_BLOCK = 1 << 23  # bytes for small arrays; NumPy asks for huge pages from 4 MB on


def quiet() -> Any:
    """For conversions: no warnings about values out of range, nor about signalling NaN."""
    return np.errstate(over="ignore", invalid="ignore")


def walk_order(array: Array) -> list[int]:
    """The axes as csrc/view.c walks them: by falling |stride|."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


def _as_walked(array: Array, order: list[int]) -> Array:
    """What has its axes in the order of the walk, with its axes in place."""
    return array if order == sorted(order) else array.transpose(np.argsort(order))


class _Small:
    """Zeros for small arrays, one behind the other: thousands lie in few pages, large ones where
    the system has them. A block of memory lives as long as one of its arrays."""

    def __init__(self) -> None:
        self._block = np.zeros(0, np.uint8)
        self._address = self._used = 0

    def zeros(self, size: int, dtype: np.dtype[Any], address: int) -> Array:
        """`size` zeros that lie in a cache line as `address` does, rounded down to a multiple of
        their itemsize."""
        address -= address % dtype.itemsize
        needed = size * dtype.itemsize
        start = self._used + (address - self._address - self._used) % _LINE
        if start + needed > self._block.size:
            grown = 2 * self._block.size if self._block.size < _LARGE else _BLOCK
            self._block = np.zeros(max(needed + _LINE, grown), np.uint8)
            self._address = self._block.ctypes.data
            start = (address - self._address) % _LINE
        self._used = start + needed
        return self._block[start : self._used].view(dtype)


def _zeros(size: int, dtype: np.dtype[Any], address: int, stream: int) -> Array:
    """In memory of their own. Large arrays lie `stream` times _APART further in their page than
    `address`: stores and loads that agree in the last 12 bits of the address can wait for each
    other."""
    large = size * dtype.itemsize >= _LARGE
    unit, offset = (_PAGE, _APART * stream) if large else (_LINE, 0)
    room = np.zeros(size + unit // dtype.itemsize, dtype)
    skip = (address + offset - room.ctypes.data) % unit // dtype.itemsize
    return room[skip : skip + size]


class NewArrays:
    """Arrays that one change of an optimizer needs.

    What a factory returned for them is looked at, all of it, before anything is written."""

    def __init__(self, factory: Factory | None) -> None:
        self.factory = factory
        self._asked: list[tuple[str, Array]] = []
        self._small = _Small()

    def make(
        self,
        name: str,
        like: Array,
        dtype: np.dtype[Any],
        stream: int,
        dense: bool = False,
    ) -> Array:
        """An array of the shape of `like`, walked in its order: the factory's, or dense zeros.

        Zeros of the dtype of `like` lie relative to cache lines as that does: csrc/step.h starts
        its vectors where the parameter's lines start. Others have another spacing anyway, and
        begin where a line does. `stream`: a number that the arrays of a step do not share.
        `dense`: elements of the factory's array must follow
        each other, too. It is not asked for arrays without elements: no file can be mapped to
        them."""
        order = walk_order(like)
        shape = tuple([like.shape[axis] for axis in order])
        if self.factory is not None and like.size > 0:
            return _as_walked(self._asked_for(name, shape, dtype, dense), order)
        address = like.ctypes.data if dtype == like.dtype else 0
        if like.size * dtype.itemsize <= _SMALL:
            zeros = self._small.zeros(like.size, dtype, address)
        else:
            zeros = _zeros(like.size, dtype, address, stream)
        return _as_walked(zeros.reshape(shape), order)

    def _asked_for(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], dense: bool
    ) -> Array:
        """The factory's array, if it is one that can be used."""
        assert self.factory is not None
        array = self.factory(name, shape, dtype)
        call = f"state_factory({name!r}, {shape}, {dtype})"
        _check_returned(call, array, shape, dtype)
        if dense and not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(
                f"{call} returned an array that is not aligned and C-contiguous (strides "
                f"{array.strides}), as states in 16 and 8 bits must be"
            )
        self._asked.append((f"what state_factory returned for {name!r}", array))
        return array

    def check(self, present: Named) -> None:
        """Refuse arrays of the factory that share memory with each other or with what is there."""
        if not self._asked:
            return
        asked = len(self._asked)
        named = [*self._asked, *present]
        arrays = [array for _, array in named]
        for one, other in _check.meetings(arrays, lambda i, k: i < asked or k < asked):
            first, second = sorted((one, other))
            raise ValueError(
                f"{named[first][0]} overlaps {named[second][0]} in memory; return an array of its "
                "own for each name"
            )

    def zero(self) -> None:
        """What a factory returns may hold anything."""
        for _, array in self._asked:
            array[...] = 0


def _check_returned(call: str, array: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{call} returned {type(array).__name__} ({array!r:.60}); return a NumPy array, say "
            "numpy.memmap, or numpy.ndarray over a buffer"
        )
    if array.dtype != dtype:
        raise TypeError(f"{call} returned dtype {array.dtype.str}; return one of {dtype.str}")
    if array.shape != shape:
        raise ValueError(f"{call} returned shape {array.shape}; return one of shape {shape}")
    if not array.flags.writeable:
        raise ValueError(f"{call} returned a read-only array; map files with mode 'r+' or 'w+'")
    if array.size > 1 and _check.overlaps_itself(array):
        raise ValueError(
            f"{call} returned an array that overlaps itself (strides {array.strides}); each "
            "element needs bytes of its own"
        )


class Loading(NewArrays):
    """Where the arrays of a snapshot go, and that they are written all at once, in the end.

    Without a factory into new memory; with one into the arrays that are there, since its files or
    segments may be the same ones however often it is asked."""

    def __init__(self, factory: Factory | None) -> None:
        super().__init__(factory)
        self._fresh: list[tuple[Array, Array]] = []
        self._there: list[tuple[str, Array, Array]] = []  # name, to be written, its values

    def into(self, name: str, target: Array, values: Array) -> None:
        """Write them over what is there."""
        self._there.append((name, target, values))

    def into_new(self, target: Array, values: Array) -> None:
        self._fresh.append((target, values))

    def check(self, present: Named) -> None:
        super().check(present)
        for name, target, _ in self._there:
            if not target.flags.writeable:
                raise ValueError(
                    f"{name} is read-only and cannot be loaded into; make it writable first"
                )

    def write(self) -> None:
        """All values, as they are now: what a snapshot shares with the optimizer counts too."""
        pairs = [(target, values) for _, target, values in self._there] + self._fresh
        targets = [target for target, _ in pairs]
        sources = [values for _, values in pairs]
        if self._there or self._asked:
            count = len(pairs)
            crossing = _check.meetings(targets + sources, lambda i, k: (i < count) != (k < count))
            for k in {max(pair) - count for pair in crossing}:
                sources[k] = sources[k].copy()
        with quiet():
            for target, values in zip(targets, sources, strict=True):
                target[...] = values


class FactoryOption(Option):
    """Kept where the arrays are made."""

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance._leaves.factory

    def __set__(self, instance: Any, value: Any) -> None:
        with instance._steady.lock:
            instance._leaves.factory = self.checked(value)
