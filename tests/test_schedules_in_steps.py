"""Hyperparameters: schedules in steps, changes between steps, and every value that is refused."""

import decimal
import fractions
import math

import numpy as np
import pytest
import reference
from conftest import assert_close_to_twin, bits, copy_tree, everything, leaves, tiny_problem

import instep
from instep.schedules import Constant, CosineAnnealing, Warmup

STEPS = 30


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


# ---- schedules -------------------------------------------------------------------------------


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


# ---- refused values --------------------------------------------------------------------------

NOT_NUMBERS = [
    "0.1",
    None,
    [0.1],
    0.1 + 0j,
    True,
    np.True_,
    np.array(0.1),
    decimal.Decimal("0.1"),
    {},
]
NOT_FINITE = [math.nan, math.inf, -math.inf, np.float32(np.inf)]
FRACTIONS = [-0.1, 1.0, 1, 2.5]
RANGES = {
    "lr": (instep.AdamW, [-1e-9, -1]),
    "eps": (instep.AdamW, [-1e-12]),
    "weight_decay": (instep.AdamW, [-0.1]),
    "momentum": (instep.SGD, [-0.5]),
    "dampening": (instep.SGD, []),
    "alpha": (instep.RMSprop, FRACTIONS),
    "betas[0]": (instep.Adam, FRACTIONS),
    "betas[1]": (instep.Adam, FRACTIONS),
    "clip_norm": (instep.Adam, [-1.0]),
    "clip_value": (instep.Adam, [-1.0, 0.0]),
}
OPTIONAL = ("clip_norm", "clip_value")


def refused(name):
    """(value, exception) pairs."""
    for value in NOT_NUMBERS:
        if value is not None or name not in OPTIONAL:
            yield value, TypeError
    for value in NOT_FINITE + RANGES[name][1]:
        yield value, ValueError


def keyword(name, value):
    if name.startswith("betas"):
        return {"betas": (value, 0.9) if name == "betas[0]" else (0.9, value)}
    return {name: value}


def assign(opt, name, value):
    if name in OPTIONAL:
        setattr(opt, name, value)
    else:
        opt.param_groups[0].update(keyword(name, value))


def names_it(caught, name, value):
    message = str(caught.value)
    assert message.startswith(name), message
    assert repr(value) in message


@pytest.mark.parametrize("name", RANGES)
def test_refused_by_the_constructor(name):
    for value, kind in refused(name):
        with pytest.raises(kind) as caught:
            RANGES[name][0](np.ones(2), **keyword(name, value))
        names_it(caught, name, value)
        if name not in OPTIONAL:
            opt = RANGES[name][0](np.ones(2))
            with pytest.raises(kind) as caught:
                opt.add_param_group({"params": np.ones(2), **keyword(name, value)})
            names_it(caught, name, value)
            assert len(opt.param_groups) == 1 and opt.step(np.ones(2)).applied


@pytest.mark.parametrize("way", ["assigned", "scheduled"])
@pytest.mark.parametrize("name", RANGES)
def test_refused_in_mid_training(name, way):
    """Nothing is written, and a good value lets the run go on as if nothing had been."""
    tree, steps = tiny_problem(steps=3)
    for value, kind in refused(name):
        if way == "scheduled" and callable(value):
            continue
        params, clean = copy_tree(tree), copy_tree(tree)
        cls = RANGES[name][0]
        opt, other = cls(params, lr=0.3), cls(clean, lr=0.3)
        good = opt.clip_norm if name in OPTIONAL else opt.param_groups[0][name.split("[")[0]]
        opt.step(steps[0])
        other.step(steps[0])
        before = everything(opt, *leaves(params))
        with pytest.raises(kind) as caught:
            if way == "scheduled":
                assign(opt, name, lambda t, value=value: value)
            else:
                assign(opt, name, value)
            opt.step(steps[1])
        message = str(caught.value)
        assert message.startswith(name) and repr(value) in message
        assert way == "assigned" or "schedule at step 1" in message
        assert everything(opt, *leaves(params)) == before
        if name in OPTIONAL:
            setattr(opt, name, good)
        else:
            opt.param_groups[0][name.split("[")[0]] = good
        opt.step(steps[2])
        other.step(steps[2])
        assert everything(opt, *leaves(params)) == everything(other, *leaves(clean))


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *NOT_FINITE, 0.0, 0, -2.0], ids=repr)
def test_refused_grad_scale(value):
    opt = instep.Adam(param := np.ones(2), clip_norm=1.0)
    kind = TypeError if any(value is v for v in NOT_NUMBERS) else ValueError
    with pytest.raises(kind) as caught:
        opt.step(np.ones(2), grad_scale=value)
    names_it(caught, "grad_scale", value)
    assert opt.steps == 0 and opt.state == {} and (param == 1).all()


@pytest.mark.parametrize("name", RANGES)
def test_refused_integers_beyond_float64(name):
    """Not OverflowError."""
    cls = RANGES[name][0]
    with pytest.raises(ValueError) as caught:
        cls(np.ones(2), **keyword(name, 10**400))
    assert str(caught.value).startswith(name)
    opt = cls(param := np.ones(2))
    with pytest.raises(ValueError) as caught:
        assign(opt, name, lambda t: -(10**400))
        opt.step(np.ones(2))
    assert str(caught.value).startswith(name) and (param == 1).all()
    with pytest.raises(ValueError, match=r"^grad_scale"):
        cls(param).step(np.ones(2), grad_scale=10**400)


@pytest.mark.parametrize("name", [*RANGES, "maximize", "grad_scale"])
def test_refused_arrays(name):
    """An array is no number, also where it is compared with the number before."""
    value = np.array([0.1, 0.2])
    opt = RANGES.get(name, [instep.Adam])[0](param := np.ones(2))
    with pytest.raises(TypeError) as caught:
        if name == "grad_scale":
            opt.step(np.ones(2), grad_scale=value)
        assign(opt, name, value)
        opt.step(np.ones(2))
    names_it(caught, name, value)
    assert opt.steps == 0 and (param == 1).all()


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


@pytest.mark.parametrize("name", ["maximize", "nesterov", "centered", "amsgrad"])
def test_flags_are_true_or_false(name):
    cls = {"nesterov": instep.SGD, "centered": instep.RMSprop}.get(name, instep.Adam)
    # A schedule of flags would change the number of states in mid-run.
    for value in (1, 0, 1.0, "yes", None, [], np.ones(1), lambda t: True):
        with pytest.raises(TypeError) as caught:
            cls(np.ones(2), **{name: value})
        names_it(caught, name, value)
    options = {"momentum": 0.5} if name == "nesterov" else {}
    assert cls(np.ones(2), **{name: np.True_}, **options).step(np.ones(2)).applied


@pytest.mark.parametrize(
    "value", [0.9, "ab", (0.9,), (0.9, 0.9, 0.9), np.array(0.9), {0.8, 0.9}, None], ids=repr
)
def test_betas_are_a_pair(value):
    with pytest.raises(TypeError, match=r"^betas must be a pair") as caught:
        instep.Adam(np.ones(2), betas=value)
    names_it(caught, "betas", value)
    opt = instep.Adam(param := np.ones(2))
    opt.param_groups[0]["betas"] = value
    with pytest.raises(TypeError, match=r"^betas must be a pair"):
        opt.step(np.ones(2))
    assert bits(param) == bits(np.ones(2)) and opt.steps == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.0},
        {"momentum": 0.9, "dampening": 0.1},
        {"momentum": 0.9, "dampening": lambda t: 0.0},
    ],
)
def test_nesterov_needs_momentum_and_no_dampening(options):
    with pytest.raises(ValueError, match=r"nesterov=True.*momentum=.*dampening="):
        instep.SGD(np.ones(2), nesterov=True, **options)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"nonfinite": "ignore"}, ValueError, "nonfinite.*'propagate', 'skip', 'raise'.*'ignore'"),
        ({"nonfinite": None}, TypeError, "nonfinite.*None"),
        ({"nonfinite": True}, TypeError, "nonfinite.*True"),
        ({"threads": 0}, ValueError, "threads.*0"),
        ({"threads": -1}, ValueError, "threads.*-1"),
        ({"threads": 2**31}, ValueError, r"threads.*below 2\*\*31.*2147483648"),
        ({"threads": 2.0}, TypeError, "threads.*2.0"),
        ({"threads": True}, TypeError, "threads.*True"),
        ({"threads": "2"}, TypeError, "threads.*'2'"),
    ],
)
@pytest.mark.parametrize("cls", [instep.SGD, instep.RMSprop, instep.Adam, instep.AdamW])
def test_refused_options(cls, options, kind, message):
    with pytest.raises(kind, match=message):
        cls(np.ones(2), **options)
    opt = cls(np.ones(2))
    (name, value), *_ = options.items()
    kept = getattr(opt, name)
    with pytest.raises(kind, match=message):
        setattr(opt, name, value)
    assert getattr(opt, name) == kept


@pytest.mark.parametrize("cls", [instep.SGD, instep.RMSprop, instep.Adam, instep.AdamW])
def test_unknown_keywords(cls):
    for name in ("ema_decay", "zero_grads", "state_dtype", "foreach", "learning_rate"):
        with pytest.raises(TypeError, match=name):
            cls(np.ones(2), **{name: None})
    with pytest.raises(TypeError):
        cls(np.ones(2), 0.1, maximize=True, nonfinite="skip", clip=1.0)
    with pytest.raises(TypeError):
        cls()
    with pytest.raises(TypeError, match="gradient"):
        cls(np.ones(2)).step(gradient=np.ones(2))
    with pytest.raises(TypeError):
        cls(np.ones(2)).step(np.ones(2), 2.0)  # grad_scale is keyword-only
