"""Schedules as objects: calls, arrays, equality, pickle, JSON, arithmetic, classes of one's own."""

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
from schedules_common import JSON_SCHEDULES, SCHEDULES, ripple

from instep import schedules
from instep.schedules import (
    Constant,
    CosineAnnealing,
    Interpolate,
    Lambda,
    MultiStepDecay,
    PerEpoch,
    Product,
    ReduceOnPlateau,
    Schedule,
    Sequence,
    Warmup,
)


@pytest.fixture(params=SCHEDULES, ids=repr)
def schedule(request):
    return request.param


# ---- steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
@pytest.mark.parametrize("shape", [(), (0,), (24,), (2, 3, 4), (0, 3)])
def test_array_equals_scalar(schedule, shape, dtype):
    steps = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    values = schedule(steps)
    assert isinstance(values, np.ndarray)
    assert values.dtype == np.float64
    assert values.shape == shape
    for index in np.ndindex(shape):
        assert values[index] == schedule(int(steps[index]))


def test_array_layout_does_not_matter(schedule):
    steps = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(schedule(steps.T), schedule(steps).T)
    np.testing.assert_array_equal(schedule(steps[::-1, ::2]), schedule(steps)[::-1, ::2])
    np.testing.assert_array_equal(schedule(steps.astype(">i4")), schedule(steps))


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16])
def test_numpy_integers(schedule, kind):
    assert schedule(kind(5)) == schedule(5)
    assert type(schedule(kind(5))) is float


@pytest.mark.parametrize("step", [-1, np.int64(-3), np.array([0, -7])])
def test_negative_step(schedule, step):
    with pytest.raises(ValueError, match=r"step must be at least 0, got .*-[137]"):
        schedule(step)


@pytest.mark.parametrize("step", [1.0, True, np.bool_(True), np.float64(2), "3", None, [1, 2]])
def test_step_of_the_wrong_type(schedule, step):
    with pytest.raises(TypeError, match="step must be an int, got"):
        schedule(step)


@pytest.mark.parametrize("dtype", [np.float32, bool, object])
def test_array_of_the_wrong_type(schedule, dtype):
    with pytest.raises(TypeError, match="step must be an array of integers, got dtype"):
        schedule(np.zeros(3, dtype=dtype))


def test_masked_steps_are_refused(schedule):
    for steps in (np.ma.array([1, 2, -5], mask=[0, 0, 1]), np.ma.array([1, 2]), np.ma.masked):
        with pytest.raises(TypeError, match="step is a masked array; its mask would be ignored"):
            schedule(steps)


def test_a_matrix_of_steps(schedule):
    values = schedule(np.arange(6).reshape(2, 3).view(np.matrix))
    np.testing.assert_array_equal(values, schedule(np.arange(6).reshape(2, 3)))
    assert type(values) is np.ndarray


# ---- values as objects -----------------------------------------------------------------------


def test_numpy_fields_become_python_numbers():
    schedule = Warmup(CosineAnnealing(np.float32(0.5), np.int64(10), np.float64(0.25)), np.uint8(3))
    assert schedule == Warmup(CosineAnnealing(0.5, 10, 0.25), 3)
    assert type(schedule.after.lr) is type(schedule.after.min_lr) is float
    assert type(schedule.after.total_steps) is type(schedule.steps) is int
    assert json.loads(json.dumps(schedule.to_dict())) == schedule.to_dict()
    assert type(Constant(1).lr) is float


def test_immutable(schedule):
    for field in dataclasses.fields(schedule):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(schedule, field.name, 1)


def test_equality_and_hash():
    for i, a in enumerate(SCHEDULES):
        for j, b in enumerate(SCHEDULES):
            assert (a == b) is (i == j)
    assert len({*SCHEDULES, *copy.deepcopy(SCHEDULES)}) == len(SCHEDULES)
    assert Constant(1) == Constant(1.0)
    assert dataclasses.replace(Warmup(0.1, 5), steps=6) == Warmup(0.1, 6)


@pytest.mark.parametrize("schedule", JSON_SCHEDULES, ids=repr)
def test_repr_builds_the_schedule(schedule):
    assert eval(repr(schedule), vars(schedules)) == schedule


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(schedule, protocol):
    back = pickle.loads(pickle.dumps(schedule, protocol))
    assert back == schedule
    assert back(3) == schedule(3)


@pytest.mark.parametrize("schedule", JSON_SCHEDULES, ids=repr)
def test_json(schedule):
    d = schedule.to_dict()
    assert d["schedule"] == type(schedule).__name__
    back = Schedule.from_dict(json.loads(json.dumps(d, allow_nan=False)))
    assert type(back) is type(schedule)
    assert back == schedule
    assert [back(t) for t in range(20)] == [schedule(t) for t in range(20)]


def test_json_form():
    assert Warmup(CosineAnnealing(0.1, 50), 100).to_dict() == {
        "schedule": "Warmup",
        "after": {"schedule": "CosineAnnealing", "lr": 0.1, "total_steps": 50, "min_lr": 0.0},
        "steps": 100,
    }
    # By hand: defaults may be left out, and a number may stand for a constant.
    d = {"schedule": "CosineAnnealing", "lr": 1, "total_steps": 5}
    assert Schedule.from_dict(d) == CosineAnnealing(1.0, 5)
    assert Schedule.from_dict({"schedule": "Warmup", "after": 0.5, "steps": 2}) == Warmup(0.5, 2)
    joined = Sequence([0.5, Interpolate([(0, 0.5), (9, 0.25)])], boundaries=[3])
    assert joined.to_dict() == {
        "schedule": "Sequence",
        "schedules": [
            {"schedule": "Constant", "lr": 0.5},
            {"schedule": "Interpolate", "points": [[0, 0.5], [9, 0.25]]},
        ],
        "boundaries": [3],
    }


def test_a_function_has_no_json():
    for schedule in (Lambda(ripple), Warmup(0.5 * Lambda(ripple), 3), Sequence([Lambda(abs)], [])):
        with pytest.raises(TypeError, match=r"^Lambda: <.*> cannot be written as JSON; pickle"):
            schedule.to_dict()
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(Lambda(lambda t: 0.5))


# ---- arithmetic and other forms --------------------------------------------------------------


@pytest.mark.parametrize(
    "factor", [2, 0.5, np.float64(0.5), np.float32(0.5), np.int64(3)], ids=repr
)
def test_scaled(schedule, factor):
    for scaled in (factor * schedule, schedule * factor):
        assert type(scaled) is Product
        assert [scaled(t) for t in range(9)] == [float(factor) * schedule(t) for t in range(9)]
    assert factor * schedule == Product(float(factor), schedule)
    assert (0.5 * (factor * schedule))(3) == 0.5 * (float(factor) * schedule(3))


def test_product_of_schedules(schedule):
    other = CosineAnnealing(0.5, 6, 0.1)
    product = schedule * other
    assert product == Product(schedule, other)
    assert [product(t) for t in range(9)] == [schedule(t) * other(t) for t in range(9)]


@pytest.mark.parametrize("other", ["2", None, [1, 2], True, np.ones(2), np.ones(()), 1j], ids=repr)
def test_no_product(other):
    for multiply in (lambda a, b: a * b, lambda a, b: b * a):
        with pytest.raises(TypeError):
            multiply(Constant(0.5), other)


def test_per_epoch(schedule):
    by_epoch = schedule.per_epoch(3)
    assert by_epoch == PerEpoch(schedule, 3)
    assert [by_epoch(t) for t in range(60)] == [schedule(t // 3) for t in range(60)]
    assert [schedule.per_epoch(1)(t) for t in range(60)] == [schedule(t) for t in range(60)]


@pytest.mark.parametrize("form", [list, tuple, np.array, iter])
def test_sequences_of_any_kind_are_kept_as_tuples(form):
    assert MultiStepDecay(0.1, form([3, 5])) == MultiStepDecay(0.1, (3, 5))
    assert Sequence(iter([0.5, 1]), form([3])) == Sequence((Constant(0.5), Constant(1)), (3,))
    assert Interpolate(form([(1, 2), (3, 4)])) == Interpolate(((1, 2.0), (3, 4.0)))
    made = Sequence([MultiStepDecay(0.1, form([3, 5])), Interpolate([[0, 1]])], form([2]))
    assert json.loads(json.dumps(made.to_dict())) == made.to_dict()
    assert type(made.boundaries[0]) is int and type(made.schedules[1].points[0][1]) is float


def test_state_of_a_plateau_in_pickle_and_json():
    plateau = ReduceOnPlateau(0.5, factor=0.5, patience=0, cooldown=2)
    for metric in (3.0, 2.0, 2.5):
        plateau.observe(metric)
    wrapped = Warmup(0.1 * plateau, 2)
    ways = [
        copy.copy,
        copy.deepcopy,
        lambda s: pickle.loads(pickle.dumps(s)),
        lambda s: Schedule.from_dict(json.loads(json.dumps(s.to_dict(), allow_nan=False))),
        lambda s: eval(repr(s), vars(schedules)),
        lambda s: dataclasses.replace(s, patience=7),
    ]
    for way in ways:
        other = way(plateau)
        assert other.state == plateau.state == (0.25, 2.0, 0, 2) and other(3) == 0.25
        assert type(other.state) is type(plateau.state)
        other.observe(1.0)
        assert plateau.state.best == 2.0
    for way in ways[1:-1]:
        other = way(wrapped)
        assert other.after.second.state == plateau.state and other(5) == 0.1 * 0.25
    assert dataclasses.replace(plateau, lr=0.7, state=None)(0) == 0.7


# ---- a schedule of one's own -----------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
    """Classes defined in a test are forgotten after it."""
    monkeypatch.setattr(Schedule, "_known", dict(Schedule._known))


def test_new_schedule_costs_one_dataclass(known):
    @dataclasses.dataclass(frozen=True)
    class Sum(Schedule):
        parts: tuple[Schedule, ...]
        bias: float = 0.0

        def _at(self, step):
            return sum(part._at(step) for part in self.parts) + self.bias

    schedule = Warmup(Sum((Constant(1.0), CosineAnnealing(2.0, 4)), bias=0.5), 2)
    assert schedule(1) == 3.5
    np.testing.assert_array_equal(schedule(np.array([1, 2, 6])), [3.5, 3.5, 1.5])
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert len({schedule, copy.deepcopy(schedule)}) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([Constant(1.0)], r"^Held: what must be .* got \[Constant.*\(list\); make it a tuple$"),
        ((0, [1]), r"^Held: what\[1\] must be .* got \[1\] \(list\); make it a tuple$"),
        ({"a": 1}, r"^Held: what must be .* got \{'a': 1\} \(dict\)$"),
        (np.float32(1), r"^Held: what must be a Python number, .* \(float32\)$"),
        (1j, r"^Held: what must be a Python number"),
    ],
)
def test_a_field_that_has_no_json(value, message, known):
    @dataclasses.dataclass(frozen=True)
    class Held(Schedule):
        what: object

    with pytest.raises(TypeError, match=message):
        Warmup(Held(value), 5).to_dict()


def test_json_of_what_is_not_finite(known):
    @dataclasses.dataclass(frozen=True)
    class Limits(Schedule):
        limits: tuple[object, ...]

    limits = Limits((math.inf, -math.inf, np.float64("inf"), "inf", 1.5, None, True))
    text = json.dumps(limits.to_dict(), allow_nan=False)
    assert Schedule.from_dict(json.loads(text)) == limits
    (nan,) = Schedule.from_dict(Limits((math.nan,)).to_dict()).limits
    assert math.isnan(nan)
    for mode, worst in (("min", -math.inf), ("max", math.inf)):
        plateau = ReduceOnPlateau(0.1, mode)
        plateau.observe(worst)
        assert plateau.to_dict()["state"][1] == {"float": str(worst)}
        text = json.dumps(plateau.to_dict(), allow_nan=False)
        assert Schedule.from_dict(json.loads(text)).state == plateau.state
        earlier = {"schedule": "ReduceOnPlateau", "lr": 0.1, "mode": mode}  # as once written
        earlier["state"] = [0.1, worst, 0, 0]
        assert Schedule.from_dict(json.loads(json.dumps(earlier))).state == plateau.state
    with pytest.raises(ValueError, match="'schedule' must be one of "):
        Schedule.from_dict({"schedule": "Constant", "lr": {"float": "much"}})


def test_a_field_that_json_needs(known):
    @dataclasses.dataclass(frozen=True)
    class Wrapped(Schedule):
        schedule: Schedule

    with pytest.raises(TypeError, match="Wrapped: a field cannot be called 'schedule'; rename"):
        Wrapped(Constant(0.5)).to_dict()


def test_schedule_without_a_formula(known):
    @dataclasses.dataclass(frozen=True)
    class Empty(Schedule):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty does not define _at\(step\)"):
        Empty()(0)


def test_taken_name(known):
    with pytest.raises(ValueError, match=r"named 'Warmup' exists already in instep\.schedules"):
        type("Warmup", (Schedule,), {"__module__": "elsewhere"})
    assert Schedule._known["Warmup"] is Warmup
