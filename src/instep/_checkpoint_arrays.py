"""Arrays of a checkpoint: what of them a file keeps, and how they come back."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from instep._check import Array

# What is not NumPy's own is kept as integers of its size under this name and the type's.
_EXTENSION = "ml_dtypes."
_KINDS = "biufcmMSUV"
_REGISTERED = 2  # what `isbuiltin` says of a dtype that another package has added


Document = dict[str, Any]  # the JSON of a checkpoint


class CheckpointError(ValueError):
    """A file that is no checkpoint, a damaged one, or one that this instep cannot read."""


@dataclass
class Entry:
    """An array and what the checkpoint notes of it.

    Attributes
    ----------
    name : str
        Of the member in the file.
    dtype : str or list
        As `describe` returns it.
    shape : tuple of int
    axes : list of int or None
        Axes from the outermost in memory to the innermost; None for C order.
    crc32 : str
        Of the bytes that the file keeps, 8 hexadecimal digits.
    """

    name: str
    dtype: Any
    shape: tuple[int, ...]
    axes: list[int] | None
    crc32: str = "00000000"

    @property
    def reversed(self) -> bool:
        """Is it in Fortran order?"""
        return self.axes == list(range(len(self.shape)))[::-1]


def describe(dtype: np.dtype[Any]) -> Any:
    """The dtype as a string, or for records as the list that ``.npy`` files have.

    Raises
    ------
    ValueError
        If a file cannot keep it.
    """
    if dtype.type.__module__ == "ml_dtypes":
        name = f"{_EXTENSION}{dtype.name}"
        if dtype_of(name) == dtype:
            return name
    elif dtype.kind in _KINDS and dtype.isbuiltin != _REGISTERED and not dtype.hasobject:
        description = np.lib.format.dtype_to_descr(dtype)
        if np.lib.format.descr_to_dtype(description) == dtype:
            return description
    raise ValueError(f"dtype {dtype}")


def dtype_of(description: Any) -> np.dtype[Any]:
    """The way back from `describe`.

    Raises
    ------
    ImportError
        If the dtype is one of ml_dtypes, which is not installed.
    TypeError, ValueError
        If this NumPy does not know it, or it holds objects.
    """
    if isinstance(description, str) and description.startswith(_EXTENSION):
        name = description.removeprefix(_EXTENSION)
        try:
            module = importlib.import_module("ml_dtypes")
        except ImportError as error:
            raise ImportError(
                f"the checkpoint has arrays of {name}, which need ml_dtypes: "
                "python -m pip install ml_dtypes"
            ) from error
        added: np.dtype[Any] = np.dtype(getattr(module, name))
        return added
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(description)
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} holds objects")
    return dtype


def axes_of(array: Array) -> list[int] | None:
    """The order of the axes in memory; None for C order."""
    if array.flags.c_contiguous:
        return None
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return None if axes == list(range(array.ndim)) else axes


def stored(array: Array) -> Array:
    """The same memory as a dtype that every reader of the file knows."""
    if array.dtype.type.__module__ == "ml_dtypes":
        return array.view(np.dtype(f"u{array.itemsize}"))
    return array


def empty(entry: Entry, size: int, in_order: bool) -> Array:
    """An array for the `size` bytes of the entry, in Fortran order if it is to be `in_order`."""
    dtype = dtype_of(entry.dtype)
    wanted = math.prod(entry.shape) * dtype.itemsize
    if wanted != size or min(entry.shape, default=0) < 0:
        raise ValueError(
            f"{entry.name} has {size} bytes, {dtype} of shape {entry.shape} needs {wanted}"
        )
    return np.empty(entry.shape, dtype, order="F" if in_order and entry.reversed else "C")


def bytes_of(array: Array) -> memoryview:
    """The memory of an array in C or Fortran order."""
    if array.nbytes == 0:
        return memoryview(bytearray())
    return memoryview(array.ravel(order="K").view(np.uint8))  # type: ignore[arg-type]


def arranged(array: Array, axes: list[int] | None) -> Array:
    """The array in the order of memory that it had; a copy only if it is not."""
    if axes is None or axes_of(array) == axes:
        return array
    if sorted(axes) != list(range(array.ndim)):
        raise ValueError(f"{axes} are not the axes of an array of shape {array.shape}")
    memory = np.empty([array.shape[axis] for axis in axes], array.dtype)
    result = memory.transpose(np.argsort(axes))
    result[...] = array
    return result
