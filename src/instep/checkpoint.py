"""Saving an optimizer to a file, and loading it: whole or not at all, and without pickle."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from errno import EINVAL
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import instep
from instep import _checkpoint_npz as npz
from instep import _checkpoint_safetensors as safetensors
from instep._atomic import replacing
from instep._check import Array
from instep._checkpoint_arrays import CheckpointError, Document, Entry, arranged
from instep._checkpoint_tree import Decoder, Encoder, Place
from instep.optim import state_dict
from instep.optim.base import Optimizer

__all__ = ["Checkpoint", "CheckpointError", "load", "save"]

FORMAT = "instep checkpoint"
VERSION = 1

CheckpointError.__module__ = __name__  # where it is public, for messages and pickles


class Checkpoint(NamedTuple):
    """What `load` has read.

    Attributes
    ----------
    state_dict : dict
        For ``opt.load_state_dict``.
    extra : dict
        What else was given to `save`, by name.
    """

    state_dict: dict[str, Any]
    extra: dict[str, Any]


def save(
    path: str | os.PathLike[str], state: Optimizer | Mapping[str, Any], /, **extra: Any
) -> None:
    """Write an optimizer, and whatever else a training run needs, to one file.

    The file at `path` is replaced whole or stays as it was, also if the process is killed or the
    disk is full: everything goes to a temporary file in the same directory, which is brought to
    the disk (fsync) and then renamed.

    Parameters
    ----------
    path : str or os.PathLike
        A file that ends in ``.safetensors`` is written in that format (the extra
        ``safetensors``), every other as ``.npz``, readable by ``numpy.load``. No suffix is added.
        If it is a symbolic link, the file it points to is replaced. A new file has the permissions
        that ``open`` would give it, a replaced one keeps its own.
    state : optimizer or dict
        An optimizer is written as its ``state_dict()``, without the copy of all arrays that this
        is; meanwhile other threads wait with their steps.
    **extra
        Anything else by name, say ``params=params, epoch=3, rng=rng.bit_generator.state``: arrays,
        numbers, strings, bytes, None, schedules, and dicts, lists and tuples of these. Any name
        may be used.

    Raises
    ------
    TypeError
        What no file keeps without pickle: a function as a schedule, an array of objects, a set. The
        message names the place, and nothing is written.
    ValueError
        Nested more than 100 deep, or in itself; a `path` that is a device or a pipe.
    OSError
        What the system says. The file at `path` is as it was.
    ImportError
        ``.safetensors`` without the library.

    See Also
    --------
    load : The way back.

    Notes
    -----
    Values come back equal and of the same type: tuples as tuples, NumPy scalars as such, arrays
    with dtype and order of memory, int and float exactly. Subclasses come back as their base:
    a named tuple as a tuple, an OrderedDict as a dict, a memmap as an array. An array or
    a schedule that stands in several places is written once, and comes back as one object.

    The temporary file is named like ``.model.npz.0f3a55c1d2e46b78.instep-tmp``. One that a killed
    process left is removed by the next save to the same path.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import instep
    >>> params = {"W": np.ones(3)}
    >>> opt = instep.AdamW(params)
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> instep.save(path, opt, params=params, epoch=3)
    >>> checkpoint = instep.load(path)
    >>> checkpoint.extra["epoch"]
    3
    >>> opt.load_state_dict(checkpoint.state_dict)
    LoadReport(missing=(), unexpected=())
    """
    target = _path(path)
    container: Any = safetensors if target.endswith(".safetensors") else npz
    if container is safetensors:
        safetensors.library()
    if not isinstance(state, Optimizer | Mapping):
        raise TypeError(
            f"state must be an optimizer or its state_dict, got {type(state).__name__}; pass what "
            "else there is to save by name"
        )
    with state_dict.held(state) if isinstance(state, Optimizer) else nullcontext(state) as tree:
        encoder = Encoder()
        document = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": f"instep {instep.__version__}, NumPy {np.__version__}, Python "
            f"{platform.python_version()}, {platform.machine()}",
            "state_dict": encoder.encode(tree, Place(None, "state_dict")),
            "extra": encoder.encode(extra, Place(None, "extra")),
            "schedules": encoder.schedules,
        }
        with replacing(target) as file:
            container.write(file, document, encoder.entries, encoder.arrays)


def load(path: str | os.PathLike[str], /) -> Checkpoint:
    """Read what `save` wrote. All checksums are compared before anything is returned.

    Parameters
    ----------
    path : str or os.PathLike
        A file in either format, whatever its suffix.

    Returns
    -------
    Checkpoint
        ``state_dict`` is for ``opt.load_state_dict``, ``extra`` is what else was saved.

    Raises
    ------
    CheckpointError
        The file is truncated or damaged, was not written by `save` or by a newer instep, or has
        a schedule of a class that has not been imported. A ValueError.
    ImportError
        It needs safetensors or, for arrays of bfloat16 and the like, ml_dtypes.
    OSError
        What the system says, FileNotFoundError for example.

    See Also
    --------
    save : With an example.
    """
    target = _path(path)
    with open(target, "rb") as file, _explained(target):
        with closing(_reader(target, file)) as reader:
            document = reader.document()
            _check_version(document)
            entries = [_entry(noted) for noted in document["arrays"]]
            reader.check_names(entries)
            arrays: list[Array] = [arranged(reader.array(entry), entry.axes) for entry in entries]
        decoder = Decoder(arrays, document["schedules"])
        return Checkpoint(decoder.decode(document["state_dict"]), decoder.decode(document["extra"]))


def _path(path: Any) -> str:
    try:
        return os.fsdecode(path)
    except TypeError:
        raise TypeError(
            f"path must be a str or os.PathLike, got {type(path).__name__} ({path!r:.60})"
        ) from None


def _reader(path: str, file: BinaryIO) -> Any:
    start = file.read(9)
    if start.startswith(npz.MAGIC):
        return npz.Reader(path, file)
    if safetensors.is_ours(start):
        return safetensors.Reader(path, file)
    raise CheckpointError(
        f"it is neither .npz nor .safetensors, or it is damaged: it begins with {start!r}"
    )


def _check_version(document: Document) -> None:
    if document["format"] != FORMAT:
        raise CheckpointError(f"its format is {document['format']!r}, not {FORMAT!r}")
    if document["version"] != VERSION:
        raise CheckpointError(
            f"it has version {document['version']!r} and was written by "
            f"{document['written_by']}; this instep {instep.__version__} reads {VERSION}: update it"
        )


def _entry(noted: Mapping[str, Any]) -> Entry:
    entry = Entry(**noted)
    entry.shape = tuple(entry.shape)
    entry.dtype = Decoder([], []).decode(entry.dtype)  # of records it is a list of tuples
    return entry


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Make one error of all that a damaged file causes; what else fails passes."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path!r} cannot be loaded: {error}") from error
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno != EINVAL:  # a seek to before the file
            raise
        raise CheckpointError(
            f"{path!r} is damaged: {type(error).__name__}: {error}; load an earlier checkpoint"
        ) from error
