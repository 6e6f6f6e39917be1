"""The file is replaced whole or not at all: killed processes, full disks, concurrent saves."""

import errno
import os
import signal
import stat
import zipfile

import checkpoint_kills
import numpy as np
import pytest
from checkpoint_common import SUFFIXES, assert_same, posix, small_optimizer, temporary_files
from conftest import run_python

import instep
from instep import _atomic


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


# ---- killed processes ------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_kills_at_random_instants(suffix, tmp_path):
    """`make kills` does 1,000. The file is whole after each, and never older than promised."""
    code = (
        "import checkpoint_kills, pathlib\n"
        f"path = pathlib.Path({str(tmp_path)!r}) / 'model{suffix}'\n"
        "outcome = checkpoint_kills.kill_often(path, 50)\n"
        "print(outcome.kills, outcome.in_mid_save)"
    )
    done = run_python(code, timeout=120)
    assert done.returncode == 0, done.stderr
    kills, in_mid_save = map(int, done.stdout.split())
    assert kills == 50 and in_mid_save >= 3, "hardly any kill hit a save: nothing is shown"


CALLS = ["open", "fchmod", "fsync", "replace", "unlink"]


def killed_at(path, k):
    """A child that saves and is killed at its k-th call of the system; whether it got that far."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        left = [k]

        def counted(call):
            def do(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return do

        def half_written(self, data):
            left[0] -= 1
            data = memoryview(data).cast("B")
            if left[0] == 0:
                write(self, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(self, data)

        write, _atomic.WholeFile.write = _atomic.WholeFile.write, half_written
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        instep.save(path, {}, number=2, array=np.full(1000, 2.0))
    finally:
        os._exit(0)


@posix
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_at_each_single_call(path, tmp_path):
    """Before each call of the system, and in the middle of each write."""
    found = []
    for k in range(1, 200):
        instep.save(path, {}, number=1, array=np.full(2000, 1.0))
        assert temporary_files(tmp_path) == []
        got_that_far = killed_at(path, k)
        extra = instep.load(path).extra
        assert_same(
            extra["array"], np.full({1: 2000, 2: 1000}[extra["number"]], extra["number"] * 1.0)
        )
        found.append(extra["number"])
        if not got_that_far:
            break
    assert found == sorted(found) and found[0] == 1 and found[-2:] == [2, 2]
    assert 7 < len(found) < 200


def test_the_order_of_calls(path, monkeypatch):
    """The data are on the disk before the name is, and the name before save returns."""
    calls = []

    def noted(name):
        call = getattr(os, name)

        def do(*args):
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            calls.append("fsync folder" if folder else name)
            return call(*args)

        return do

    def write(self, data):
        calls.append("write")
        return original(self, data)

    original = _atomic.WholeFile.write
    monkeypatch.setattr(_atomic.WholeFile, "write", write)
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    instep.save(path, {}, a=np.ones(3))
    end = ["fsync", "replace"] + ["fsync folder"] * (os.name == "posix")
    assert calls[-len(end) :] == end and set(calls[: -len(end)]) == {"write"}


# ---- leftovers -------------------------------------------------------------------------------


def test_leftovers_of_this_file_alone_are_removed(path, tmp_path):
    stem = f".{path.name}."
    mine = tmp_path / f"{stem}{'0' * 16}{_atomic.SUFFIX}"
    others = [
        tmp_path / f".other.npz.{'0' * 16}{_atomic.SUFFIX}",
        tmp_path / f"{stem}backup{_atomic.SUFFIX}",
        tmp_path / f"{stem}{'0' * 16}",
    ]
    for file in (mine, *others):
        file.write_bytes(b"x")
    long_ago = 10_000
    os.utime(mine, (long_ago, long_ago))
    instep.save(path, {}, a=1)
    assert not mine.exists() and all(file.exists() for file in others)


@posix
def test_the_file_of_a_running_save_is_not_a_leftover(path, tmp_path, monkeypatch):
    """Another save to the same path runs in the midst of one."""

    within = []

    def sync(descriptor):
        if not within:
            within.append(descriptor)
            instep.save(path, {}, number=2)
            assert instep.load(path).extra == {"number": 2}
            assert len(temporary_files(tmp_path)) == 1
        original(descriptor)

    original = _atomic._sync
    monkeypatch.setattr(_atomic, "_sync", sync)
    instep.save(path, {}, number=1)
    assert instep.load(path).extra == {"number": 1}
    assert temporary_files(tmp_path) == []


@posix
def test_a_new_file_taken_for_a_leftover_is_made_again(path, tmp_path, monkeypatch):
    """Another process removes it before it is locked."""
    import fcntl

    removed = []

    def flock(descriptor, operation):
        if not removed:
            removed.extend(temporary_files(tmp_path))
            removed[0].unlink()
        return original(descriptor, operation)

    original = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    instep.save(path, {}, a=1)
    assert len(removed) == 1 and instep.load(path).extra == {"a": 1}
    assert temporary_files(tmp_path) == []


def test_without_locks(path, tmp_path, monkeypatch):
    """As on Windows: there a leftover is known by its age."""
    monkeypatch.setattr(_atomic, "fcntl", None)
    old, new = (tmp_path / f".{path.name}.{c * 16}{_atomic.SUFFIX}" for c in "01")
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (10_000, 10_000))
    instep.save(path, {}, a=1)
    assert instep.load(path).extra == {"a": 1}
    assert temporary_files(tmp_path) == [new]


# ---- errors while writing --------------------------------------------------------------------


def test_a_full_disk_at_each_write(path, tmp_path, monkeypatch):
    """The error is the system's; the old file is whole; no temporary file is left."""
    opt, w = small_optimizer()
    instep.save(path, opt, w=w)
    before, original = path.read_bytes(), _atomic.WholeFile.write
    for k in range(1, 100):
        left = [k]

        def write(self, data, left=left):
            left[0] -= 1
            if left[0] > 0:
                return original(self, data)
            original(self, memoryview(data).cast("B")[:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(_atomic.WholeFile, "write", write)
            try:
                instep.save(path, opt, w=w, more=np.ones(10))
            except OSError as error:
                assert error.errno == errno.ENOSPC
            else:
                break
        assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    assert k > 3 and "more" in instep.load(path).extra


@posix
def test_a_file_size_limit(path, tmp_path):
    """The system's own error in the middle of a large array."""
    instep.save(path, {}, number=1)
    done = run_python(
        "import errno, resource, numpy as np, instep\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, -1))\n"
        "try:\n"
        f"    instep.save({str(path)!r}, {{}}, number=2, array=np.ones(1_000_000))\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno])\n"
    )
    assert done.stdout.split() == ["EFBIG"], done.stderr
    assert instep.load(path).extra == {"number": 1}
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()], ids=repr)
def test_other_failures(call, error, path, tmp_path, monkeypatch):
    instep.save(path, {}, number=1)

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(type(error)):
            instep.save(path, {}, number=2)
    assert instep.load(path).extra == {"number": 1}
    assert os.listdir(tmp_path) == [path.name]


@posix
def test_writes_in_parts_are_completed(path, monkeypatch):
    """Of a pipe or a full disk, a write may take a part."""
    import io

    class Part(io.FileIO):
        def write(self, data):
            return super().write(data[: max(1, len(data) // 3)])

    class Slow(_atomic.WholeFile, Part):
        pass

    monkeypatch.setattr(_atomic, "WholeFile", Slow)
    instep.save(path, {}, a=np.arange(5000.0))
    assert_same(instep.load(path).extra, {"a": np.arange(5000.0)})


def test_an_unreadable_safetensors_file_takes_no_place(tmp_path, monkeypatch):
    """Its header would be longer than the library reads."""
    from instep import _checkpoint_safetensors

    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    instep.save(path, {}, number=1)
    monkeypatch.setattr(_checkpoint_safetensors, "_LONGEST", 1000)
    with pytest.raises(ValueError, match=r"take \d+ bytes.*save as \.npz"):
        instep.save(path, {}, values=list(range(1000)))
    assert instep.load(path).extra == {"number": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_large_members_have_64_bits(tmp_path, monkeypatch):
    """As from 1 GiB on."""
    from instep import _checkpoint_npz

    monkeypatch.setattr(_checkpoint_npz, "_LONGEST", 1000)
    path = tmp_path / "model.npz"
    instep.save(path, {}, large=np.arange(1000.0), small=np.ones(3))
    assert_same(instep.load(path).extra, {"large": np.arange(1000.0), "small": np.ones(3)})
    assert zipfile.ZipFile(path).getinfo("extra/large.npy").extract_version >= 45


def test_the_numbers_of_kills_are_what_they_seem():
    """The content that the killed processes write differs from save to save."""
    lengths = {checkpoint_kills.content(number)["array"].size for number in range(20)}
    assert len(lengths) == 20
