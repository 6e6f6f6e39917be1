"""Every value of a hyperparameter or an option that is refused, at first and in mid training."""

import decimal
import math

import numpy as np
import pytest
from conftest import bits, copy_tree, everything, leaves, tiny_problem

import instep

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


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 5.5e-309, -1e-310, 0.0])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"nonfinite": "skip", "stats": True}])
def test_refused_divisors(scale, options):
    """1 / grad_scale would be infinite, and 0 times it NaN."""
    opt = instep.SGD(param := np.ones(2), lr=1.0, ema_decay=0.5, zero_grads=True, **options)
    grad = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match=rf"^grad_scale .*{scale!r}"):
        opt.step(grad, grad_scale=scale)
    assert param.tolist() == [1, 1] and grad.tolist() == [0, 1] and opt.steps == 0
    opt.step(grad * 1e-308, grad_scale=1e-308)
    assert param[0] == 1 and abs(param[1]) < 1e-15


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
    for name in ("ema", "zero_grad", "state_type", "foreach", "learning_rate"):
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
