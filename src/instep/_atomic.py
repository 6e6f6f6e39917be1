"""A file that is replaced whole or not at all, whenever the process is killed."""

import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Of a temporary file: ".model.npz.0f3a55c1d2e46b78.instep-tmp" beside "model.npz".
SUFFIX = ".instep-tmp"
_STEM = 40  # characters of the name that are kept: file systems end at 255 bytes
_TOKEN = 16
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_ABANDONED_AFTER = 3600.0  # seconds, where a lock cannot tell
# What a file system answers that has no such call, or does not give it to us.
_NO_SUCH_CALL = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


class WholeFile(io.FileIO):
    """A file whose `write` writes everything or raises.

    Nothing is held back, so that neither a forked child nor a close after an error writes later.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        super().__init__(descriptor, "w")
        self.path = path

    def write(self, data: object) -> int:
        rest = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = rest.nbytes
        while rest.nbytes:
            rest = rest[super().write(rest) :]
        return size


@contextmanager
def replacing(path: str) -> Iterator[WholeFile]:
    """A file to write, which takes the place of `path` when the block ends.

    If the block raises, the file at `path` stays as it was and the new one is removed. If the
    process is killed, it is left behind, and the next call for the same path removes it.

    Raises
    ------
    OSError
        As ``open(path, "wb")`` would, and for what writing and replacing raise.
    ValueError
        If `path` is a device, a pipe or the like.
    """
    target = os.path.realpath(path)  # a symbolic link stays; what it points to is replaced
    mode = _mode(target)
    folder, name = os.path.split(target)
    _remove_abandoned(folder, name)
    file = _create(folder, name, mode)
    try:
        yield file
        _sync(file.fileno())
        if fcntl is None:
            file.close()  # Windows does not rename an open file; elsewhere it holds the lock
        os.replace(file.path, target)
    except BaseException:
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            os.unlink(file.path)
        raise
    file.close()
    _sync_folder(folder)


def _mode(target: str) -> int | None:
    """The permissions of the file that is there; None if there is none."""
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        hint = "no such directory; make it first with os.makedirs"
        raise FileNotFoundError(errno.ENOENT, hint, folder)
    try:
        found = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, "is a directory; name a file in it", target)
    if not stat.S_ISREG(found):
        raise ValueError(f"{target!r} is not a regular file, and would be lost; name another")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file is write-protected", target)
    return stat.S_IMODE(found) & 0o777


def _create(folder: str, name: str, mode: int | None) -> WholeFile:
    """A new file beside the target, with its permissions, locked for as long as it is open."""
    while True:
        token = secrets.token_hex(_TOKEN // 2)
        temporary = os.path.join(folder, f"{_stem(name)}{token}{SUFFIX}")
        # 0o666: less the umask, as open() does.
        descriptor = os.open(temporary, _FLAGS, 0o666 if mode is None else 0o600)
        file = WholeFile(temporary, descriptor)
        try:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks: nothing is cleaned up there
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.lexists(temporary):  # else it was removed before it was locked
                return file
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            file.close()
            raise
        file.close()


def _stem(name: str) -> str:
    return f".{name[:_STEM]}."


def _remove_abandoned(folder: str, name: str) -> None:
    """Remove the temporary files of this target whose processes were killed."""
    stem = _stem(name)
    length = len(stem) + _TOKEN + len(SUFFIX)
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if (
                len(entry.name) == length
                and entry.name.startswith(stem)
                and entry.name.endswith(SUFFIX)
            ):
                with suppress(OSError):
                    _remove_if_abandoned(entry.path)


def _remove_if_abandoned(path: str) -> None:
    if fcntl is None:
        if time.time() - os.path.getmtime(path) > _ABANDONED_AFTER:
            os.unlink(path)
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # The lock ends with its process, so whoever gets it may remove the file.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Bring a file to the disk, through the disk's own cache where the system can."""
    if fcntl is not None and hasattr(fcntl, "F_FULLFSYNC"):  # macOS, whose fsync stops before that
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                raise
    os.fsync(descriptor)


def _sync_folder(folder: str) -> None:
    """Bring the renaming to the disk; Windows has no call for it."""
    if fcntl is None:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a directory that may be written but not read
    try:
        _sync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        os.close(descriptor)
