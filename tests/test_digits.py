"""The example of the README, run as its reader runs it."""

import re

import pytest
from examples_common import BLOCK, EXAMPLES, need, run

EXAMPLE = EXAMPLES / "digits.py"
EXTRAS = ["matplotlib", "sklearn", "tqdm"]

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here")


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
