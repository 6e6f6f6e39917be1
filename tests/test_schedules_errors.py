"""What schedules refuse, at construction, with the name and the value seen."""

import dataclasses
import math

import numpy as np
import pytest

from instep import schedules
from instep.schedules import (
    Constant,
    CosineAnnealing,
    CosineRestarts,
    ExponentialDecay,
    Interpolate,
    InverseSqrt,
    Lambda,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    PerEpoch,
    PolynomialDecay,
    Product,
    ReduceOnPlateau,
    Schedule,
    Sequence,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)

# ---- construction ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant("0.1"), TypeError, r"Constant: lr must be a number, got '0.1' \(str\)"),
        (lambda: Constant(None), TypeError, r"Constant: lr must be a number, got None"),
        (lambda: Constant(True), TypeError, r"Constant: lr must be a number, got True \(bool\)"),
        (lambda: Constant(np.ones(1)), TypeError, r"Constant: lr must be a number, got array"),
        (lambda: Constant(1j), TypeError, r"Constant: lr must be a number, got 1j \(complex\)"),
        (lambda: Constant(math.nan), ValueError, r"Constant: lr must be finite, got nan"),
        (lambda: Constant(10**400), ValueError, r"Constant: lr must be finite, got 10000"),
        (lambda: CosineAnnealing(math.inf, 5), ValueError, r"CosineAnnealing: lr must be finite"),
        (lambda: CosineAnnealing(1, 5, -math.inf), ValueError, r"min_lr must be finite, got -inf"),
        (lambda: CosineAnnealing(1, 5, "0"), TypeError, r"min_lr must be a number, got '0'"),
        (lambda: CosineAnnealing(1, 5.0), TypeError, r"total_steps must be an int, got 5.0"),
        (lambda: CosineAnnealing(1, True), TypeError, r"total_steps must be an int, got True"),
        (lambda: CosineAnnealing(1, 0), ValueError, r"total_steps must be at least 1, got 0"),
        (lambda: Warmup(0.1, -1), ValueError, r"Warmup: steps must be at least 0, got -1"),
        (lambda: Warmup(0.1, 2.5), TypeError, r"Warmup: steps must be an int, got 2.5 \(float\)"),
        (lambda: Warmup(0.1, None), TypeError, r"Warmup: steps must be an int, got None"),
        (lambda: Warmup(math.nan, 5), ValueError, r"Warmup: after must be finite, got nan"),
        (lambda: Warmup(True, 5), TypeError, r"after must be a schedule or a number, got True"),
        (lambda: Warmup(abs, 5), TypeError, r"after must be a schedule or a number, got <built-in"),
        (lambda: Warmup(Constant, 5), TypeError, r"after must be a schedule or a number"),
    ],
)
def test_bad_fields(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Arguments that are fine, to be replaced one at a time; and of what kind each must be.
FINE = {
    Constant: {"lr": 0.1},
    StepDecay: {"lr": 0.1, "step_size": 5, "gamma": 0.5},
    MultiStepDecay: {"lr": 0.1, "milestones": [3, 5], "gamma": 0.5},
    ExponentialDecay: {"lr": 0.1, "gamma": 0.5},
    LinearDecay: {"lr": 0.1, "total_steps": 5, "end": 0.0},
    PolynomialDecay: {"lr": 0.1, "total_steps": 5, "power": 1.0, "end": 0.0},
    CosineAnnealing: {"lr": 0.1, "total_steps": 5, "min_lr": 0.0},
    CosineRestarts: {"lr": 0.1, "period": 5, "period_mult": 1, "min_lr": 0.0},
    OneCycle: {
        "max_lr": 0.1,
        "total_steps": 5,
        "pct_start": 0.3,
        "div_factor": 25,
        "final_div_factor": 1e4,
    },
    InverseSqrt: {"lr": 0.1, "warmup_steps": 5},
    WarmupStableDecay: {
        "lr": 0.1,
        "warmup_steps": 5,
        "stable_steps": 5,
        "decay_steps": 5,
        "shape": "linear",
    },
    Warmup: {"after": 0.1, "steps": 5},
    Sequence: {"schedules": [0.1, 0.2], "boundaries": [5]},
    Interpolate: {"points": [(0, 0.1), (5, 0.2)]},
    Product: {"first": 0.1, "second": 0.2},
    PerEpoch: {"by_epoch": Constant(0.1), "steps_per_epoch": 5},
    Lambda: {"function": abs},
    ReduceOnPlateau: {
        "lr": 0.1,
        "mode": "min",
        "factor": 0.1,
        "patience": 10,
        "threshold": 1e-4,
        "threshold_mode": "rel",
        "cooldown": 0,
        "min_lr": 0.0,
        "eps": 1e-8,
    },
}
NUMBER = (
    "lr max_lr end min_lr power gamma pct_start div_factor final_div_factor factor threshold eps"
)
NUMBER = NUMBER.split()
POSITIVE_INT = "step_size total_steps period period_mult decay_steps steps_per_epoch".split()
INT = [*POSITIVE_INT, "warmup_steps", "stable_steps", "steps", "patience", "cooldown"]
LIST = ["milestones", "schedules", "boundaries", "points"]
SCHEDULE = ["after", "first", "second", "by_epoch"]
WORD = ["shape", "mode", "threshold_mode"]
IN_RANGE = {  # the limits, and what lies outside
    "gamma": [0, -0.1, 1.1],
    "power": [0, -1.0],
    "pct_start": [-0.1, 1, 1.5],
    "div_factor": [0, -1.0],
    "final_div_factor": [0, -1.0],
    "factor": [-0.1, 1, 1.5],
    "threshold": [-1e-4],
    "eps": [-1e-8],
}
ARGUMENTS = [(cls, name) for cls, fields in FINE.items() for name in fields]


def mistakes(cls, name):
    """Values of the wrong kind, and wrong values of the right kind."""
    if name in NUMBER or name in SCHEDULE:
        wrong = [math.nan, math.inf, -math.inf, 10**400, *IN_RANGE.get(name, [])]
        wrong += [-0.1] if cls is ReduceOnPlateau else []
        return [None, "x", 1j, abs, True, np.ones(2), [0.1]], wrong
    if name in INT:
        wrong = [-1, np.int64(-7), *([0] if name in POSITIVE_INT or cls is InverseSqrt else [])]
        return [None, "x", 1j, abs, True, 5.0, np.float64(5), math.nan, [5]], wrong
    if name in WORD:
        return [None, 5, b"min", ["min"]], ["", "Linear", "x"]
    if name in LIST:
        return [None, 5, 0.1, "35", b"35", {3: 0.5}, abs, np.ones(()), [None], [1j]], []
    return [None, 5, "x", [abs]], []  # function


@pytest.mark.parametrize(("cls", "name"), ARGUMENTS, ids=lambda x: getattr(x, "__name__", x))
def test_every_argument(cls, name):
    """Each kind of mistake is named with class, argument and value."""
    assert cls(**FINE[cls])
    wrong_kind, wrong_value = mistakes(cls, name)
    for value in wrong_kind:
        with pytest.raises(TypeError, match=rf"^{cls.__name__}: {name}\b.*\bgot "):
            cls(**{**FINE[cls], name: value})
    for value in wrong_value:
        with pytest.raises(ValueError, match=rf"^{cls.__name__}: {name} .*\bgot ") as caught:
            cls(**{**FINE[cls], name: value})
        assert f"{value}"[:40] in str(caught.value)


def test_the_table_is_complete():
    assert {cls.__name__ for cls in FINE} == set(schedules.__all__) - {"Schedule"}
    for cls, arguments in FINE.items():
        assert arguments.keys() == {f.name for f in dataclasses.fields(cls)} - {"state"}
    assert {name for _, name in ARGUMENTS} == {*NUMBER, *INT, *LIST, *SCHEDULE, *WORD, "function"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MultiStepDecay(0.1, [5, 3]),
            r"milestones must increase, got 3 after 5 in \(5, 3\)",
        ),
        (lambda: MultiStepDecay(0.1, [3, 3]), r"milestones must increase, got 3 after 3"),
        (lambda: MultiStepDecay(0.1, [0, 3]), r"milestones\[0\] must be at least 1, got 0"),
        (lambda: MultiStepDecay(0.1, [3, -5]), r"milestones\[1\] must be at least 1, got -5"),
        (lambda: Sequence([], []), r"schedules must hold at least one schedule, got \[\]"),
        (lambda: Sequence([0.1], [5]), r"1 schedules need 0 boundaries, got 1: \(5,\)"),
        (lambda: Sequence([0.1, 0.2, 0.3], [5]), r"3 schedules need 2 boundaries, got 1: \(5,\)"),
        (lambda: Sequence([0.1, 0.2, 0.3], [5, 5]), r"boundaries must increase, got 5 after 5"),
        (lambda: Sequence([0.1, 0.2, 0.3], [9, 5]), r"boundaries must increase, got 5 after 9"),
        (lambda: Sequence([0.1, 0.2], [0]), r"boundaries\[0\] must be at least 1, got 0"),
        (lambda: Sequence([0.1, math.nan], [5]), r"schedules\[1\] must be finite, got nan"),
        (lambda: OneCycle(1e308, 9, div_factor=0.1), r"max_lr / div_factor must be finite, got"),
        (lambda: OneCycle(1, 9, div_factor=1e-320), r"max_lr / div_factor must be finite, got inf"),
        (
            lambda: OneCycle(-1, 9, final_div_factor=1e-320),
            r"max_lr / div_factor / final_div_factor must be finite, got -inf",
        ),
        (lambda: OneCycle(1, 2**1024), r"total_steps must be at most 1.8e308, .* of 1025 bits"),
        (lambda: Interpolate([]), r"points must hold at least one point, got \[\]"),
        (lambda: Interpolate([(0, 1, 2)]), r"points\[0\] must be a pair .*, got \(0, 1, 2\)"),
        (lambda: Interpolate([[]]), r"points\[0\] must be a pair of step and value, got \(\)"),
        (
            lambda: Interpolate([(0, 1), (5, 1), (5, 2)]),
            r"points: steps must increase, got 5 after 5",
        ),
        (lambda: Interpolate([(0, 1), (7, 1), (5, 2)]), r"steps must increase, got 5 after 7"),
        (lambda: Interpolate([(-1, 1)]), r"points: steps\[0\] must be at least 0, got -1"),
        (lambda: Interpolate([(0, math.nan)]), r"points\[0\]: value must be finite, got nan"),
        (lambda: ReduceOnPlateau(0.1, min_lr=0.2), r"lr must be at least min_lr, got 0.1 < 0.2"),
        (lambda: ReduceOnPlateau(0.1, threshold=1), r"threshold must be less than 1 .* got 1.0"),
        (
            lambda: ReduceOnPlateau(0.1, state=(0.1, 2.0)),
            r"state must be lr, best, bad_epochs, cool",
        ),
        (lambda: ReduceOnPlateau(0.1, state=(0.1, math.nan, 0, 0)), r"best must be .* got nan"),
        (lambda: ReduceOnPlateau(0.1, state=(0.1, None, -1, 0)), r"state: bad_epochs .* got -1"),
        (lambda: ReduceOnPlateau(0.1, state=(math.nan, None, 0, 0)), r"state: lr .* got nan"),
    ],
)
def test_what_does_not_fit_together(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert str(caught.value).split(":")[0] in Schedule._known


def test_a_threshold_that_can_be_met():
    """Above 1 it only makes sense where a metric shall grow, or as a difference."""
    assert ReduceOnPlateau(0.1, threshold=3, threshold_mode="abs").threshold == 3
    assert ReduceOnPlateau(0.1, mode="max", threshold=3).threshold == 3


@pytest.mark.parametrize("value", [None, "0.1", math.nan, -math.inf, True, 1j, np.ones(2)])
def test_a_function_that_returns_no_number(value):
    schedule = Warmup(Lambda(lambda t: value), 3)
    error = ValueError if isinstance(value, float) else TypeError
    with pytest.raises(error, match=r"^Lambda: the value of the function must be "):
        schedule(5)


@pytest.mark.parametrize("metric", [None, "0.1", True, 1j, np.ones(1), [0.1]])
def test_a_metric_that_is_no_number(metric):
    plateau = ReduceOnPlateau(0.1)
    plateau.observe(3.0)
    before = plateau.state
    with pytest.raises(TypeError, match=r"^metric must be a number, got "):
        plateau.observe(metric)
    assert plateau.state == before


# ---- JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "error", "message"),
    [
        ("Constant", TypeError, r"must be a dict as made by to_dict\(\), got 'Constant' \(str\)"),
        ({"lr": 0.1}, ValueError, r"one of .*Constant, CosineAnnealing.*, Warmup.*got None"),
        ({"schedule": "Cosine", "lr": 0.1}, ValueError, r"one of .*CosineAnnealing.*got 'Cosine'"),
        ({"schedule": ["Constant"]}, ValueError, r"got \['Constant'\]"),
        ({"schedule": "Schedule"}, ValueError, r"got 'Schedule'"),
        ({"schedule": "Constant"}, ValueError, r"missing: lr, unexpected: none"),
        (
            {"schedule": "Warmup", "after": 0.1, "warmup": 5},
            ValueError,
            r"Warmup has the fields after, steps; missing: steps, unexpected: warmup",
        ),
        ({"schedule": "Constant", "lr": 0.1, 7: 1}, ValueError, r"unexpected: 7"),
        ({"schedule": "Constant", "lr": "x"}, TypeError, r"Constant: lr must be a number"),
        (
            {"schedule": "Warmup", "after": {"schedule": "Constant", "lr": math.nan}, "steps": 1},
            ValueError,
            r"Constant: lr must be finite, got nan",
        ),
    ],
)
def test_bad_dict(d, error, message):
    with pytest.raises(error, match=message):
        Schedule.from_dict(d)
