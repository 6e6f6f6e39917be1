"""The example of the README, run as its reader runs it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import instep

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits.py"
EXTRAS = ["matplotlib", "sklearn", "tqdm"]
BLOCK = """
import runpy, sys
missing, *sys.argv = sys.argv[1:]

class Absent:
    def find_spec(name, path=None, target=None):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here")


def run(*arguments, cwd):
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


def need(extras):
    for name in extras:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def test_two_runs_learn_the_same(tmp_path):
    need(EXTRAS)
    lines = []
    for picture in ("digits.png", "again.png"):
        arguments = [] if picture == "digits.png" else ["--output", picture]
        done = run(EXAMPLE, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines.append(re.search(r"test accuracy +([\d.]+)%\n +loss.*", done.stdout))
        assert (tmp_path / picture).read_bytes()[1:4] == b"PNG"
        assert (tmp_path / picture).stat().st_size > 20_000
    assert lines[0][0] == lines[1][0] and float(lines[0][1]) >= 97


@pytest.mark.parametrize("missing", EXTRAS)
def test_a_missing_extra_is_named(missing, tmp_path):
    need(name for name in EXTRAS if name != missing)
    done = run("-c", BLOCK, missing, EXAMPLE, cwd=tmp_path)
    message = f'{missing} is missing; install the extras with: python -m pip install ".[demo]"'
    assert (done.returncode, done.stderr.strip()) == (1, message)
    assert list(tmp_path.iterdir()) == []
