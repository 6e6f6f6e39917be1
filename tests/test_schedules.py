"""Schedules: values by hand, ends, parity with PyTorch, arrays, errors, pickle and JSON."""

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from instep import schedules
from instep.schedules import Constant, CosineAnnealing, Schedule, Warmup

SCHEDULES = [
    Constant(0.1),
    Constant(0),
    Constant(-2.5),
    CosineAnnealing(0.3, 7),
    CosineAnnealing(3e-3, 1000, min_lr=1e-5),
    CosineAnnealing(1.0, 1),
    CosineAnnealing(0.1, 10, min_lr=0.9),
    Warmup(0.1, 0),
    Warmup(0.3, 3),
    Warmup(CosineAnnealing(3e-3, 2000), 100),
    Warmup(Warmup(CosineAnnealing(0.7, 11, 0.1), 4), 3),
]


@pytest.fixture(params=SCHEDULES, ids=repr)
def schedule(request):
    return request.param


# ---- values ----------------------------------------------------------------------------------


def test_constant():
    assert [Constant(0.25)(t) for t in (0, 1, 10**30)] == [0.25] * 3


def test_cosine_by_hand():
    schedule = CosineAnnealing(0.8, 4)
    quarter = math.sqrt(0.5)
    expected = [0.8, 0.4 * (1 + quarter), 0.4, 0.4 * (1 - quarter), 0.0, 0.0]
    np.testing.assert_allclose([schedule(t) for t in range(6)], expected, rtol=1e-14, atol=1e-300)
    lifted = CosineAnnealing(0.9, 4, min_lr=0.1)
    np.testing.assert_allclose(
        [lifted(t) - 0.1 for t in range(6)], expected, rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize("lr", [0.3, 3e-3, 0.1, -1.0])
@pytest.mark.parametrize("min_lr", [0.0, 1e-5, 0.07])
@pytest.mark.parametrize("total_steps", [1, 2, 7, 1000])
def test_cosine_ends_are_exact(lr, min_lr, total_steps):
    schedule = CosineAnnealing(lr, total_steps, min_lr)
    assert schedule(0) == lr
    assert schedule(total_steps - 1) != min_lr
    for after_the_end in (0, 1, total_steps, 10**30):
        assert schedule(total_steps + after_the_end) == min_lr


def test_cosine_falls_at_every_step():
    values = CosineAnnealing(3e-3, 1000, min_lr=1e-5)(np.arange(1001))
    assert (np.diff(values) < 0).all()


def test_cosine_takes_extreme_values():
    assert CosineAnnealing(1e308, 2, min_lr=-1e308)(1) == 0.0
    assert CosineAnnealing(1.0, 10**400)(10**399) == pytest.approx(
        0.5 + 0.5 * math.cos(0.1 * math.pi)
    )


def test_warmup_by_hand():
    schedule = Warmup(CosineAnnealing(0.8, 4), 4)
    np.testing.assert_allclose([schedule(t) for t in range(4)], [0.2, 0.4, 0.6, 0.8], rtol=1e-15)
    assert [schedule(4 + t) for t in range(6)] == [CosineAnnealing(0.8, 4)(t) for t in range(6)]


@pytest.mark.parametrize("steps", [1, 3, 10, 49, 1000])
@pytest.mark.parametrize("lr", [0.1, 3e-3, 0.7])
def test_warmup_ends_are_exact(lr, steps):
    schedule = Warmup(CosineAnnealing(lr, 50), steps)
    assert schedule(0) == pytest.approx(lr / steps, rel=1e-15)
    assert schedule(steps - 1) == lr
    assert schedule(steps) == lr
    assert schedule(steps + 1) == CosineAnnealing(lr, 50)(1) < lr


def test_warmup_of_no_steps_is_what_follows(schedule):
    assert [Warmup(schedule, 0)(t) for t in range(5)] == [schedule(t) for t in range(5)]


def test_warmup_takes_a_number():
    assert Warmup(0.5, 2) == Warmup(Constant(0.5), 2)
    assert Warmup(0.5, 2).after == Constant(0.5)


def test_values_are_python_floats(schedule):
    for t in (0, 1, 5, 10_000):
        assert type(schedule(t)) is float


# ---- PyTorch ---------------------------------------------------------------------------------


def torch_values(make, lr, steps):
    """The learning rates a PyTorch scheduler sets, step by step."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("min_lr", [0.0, 1e-4])
@pytest.mark.parametrize("total_steps", [1, 2, 10, 1000])
def test_cosine_against_torch(total_steps, min_lr):
    expected = torch_values(
        lambda schedulers, opt: schedulers.CosineAnnealingLR(opt, total_steps, eta_min=min_lr),
        lr=3e-3,
        steps=total_steps + 1,
    )
    ours = CosineAnnealing(3e-3, total_steps, min_lr)(np.arange(total_steps + 1))
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-17)


def test_warmup_against_torch():
    steps, total = 10, 40

    def make(schedulers, opt):
        linear = schedulers.LinearLR(opt, start_factor=1 / steps, total_iters=steps - 1)
        cosine = schedulers.CosineAnnealingLR(opt, total)
        return schedulers.SequentialLR(opt, [linear, cosine], milestones=[steps])

    ours = Warmup(CosineAnnealing(3e-3, total), steps)(np.arange(steps + total))
    expected = torch_values(make, lr=3e-3, steps=steps + total)
    np.testing.assert_allclose(ours, expected, rtol=1e-11)


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


def test_numpy_fields_become_python_numbers():
    schedule = Warmup(CosineAnnealing(np.float32(0.5), np.int64(10), np.float64(0.25)), np.uint8(3))
    assert schedule == Warmup(CosineAnnealing(0.5, 10, 0.25), 3)
    assert type(schedule.after.lr) is type(schedule.after.min_lr) is float
    assert type(schedule.after.total_steps) is type(schedule.steps) is int
    assert json.loads(json.dumps(schedule.to_dict())) == schedule.to_dict()
    assert type(Constant(1).lr) is float


# ---- values as objects -----------------------------------------------------------------------


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


def test_repr_builds_the_schedule(schedule):
    assert eval(repr(schedule), vars(schedules)) == schedule


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(schedule, protocol):
    back = pickle.loads(pickle.dumps(schedule, protocol))
    assert back == schedule
    assert back(3) == schedule(3)


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
