"""Where checkpoints are written: permissions, links, several processes and threads at once."""

import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from checkpoint_common import SUFFIXES, assert_same, posix, temporary_files
from conftest import run_python

import instep


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


# ---- permissions and links -------------------------------------------------------------------


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_of_a_new_file_and_of_an_old_one(mask, path):
    before = os.umask(mask)
    try:
        instep.save(path, {}, a=1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        for mode in (0o640, 0o604, 0o666):
            path.chmod(mode)
            instep.save(path, {}, a=2)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


@posix
def test_a_symbolic_link_stays(path, tmp_path):
    """And the temporary file lies where the file lies, so that it can be renamed."""
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / f"target{path.suffix}"
    path.symlink_to(target)
    for number in (1, 2):  # the first makes the file that the link points to
        instep.save(path, {}, number=number)
        assert path.is_symlink() and instep.load(target).extra == {"number": number}
    assert os.listdir(target.parent) == [target.name]


@posix
def test_what_is_no_file_is_refused(path, tmp_path):
    with pytest.raises(IsADirectoryError):
        instep.save(tmp_path, {}, a=1)
    with pytest.raises(FileNotFoundError, match=r"os\.makedirs.*missing"):
        instep.save(tmp_path / "missing" / "model.npz", {}, a=1)
    with pytest.raises(ValueError, match="not a regular file"):
        instep.save(os.devnull, {}, a=1)
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file"):
        instep.save(path, {}, a=1)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        instep.save(path, {}, a=1)
    assert os.listdir(tmp_path) == [path.name]


@posix
def test_a_write_protected_file_is_refused(path, tmp_path, monkeypatch):
    instep.save(path, {}, number=1)
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to all
    with pytest.raises(PermissionError, match="write-protected"):
        instep.save(path, {}, number=2)
    assert instep.load(path).extra == {"number": 1}
    assert os.listdir(tmp_path) == [path.name]


# ---- at the same time ------------------------------------------------------------------------

SAVER = """
import sys, numpy as np, instep
path, who = sys.argv[1], int(sys.argv[2])
for number in range(60):
    instep.save(path, {}, who=who, number=number, array=np.full(20_000 + 999 * number, who))
"""


def test_two_processes_save_to_one_path(path, tmp_path):
    """A third reads: every file it finds is whole."""
    instep.save(path, {}, who=0, number=0, array=np.full(20_000, 0))
    here = os.pathsep.join(sys.path)
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, str(path), str(who)],
            env={**os.environ, "PYTHONPATH": here},
        )
        for who in (1, 2)
    ]
    seen, reads = set(), 0
    while any(saver.poll() is None for saver in savers) or reads == 0:
        extra = instep.load(path).extra
        assert_same(extra["array"], np.full(20_000 + 999 * extra["number"], extra["who"]))
        seen.add(extra["who"])
        reads += 1
    assert [saver.returncode for saver in savers] == [0, 0]
    assert seen >= {1, 2} and instep.load(path).extra["number"] == 59
    assert temporary_files(tmp_path) == []


def test_a_thread_steps_while_another_saves(path):
    """What is saved is one state of the optimizer, not half of the next."""
    w = np.zeros(50_000)
    opt = instep.SGD({"w": w}, lr=1.0, momentum=1.0)
    opt.step({"w": np.ones(w.size)})
    done = threading.Event()

    def train():
        while not done.is_set():
            opt.step({"w": np.ones(w.size)})

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(20):
            instep.save(path, opt)
            state = instep.load(path).state_dict
            buffer = state["state"]["w"]["momentum_buffer"]
            assert (buffer == state["steps"]).all()  # the sum of that many ones
    finally:
        done.set()
        thread.join()
    assert opt.steps > 20


@posix
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_midst_of_a_save(path, tmp_path, monkeypatch):
    """The child closes the file, as at the end of a process, before the parent goes on."""
    code = f"""
import gc, io, os, numpy as np, instep
from instep import _atomic
original = _atomic._sync
def sync(descriptor):
    child = os.fork()
    if child == 0:
        for file in gc.get_objects():
            if isinstance(file, io.IOBase) and not file.closed and file.writable():
                file.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    original(descriptor)
_atomic._sync = sync
instep.save({str(path)!r}, {{}}, a=np.arange(1000.0))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert_same(instep.load(path).extra, {"a": np.arange(1000.0)})
    assert temporary_files(tmp_path) == []
