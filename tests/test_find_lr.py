"""The example that finds a learning rate: what it prints and draws, twice the same."""

import re

import pytest
from examples_common import EXAMPLES, assert_missing_is_named, need, run, two_runs

EXAMPLE = EXAMPLES / "find_lr.py"
EXTRAS = ["matplotlib", "sklearn", "tqdm"]

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here")


def table(text):
    """(rate, verdict, last loss, test accuracy) of each run."""
    found = re.findall(
        r"^ *(\S+)  (too low|just right|too high) +(\S+) +(\S+)%$", text, re.MULTILINE
    )
    return [(float(rate), verdict, float(loss), float(a)) for rate, verdict, loss, a in found]


def test_three_rates_and_their_verdicts(tmp_path):
    need(EXTRAS)
    texts = two_runs(EXAMPLE, tmp_path)
    low, right, high = table(texts[0])
    assert table(texts[0]) == table(texts[1])
    assert low[1] == "too low" and right[1] == "just right" and high[1] == "too high"
    assert low[0] < right[0] < high[0]
    tried = re.search(
        r"range test: worth trying (\S+) to (\S+); the suggestion is (\S+)$", texts[0], re.M
    )
    assert float(tried[1]) < float(tried[3]) == right[0] < float(tried[2])
    assert right[2] < 0.1 < min(low[2], high[2])
    assert right[3] > 97 and max(low[3], high[3]) < 90
    for rate, verdict, *_ in (low, right, high):  # the reasons
        assert re.search(
            rf"^ *{rate:.2g}  {verdict.replace(' ', '_')}: .{{20}}", texts[0], re.MULTILINE
        )


def test_another_seed_and_length(tmp_path):
    need(EXTRAS)
    done = run(EXAMPLE, "--seed", "2", "--epochs", "15", "--batch", "24", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = table(done.stdout)
    assert [verdict for _, verdict, *_ in runs] == ["too low", "just right", "too high"]
    assert runs[1][3] > 95


@pytest.mark.parametrize("missing", EXTRAS)
def test_a_missing_extra_is_named(missing, tmp_path):
    need(name for name in EXTRAS if name != missing)
    assert_missing_is_named(EXAMPLE, missing, tmp_path)
