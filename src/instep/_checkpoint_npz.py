"""Checkpoints as ``.npz`` files: a ZIP archive of ``.npy`` members and one of JSON, uncompressed.

``numpy.load(path)`` reads the arrays. Each member has its CRC32 in the archive's directory, and the
JSON, written last, has those of the arrays once more.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any, BinaryIO

import numpy as np

from instep._atomic import WholeFile
from instep._check import Array
from instep._checkpoint_arrays import CheckpointError, Document, Entry, bytes_of, empty

MAGIC = b"PK"
DOCUMENT = "checkpoint.json"
_CHUNK = 1 << 20  # bytes read at once
_LONGEST = 1 << 30  # bytes; above it sizes have 64 bits, which ZIP needs from 2 GiB on


def write(file: WholeFile, document: Document, entries: list[Entry], arrays: list[Array]) -> None:
    """Write all of a checkpoint, one buffer of each array at a time."""
    with zipfile.ZipFile(file, "w") as archive:
        for entry, array in zip(entries, arrays, strict=True):
            if entry.reversed and not array.flags.f_contiguous:
                array = array.copy(order="F")  # there are gaps in it
            info = zipfile.ZipInfo(f"{entry.name}.npy")  # of 1980: equal content, equal bytes
            with archive.open(info, "w", force_zip64=array.nbytes > _LONGEST) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
            entry.crc32 = f"{info.CRC:08x}"
        whole = document | {"arrays": [vars(entry) for entry in entries]}
        archive.writestr(zipfile.ZipInfo(DOCUMENT), json.dumps(whole, allow_nan=False))


class Reader:
    """Reads a file that begins with `MAGIC`.

    Raises
    ------
    CheckpointError, zipfile.BadZipFile and others
        Here and in all methods: what does not hold.
    """

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._archive = zipfile.ZipFile(file)

    def close(self) -> None:
        self._archive.close()

    def document(self) -> Any:
        if DOCUMENT not in self._archive.namelist():
            raise CheckpointError(
                f"it has no {DOCUMENT}, so instep.save did not write it; numpy.load reads the "
                "arrays of any .npz file"
            )
        return json.loads(self._archive.read(self._member(DOCUMENT)))

    def check_names(self, entries: list[Entry]) -> None:
        wanted = sorted([DOCUMENT, *[f"{entry.name}.npy" for entry in entries]])
        found = sorted(self._archive.namelist())
        if found != wanted:
            odd = sorted(set(found) ^ set(wanted)) or "a name twice"
            raise CheckpointError(f"it does not have the members that were written: {odd}")

    def array(self, entry: Entry) -> Array:
        info = self._member(f"{entry.name}.npy")
        if f"{info.CRC:08x}" != entry.crc32:
            raise CheckpointError(f"{info.filename} is not the one that was written")
        with self._archive.open(info) as member:
            head = member.read(8)
            length = member.read(2 if head[6] == 1 else 4)
            skipped = int.from_bytes(length, "little")
            member.read(skipped)
            array = empty(entry, info.file_size - 8 - len(length) - skipped, in_order=True)
            memory, start = bytes_of(array), 0
            while part := member.read(_CHUNK):  # to the end: there the checksum is compared
                memory[start : start + len(part)] = part
                start += len(part)
            if start != array.nbytes:
                raise CheckpointError(f"{info.filename} ends early")
        return array

    def _member(self, name: str) -> zipfile.ZipInfo:
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointError(f"{name} is compressed, which instep.save does not do")
        return info
