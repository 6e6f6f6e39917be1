"""Schedules in steps: of every hyperparameter, changed between steps, failing or calling back."""

import fractions
import math

import numpy as np
import pytest
import reference
from conftest import assert_close_to_twin, everything

import instep
from instep.schedules import Constant, CosineAnnealing, Warmup

STEPS = 30


def test_a_product_beyond_float64_is_named():
    """Nothing has been written then."""
    w = np.ones(3)
    optimizer = instep.SGD(w, lr=Constant(1e308) * Warmup(1e308, 2))
    with pytest.raises(ValueError, match=r"lr \(its schedule at step 0\) must be finite, got inf"):
        optimizer.step(np.ones(3))
    assert (w == 1).all()


def wave(low, high, period):
    """A function of the step that is no Schedule."""
    return lambda t: low + (high - low) * (0.5 + 0.5 * math.cos(t / period))


RATE = Warmup(CosineAnnealing(0.1, 15, 0.01), 5)
SCHEDULED = {
    "sgd": (
        instep.SGD,
        {
            "lr": RATE,
            "momentum": wave(0.3, 0.9, 3),
            "dampening": wave(-0.2, 0.6, 4),
            "weight_decay": CosineAnnealing(0.3, 20),
        },
    ),
    "nesterov": (instep.SGD, {"lr": RATE, "momentum": wave(0.2, 0.9, 5), "nesterov": True}),
    "rmsprop": (
        instep.RMSprop,
        {
            "lr": RATE,
            "alpha": wave(0.6, 0.95, 3),
            "eps": wave(1e-4, 1e-2, 4),
            "weight_decay": wave(0.0, 0.2, 5),
            "momentum": wave(0.1, 0.8, 2),
            "centered": True,
        },
    ),
    "adam": (
        instep.Adam,
        {
            "lr": RATE,
            "betas": (wave(0.5, 0.9, 3), wave(0.8, 0.99, 7)),
            "eps": wave(1e-4, 1e-2, 4),
            "weight_decay": wave(0.0, 0.2, 5),
            "amsgrad": True,
        },
    ),
    "adamw": (
        instep.AdamW,
        {
            "lr": RATE,
            "betas": (0.7, wave(0.8, 0.99, 7)),
            "eps": Constant(1e-3),
            "weight_decay": CosineAnnealing(0.5, 20, 0.1),
        },
    ),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_scheduled_hyperparameters(name, dtype, isa, rng):
    """All of them at once, with leaves of different step counts: schedules count the steps."""
    cls, hyper = SCHEDULED[name]
    starts = [rng.normal(size=n).astype(dtype) for n in (17, 5)]
    steps = [
        [rng.normal(0.5, 1, 17).astype(dtype), rng.normal(0.5, 1, 5).astype(dtype)]
        for _ in range(STEPS)
    ]
    for grads in steps[:4]:
        grads[1] = None
    params = [start.copy() for start in starts]
    opt = cls(params, **hyper)
    for t, grads in enumerate(steps):
        assert opt.step(grads).lr == RATE(t)
    twin = reference.RULES["sgd" if name == "nesterov" else name]
    wanted, states, _ = reference.run(twin, starts, steps, **hyper)
    assert_close_to_twin(opt, params, starts, wanted, states, ["0", "1"])


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_constant_schedule_is_the_constant(name, rng):
    cls, hyper = SCHEDULED[name]

    def at_seven(value):
        if isinstance(value, tuple):
            return tuple(at_seven(v) for v in value)
        return value(7) if callable(value) else value

    def wrap(value):
        if isinstance(value, tuple):
            return tuple(wrap(v) for v in value)
        return value if isinstance(value, bool) else Constant(value)

    constants = {key: at_seven(value) for key, value in hyper.items()}
    start, grads = rng.normal(size=50), rng.normal(size=(6, 50))
    one, other = start.copy(), start.copy()
    opt = cls(one, **constants)
    scheduled = cls(other, **{key: wrap(value) for key, value in constants.items()})
    for grad in grads:
        assert opt.step(grad) == scheduled.step(grad)
    assert everything(opt, one) == everything(scheduled, other)


def test_a_schedule_is_asked_once_per_step():
    seen = []

    def rate(t):
        seen.append(t)
        return 0.1

    opt = instep.Adam([np.ones(2), np.ones(3)], lr=rate, nonfinite="skip")
    assert seen == []  # not before the first step
    for grads in ([np.ones(2), None], [np.ones(2), np.ones(3)], [np.inf * np.ones(2), None]):
        opt.step(grads)
    opt.step([None, None])
    assert seen == [0, 1, 2, 2]  # the skipped step is asked for again
    assert all(type(t) is int for t in seen)


def test_groups_share_and_override_schedules():
    a, b, c = np.zeros(1), np.zeros(1), np.zeros(1)
    groups = [{"params": a}, {"params": b, "lr": wave(1.0, 2.0, 3)}, {"params": c, "lr": 0.25}]
    opt = instep.SGD(groups, lr=CosineAnnealing(0.5, 10))
    total = np.zeros(3)
    for t in range(12):
        assert opt.step([np.ones(1)] * 3).lr == CosineAnnealing(0.5, 10)(t)
        total -= [CosineAnnealing(0.5, 10)(t), wave(1.0, 2.0, 3)(t), 0.25]
    np.testing.assert_allclose(np.concatenate([a, b, c]), total, rtol=1e-15)


def test_a_schedule_may_replace_a_constant_and_be_replaced():
    param = np.zeros(1)
    opt = instep.SGD(param, lr=1.0)
    rates = [1.0, 1.0, wave(0.1, 0.2, 3), wave(0.1, 0.2, 3), Constant(3.0), 0.5]
    for t, rate in enumerate(rates):
        opt.param_groups[0]["lr"] = rate
        before = param[0]
        value = rate(t) if callable(rate) else rate
        assert opt.step(np.ones(1)).lr == value
        assert param[0] == before - value


def test_schedules_that_return_numpy_numbers():
    param = np.zeros(1)
    opt = instep.SGD(
        param, lr=lambda t: np.float32(0.5), momentum=lambda t: fractions.Fraction(1, 4)
    )
    report = opt.step(np.ones(1))
    assert report.lr == 0.5 and type(report.lr) is float


def test_a_schedule_that_fails():
    """Its exception comes through, and nothing is written or counted."""

    def rate(t):
        if t == 1:
            raise RuntimeError("no rate today")
        return 0.5

    param = np.zeros(2)
    opt = instep.SGD(param, lr=rate, momentum=0.5)
    opt.step(np.ones(2))
    before = everything(opt, param)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no rate today"):
            opt.step(np.ones(2))
    assert everything(opt, param) == before


def reenter(opt, how):
    """A call that may not come from within a step."""
    calls = {
        "step": lambda: opt.step([np.ones(2), np.ones(3)]),
        "add_param_group": lambda: opt.add_param_group({"params": np.ones(4)}),
        "load_state_dict": lambda: opt.load_state_dict(opt.state_dict()),
    }
    with pytest.raises(RuntimeError, match=rf"^{how}\(\) was called within a step"):
        calls[how]()


@pytest.mark.parametrize("how", ["step", "add_param_group", "load_state_dict"])
@pytest.mark.parametrize("by", ["schedule", "clip", "gradient"])
def test_a_step_within_a_step_is_refused(by, how):
    """The counts of the steps would disagree; the refused call leaves no trace."""

    class Gradient:
        def __array__(self, dtype=None, copy=None):
            reenter(opt, how)
            return np.ones(3)

    def constant(value):
        return lambda t: (reenter(opt, how), value)[1]

    params, clean = [np.ones(2), np.ones(3)], [np.ones(2), np.ones(3)]
    opt, other = (instep.SGD(p, lr=0.5, momentum=0.5, clip_norm=0.9) for p in (params, clean))
    if by == "schedule":
        opt.param_groups[0]["lr"] = constant(0.5)
    elif by == "clip":
        opt.clip_norm = constant(0.9)
    for t in range(3):
        opt.step([np.ones(2), Gradient() if by == "gradient" else np.ones(3)])
        other.step([np.ones(2), np.ones(3)])
        assert opt.steps == opt.state["1"]["step"] == t + 1
    assert everything(opt, *params) == everything(other, *clean)


def test_a_schedule_may_look_at_its_optimizer():
    opt = instep.SGD(np.ones(2), lr=lambda t: 0.5 if opt.steps == t and opt.state_dict() else 0.0)
    assert [opt.step(np.ones(2)).lr for _ in range(3)] == [0.5] * 3


def test_a_refused_reentry_that_is_not_caught_leaves_the_optimizer_usable():
    opt = instep.SGD(param := np.ones(2), lr=lambda t: opt.step(np.ones(2)).lr)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^step\(\) was called within a step"):
            opt.step(np.ones(2))
        assert opt.steps == 0 and (param == 1).all()
    opt.param_groups[0]["lr"] = 0.5
    assert opt.step(np.ones(2)).applied and (param == 0.5).all()
