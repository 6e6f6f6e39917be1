"""Checkpoints as ``.safetensors`` files, read by the library of that name.

The header is written here, for three reasons. The library's writer takes C-contiguous memory of all
tensors at once, so others would be copied. It writes a file of its own, with permissions 0600 and a
name that nobody would know for a leftover, and renames it. And a checksum that stands in the header
is known only when the data are written. The library opens each new file before it takes the place
of another.

The JSON is the metadata "instep", its CRC32 "instep_crc32".
"""

from __future__ import annotations

import json
import zlib
from typing import Any, BinaryIO

import numpy as np

from instep._atomic import WholeFile
from instep._check import Array
from instep._checkpoint_arrays import CheckpointError, Document, Entry, bytes_of, dtype_of, empty

_DOCUMENT, _CHECKSUM = "instep", "instep_crc32"
_LENGTH = 8  # bytes of the header's length, in front of it
_LONGEST = 100_000_000  # bytes of a header: the library reads no longer ones
_CHUNK = 1 << 22  # bytes written at once
# Everything else is kept as bytes.
_CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}


def library() -> Any:
    """The module safetensors.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "checkpoints of the suffix .safetensors need safetensors: "
            'python -m pip install "instep[safetensors]"'
        ) from error
    return safetensors


def write(file: WholeFile, document: Document, entries: list[Entry], arrays: list[Array]) -> None:
    """Write all of a checkpoint, one buffer of each array at a time."""
    tensors = sorted(zip(entries, arrays, strict=True), key=lambda pair: -_alignment(*pair))
    size = len(_header(document, entries, tensors))  # checksums, not known yet, do not change it
    if size > _LONGEST:
        raise ValueError(
            f"the values that are no arrays take {size} bytes, and safetensors reads at most "
            f"{_LONGEST}: make arrays of long lists, or save as .npz"
        )
    file.seek(_LENGTH + size)
    for entry, array in tensors:
        entry.crc32 = _write_array(file, array)
    file.seek(0)
    file.write(size.to_bytes(_LENGTH, "little") + _header(document, entries, tensors))
    with library().safe_open(file.path, framework="numpy", backend="pread"):
        pass  # it can be read


def _code(entry: Entry, array: Array) -> str | None:
    """The format's name of the dtype; None where the format has none."""
    if entry.dtype == "ml_dtypes.bfloat16":
        return "BF16"
    return _CODES.get(array.dtype.name) if array.dtype.str[0] in "<|" else None


def _alignment(entry: Entry, array: Array) -> int:
    return array.itemsize if _code(entry, array) else 1


def _header(document: Document, entries: list[Entry], tensors: list[tuple[Entry, Array]]) -> bytes:
    whole = document | {"arrays": [vars(entry) for entry in entries]}
    text = json.dumps(whole, allow_nan=False)
    checksum = f"{zlib.crc32(text.encode()):08x}"
    header: dict[str, Any] = {"__metadata__": {_DOCUMENT: text, _CHECKSUM: checksum}}
    start = 0
    for entry, array in tensors:
        code = _code(entry, array)
        header[entry.name] = {
            "dtype": code or "U8",
            "shape": array.shape if code else [array.nbytes],
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    data = json.dumps(header, allow_nan=False).encode()
    return data + b" " * (-len(data) % _LENGTH)


def _write_array(file: WholeFile, array: Array) -> str:
    """Write the elements in C order; the checksum."""
    checksum = 0
    if array.nbytes:
        size = max(_CHUNK // array.itemsize, 1)
        flags: Any = ["external_loop", "buffered"]
        for part in np.nditer(array, flags=flags, buffersize=size, order="C"):
            data = np.asarray(part).tobytes()
            checksum = zlib.crc32(data, checksum)
            file.write(data)
    return f"{checksum:08x}"


class Reader:
    """Reads a file that `is_ours` knows.

    Raises
    ------
    CheckpointError, safetensors.SafetensorError and others
        Here and in all methods: what does not hold.
    """

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._tensors = library().safe_open(path, framework="numpy", backend="pread")
        self._tensors.__enter__()

    def close(self) -> None:
        self._tensors.__exit__(None, None, None)

    def document(self) -> Any:
        metadata = self._tensors.metadata() or {}
        if _DOCUMENT not in metadata:
            raise CheckpointError(
                f"it has no metadata {_DOCUMENT!r}, so instep.save did not write it; "
                "safetensors.numpy.load_file reads the arrays of any .safetensors file"
            )
        text = metadata[_DOCUMENT]
        if f"{zlib.crc32(text.encode()):08x}" != metadata[_CHECKSUM]:
            raise CheckpointError(f"its metadata {_DOCUMENT!r} do not have the checksum they had")
        return json.loads(text)

    def check_names(self, entries: list[Entry]) -> None:
        odd = {*self._tensors.keys()} ^ {entry.name for entry in entries}
        if odd:
            raise CheckpointError(f"it does not have the arrays that were written: {sorted(odd)}")

    def array(self, entry: Entry) -> Array:
        dtype_of(entry.dtype)  # of a missing module it says more than the library
        tensor = self._tensors.get_tensor(entry.name)
        array = empty(entry, tensor.nbytes, in_order=False)
        memory = bytes_of(array)
        memory[:] = bytes_of(tensor)
        if f"{zlib.crc32(memory):08x}" != entry.crc32:
            raise CheckpointError(f"{entry.name} does not have the checksum it had")
        return array


def is_ours(start: bytes) -> bool:
    """Are these the first bytes of such a file?"""
    return start[_LENGTH : _LENGTH + 1] == b"{" and start[5:_LENGTH] == bytes(3)
