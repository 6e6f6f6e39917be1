"""Running the examples as their readers do, with an extra hidden where that is the test."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import instep

EXAMPLES = Path(__file__).parent.parent / "examples"
# Arguments: the module that shall not be found, the program, its arguments.
BLOCK = """
import os, runpy, sys
missing, *sys.argv = sys.argv[1:]

class Absent:
    def find_spec(name, path=None, target=None):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
sys.path[0] = os.path.dirname(sys.argv[0])  # as Python does for a program
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments, cwd):
    """Python with these arguments, in a process of its own that finds this instep."""
    env = os.environ | {"PYTHONPATH": str(Path(instep.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
        cwd=cwd,
        check=False,
    )


def assert_missing_is_named(example, missing, folder):
    """Without the extra the program says how to get it, and writes nothing."""
    done = run("-c", BLOCK, missing, example, cwd=folder)
    message = f'{missing} is missing; install the extras with: python -m pip install ".[demo]"'
    assert (done.returncode, done.stderr.strip()) == (1, message)
    assert list(folder.iterdir()) == []


def two_runs(example, folder):
    """What the program prints, run twice alike but for the name of its picture."""
    texts = []
    for arguments, picture in (
        ((), example.with_suffix(".png").name),
        (("--output", "again.png"), "again.png"),
    ):
        done = run(example, *arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
        assert (folder / picture).read_bytes()[1:4] == b"PNG"
        assert (folder / picture).stat().st_size > 20_000
    return texts


def need(extras):
    """Skip the test unless they are installed."""
    for name in extras:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
