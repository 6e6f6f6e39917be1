"""The example of the README, run as its reader runs it."""

import re

import pytest
from examples_common import EXAMPLES, assert_missing_is_named, need, two_runs

EXAMPLE = EXAMPLES / "digits.py"
EXTRAS = ["matplotlib", "sklearn", "tqdm"]

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here")


def test_two_runs_learn_the_same(tmp_path):
    need(EXTRAS)
    pattern = r"test accuracy +([\d.]+)%\n +loss.*"
    lines = [re.search(pattern, text) for text in two_runs(EXAMPLE, tmp_path)]
    assert lines[0][0] == lines[1][0] and float(lines[0][1]) >= 97


@pytest.mark.parametrize("missing", EXTRAS)
def test_a_missing_extra_is_named(missing, tmp_path):
    need(name for name in EXTRAS if name != missing)
    assert_missing_is_named(EXAMPLE, missing, tmp_path)
