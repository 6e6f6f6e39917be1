"""What the pictures refuse before anything is drawn; a matplotlib that is missing or broken."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run_python

from instep import schedules
from instep.plots import plot_range_test, plot_schedule_panels, plot_schedules, plot_training

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

COSINE = schedules.CosineAnnealing(0.1, 90)


def a_range_test(losses, lrs):
    return SimpleNamespace(lrs=lrs, losses=losses, suggestion=None, low=None, high=None)


@pytest.mark.parametrize("draw", [plot_schedules, plot_schedule_panels])
@pytest.mark.parametrize(
    ("shown", "steps", "error", "message"),
    [
        ({}, 10, ValueError, "schedules must be at least one, got none"),
        ([], 10, ValueError, "schedules must be at least one, got none"),
        (0.1, 10, TypeError, r"schedules\['float'\] must be a schedule .*got 0.1"),
        ({"mine": "x"}, 10, TypeError, r"schedules\['mine'\] must be a schedule .*got 'x'"),
        ({"s": str}, 10, TypeError, r"schedules\['s'\] at step 0 must be a number, got '0'"),
        (
            {"s": lambda t: math.nan},
            9,
            ValueError,
            r"schedules\['s'\] at step 0 must be finite, got nan",
        ),
        (
            [COSINE, lambda t: math.inf if t > 2 else 1],
            9,
            ValueError,
            "at step 3 must be finite, got inf",
        ),
        (lambda t: 10**400, 9, ValueError, "at step 0 must be finite, got 1000"),
        (COSINE, 2**70, ValueError, r"steps must be at most 2\*\*53, got 1180591620717411303424"),
        (COSINE, 0, ValueError, "steps must be at least 1, got 0"),
        (COSINE, 10.0, TypeError, "steps must be an int, got 10.0"),
        (COSINE, True, TypeError, "steps must be an int, got True"),
    ],
)
def test_bad_schedules(draw, shown, steps, error, message):
    figure = Figure()
    with pytest.raises(error, match=message):
        draw(shown, steps, figure if draw is plot_schedule_panels else figure.subplots())
    assert not any(ax.has_data() for ax in figure.axes)


@pytest.mark.parametrize(
    ("losses", "lrs", "error", "message"),
    [
        ([1.0, 2.0], [0.1], ValueError, "lrs and losses must be equally many, got 1 and 2"),
        ([np.nan, np.inf], None, ValueError, r"a finite one to draw, got \[nan, inf\]"),
        ([], None, ValueError, r"losses must have a finite one to draw, got \[\]"),
        ([[1.0]], None, ValueError, r"losses must be a flat sequence, got shape \(1, 1\)"),
        (["x"], None, TypeError, "losses must be a sequence of numbers"),
        ([1.0], math.nan, ValueError, r"lrs\[0\] must be finite, got nan"),
        ([1.0, 2.0], [0.1, math.inf], ValueError, r"lrs\[1\] must be finite, got inf"),
        (
            [1.0],
            [[1.0]],
            ValueError,
            r"lrs must be a number or a flat sequence, got shape \(1, 1\)",
        ),
        ([1.0], "fast", TypeError, "lrs must be a sequence of numbers"),
        ([1.0], [None, 3j], TypeError, "lrs must be a sequence of numbers"),
    ],
)
def test_bad_runs(losses, lrs, error, message):
    ax = Figure().subplots()
    with pytest.raises(error, match=message):
        plot_training(losses, lrs, ax=ax)
    if lrs is not None or not losses or not np.isscalar(losses[0]):
        return
    with pytest.raises(error, match=message):
        plot_range_test(a_range_test(losses, [0.1] * len(losses)), ax)
    assert not ax.has_data()


def test_what_was_not_returned_by_the_function():
    ax = Figure().subplots()
    message = r"result must be what instep\.lr_range_test returned, got 3"
    with pytest.raises(TypeError, match=message):
        plot_range_test(3, ax)
    message = r"diagnosis must be what instep\.diagnose returned, got 'too_high'"
    with pytest.raises(TypeError, match=message):
        plot_training([2.0, 1.0], None, "too_high", ax)
    assert not ax.has_data()


DRAW = """
import instep
try:
    instep.plots.plot_schedules(instep.schedules.Constant(1), 5)
except ImportError as error:
    print(error.name, error, sep=": ")
"""


def test_missing_matplotlib_is_named():
    absent = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")
sys.meta_path.insert(0, Absent)
"""
    done = run_python(absent + DRAW)
    assert done.stderr == ""
    assert done.stdout.strip() == (
        'matplotlib: matplotlib is missing; install it with: python -m pip install "instep[plots]"'
    )


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        ("import parser_of_matplotlib", "No module named 'parser_of_matplotlib'"),
        ("raise ImportError('built for NumPy 1')", "built for NumPy 1"),
    ],
)
def test_a_broken_matplotlib_is_not_called_missing(first_line, reason, tmp_path):
    (tmp_path / "matplotlib.py").write_text(first_line)
    done = run_python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + DRAW)
    assert done.stderr == ""
    assert done.stdout.strip() == f"matplotlib: matplotlib cannot be imported: {reason}"


def test_an_unknown_backend_is_named():
    done = run_python(DRAW, MPLBACKEND="nonsense")
    assert done.stderr == ""
    assert done.stdout.startswith("matplotlib: matplotlib cannot be imported: ")
    assert "'nonsense'" in done.stdout
