"""Every optimizer and option against the float64 twin: parameters and states, many steps."""

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from conftest import (
    DTYPES,
    SIZES,
    assert_close_to_twin,
    bits,
    leaves,
    tiny_problem,
    travel_error,
)

import instep

STEPS = 30
LARGE = [16384, 16385, 40000]  # a piece of the planner, and beyond


class Row(NamedTuple):
    """One optimizer with options, every one of them off its default."""

    rule: str  # of csrc/kernels.def
    optimizer: type[instep.optim.Optimizer]
    twin: str  # of reference.RULES
    hyper: dict[str, Any]

    def make(self, params, **options):
        return self.optimizer(params, **self.hyper, **options)

    def expect(self, params, grads, **options):
        return reference.run(reference.RULES[self.twin], params, grads, **self.hyper, **options)


SGD = {"lr": 0.03, "weight_decay": 0.1}
HEAVY = {**SGD, "momentum": 0.8}
RMS = {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.05}
ADAM = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.2}
ROWS = {
    "sgd": Row("sgd", instep.SGD, "sgd", SGD),
    "sgd-maximize": Row("sgd", instep.SGD, "sgd", {**SGD, "maximize": True}),
    "momentum": Row("sgd_momentum", instep.SGD, "sgd", HEAVY),
    "momentum-maximize": Row("sgd_momentum", instep.SGD, "sgd", {**HEAVY, "maximize": True}),
    "dampening": Row("sgd_momentum", instep.SGD, "sgd", {**HEAVY, "dampening": 0.3}),
    "nesterov": Row("sgd_momentum", instep.SGD, "sgd", {**HEAVY, "nesterov": True}),
    "rmsprop": Row("rmsprop", instep.RMSprop, "rmsprop", RMS),
    "rmsprop-maximize": Row("rmsprop", instep.RMSprop, "rmsprop", {**RMS, "maximize": True}),
    "rmsprop-momentum": Row(
        "rmsprop_momentum", instep.RMSprop, "rmsprop", {**RMS, "momentum": 0.7}
    ),
    "rmsprop-centered": Row(
        "rmsprop_centered", instep.RMSprop, "rmsprop", {**RMS, "centered": True}
    ),
    "rmsprop-centered-momentum": Row(
        "rmsprop_centered_momentum",
        instep.RMSprop,
        "rmsprop",
        {**RMS, "centered": True, "momentum": 0.7, "maximize": True},
    ),
    "adam": Row("adam", instep.Adam, "adam", ADAM),
    "adam-maximize": Row("adam", instep.Adam, "adam", {**ADAM, "maximize": True}),
    "adam-amsgrad": Row("adam_amsgrad", instep.Adam, "adam", {**ADAM, "amsgrad": True}),
    "adamw": Row("adam", instep.AdamW, "adamw", ADAM),
    "adamw-maximize": Row("adam", instep.AdamW, "adamw", {**ADAM, "maximize": True}),
    "adamw-amsgrad": Row(
        "adam_amsgrad", instep.AdamW, "adamw", {**ADAM, "amsgrad": True, "maximize": True}
    ),
}
PREPARATION = {"grad_scale": 3.0, "clip_norm": 2.5, "clip_value": 0.9}


@functools.cache
def problem(n, dtype, steps=STEPS):
    """A parameter and gradients of changing size, so that AMSGrad's maximum is not the last v."""
    rng = np.random.default_rng(zlib.crc32(f"{n} {dtype}".encode()))
    sizes = 1.2 + np.cos(np.arange(steps) / 4)
    grads = [(size * rng.normal(0.8, 1.0, n)).astype(dtype) for size in sizes]
    return rng.normal(size=n).astype(dtype), grads


@functools.cache
def expected(name, n, dtype):
    start, grads = problem(n, dtype)
    params, states, _ = ROWS[name].expect([start], [[g] for g in grads])
    return params[0], states[0]


def check_size(name, n, dtype, guarded):
    start, grads = problem(n, dtype)
    param = guarded.array(start, shift=n % 5)
    opt = ROWS[name].make(param)
    # Gradients between guards as well: nothing may be read or written beyond their ends.
    for k, grad in enumerate(grads):
        opt.step(guarded.array(grad, shift=k % 3) if n < 200 else grad)
    wanted, states = expected(name, n, dtype)
    assert_close_to_twin(opt, [param], [start], [wanted], [states])
    assert opt.steps == STEPS and opt.state.get("param", {}).get("step") == STEPS


@pytest.mark.parametrize("name", ROWS)
def test_twin(name, dtype, isa, guarded):
    for n in SIZES:
        check_size(name, n, dtype, guarded)


@pytest.mark.parametrize("n", LARGE)
@pytest.mark.parametrize("name", ["nesterov", "rmsprop-centered-momentum", "adamw-amsgrad"])
def test_twin_beyond_a_piece(name, n, dtype, isa, guarded):
    check_size(name, n, dtype, guarded)


def test_the_maximum_of_amsgrad_is_seen():
    """The problem above would not notice a missing maximum if v never shrank."""
    for dtype in DTYPES:
        _, states = expected("adamw-amsgrad", 1000, dtype)
        assert np.mean(states["max_exp_avg_sq"] > states["exp_avg_sq"]) > 0.5


@pytest.mark.parametrize("name", ROWS)
def test_preparation_of_gradients(name, dtype, isa):
    """grad_scale, clip_norm and clip_value together, over several leaves."""
    shapes = [(3, 5), (), (129,), (2, 2, 2)]
    rng = np.random.default_rng(5)
    starts = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    steps = [[rng.normal(0.4, 2.0, s).astype(dtype) for s in shapes] for _ in range(STEPS)]
    norms = [reference.prepare(grads, grad_scale=3.0)[1] for grads in steps]
    assert min(norms) < 1.03 * PREPARATION["clip_norm"] * 3 < max(norms) * 3
    row = ROWS[name]
    params = [start.copy() for start in starts]
    opt = row.make(params, clip_norm=2.5, clip_value=0.9)
    for grads, norm in zip(steps, norms, strict=True):
        report = opt.step(grads, grad_scale=3.0)
        np.testing.assert_allclose(report.grad_norm, norm, rtol=1e-12)
    wanted, states, _ = row.expect(starts, steps, **PREPARATION)
    assert_close_to_twin(opt, params, starts, wanted, states)


@pytest.mark.parametrize("name", ROWS)
def test_late_and_missing_gradients(name, dtype):
    """Each leaf counts its own gradients: own bias correction, own undamped first buffer."""
    rng = np.random.default_rng(11)
    shapes = [(4, 3), (5,), (), (17,), (2,)]
    takes_part = [
        lambda t: True,
        lambda t: t >= 6,
        lambda t: t % 2 == 0,
        lambda t: t % 3 != 1,
        lambda t: not 4 <= t < 12,
    ]
    starts = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    steps = [
        [
            rng.normal(0.4, 1.0, shape).astype(dtype) if part(t) else None
            for shape, part in zip(shapes, takes_part, strict=True)
        ]
        for t in range(STEPS)
    ]
    row = ROWS[name]
    params = [start.copy() for start in starts]
    opt = row.make(params)
    for t, grads in enumerate(steps):
        before = [bits(p) for p in params]
        assert opt.step(grads).step == t + 1
        for k, grad in enumerate(grads):
            assert grad is not None or bits(params[k]) == before[k]
    wanted, states, counts = row.expect(starts, steps)
    assert_close_to_twin(opt, params, starts, wanted, states, [str(k) for k in range(5)])
    assert [opt.state[str(k)]["step"] for k in range(5)] == counts


def test_a_leaf_without_gradient_has_no_state():
    params = {"a": np.ones(3), "b": np.ones(2)}
    opt = instep.Adam(params, lr=0.1)
    for _ in range(3):
        assert opt.step({"a": np.ones(3), "b": None}).applied
    assert list(opt.state) == ["a"]
    assert (params["b"] == 1).all()
    report = opt.step({"a": None, "b": None})
    assert report.applied and report.step == opt.steps == 4
    assert opt.state["a"]["step"] == 3


@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop-centered-momentum", "adam"])
def test_nested_trees(name, dtype):
    """Leaves of both dtypes in dicts and lists, a whole branch without gradient."""
    tree, grads = tiny_problem(dtype=dtype, steps=STEPS)
    for grad in grads[::4]:
        grad["layers"][0] = None
    starts = [leaf.copy() for leaf in leaves(tree)]
    opt = ROWS[name].make(tree)
    flat = []
    for grad in grads:
        opt.step(grad)
        missing = grad["layers"][0] is None
        flat.append(([None, None] if missing else []) + [g for g in leaves(grad) if g is not None])
    names = ["layers.0.W", "layers.0.b", "layers.1.W", "layers.1.b", "scale"]
    assert list(opt.state) == names
    wanted, states, _ = ROWS[name].expect(starts, flat)
    assert_close_to_twin(opt, leaves(tree), starts, wanted, states, names)


def test_groups_have_their_own_hyperparameters(rng):
    values = [rng.normal(size=n) for n in (4, 3, 5)]
    a, b, c = (v.copy() for v in values)
    groups = [
        {"params": {"a": a, "b": b}},
        {"params": c, "lr": 0.3, "betas": (0.5, 0.6), "eps": 1e-2, "weight_decay": 0.7},
    ]
    opt = instep.AdamW(groups, lr=0.05, betas=(0.7, 0.8), eps=1e-3, weight_decay=0.4)
    steps = [[rng.normal(0.3, 1.0, n) for n in (4, 3, 5)] for _ in range(STEPS)]
    for ga, gb, gc in steps:
        report = opt.step([{"a": ga, "b": gb}, gc])
        assert report.lr == 0.05
    first = {"lr": 0.05, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.4}
    second = {"lr": 0.3, "betas": (0.5, 0.6), "eps": 1e-2, "weight_decay": 0.7}
    wanted, states, _ = reference.run(reference.adamw, values[:2], [g[:2] for g in steps], **first)
    more, more_states, _ = reference.run(
        reference.adamw, values[2:], [g[2:] for g in steps], **second
    )
    names = ["0.a", "0.b", "1"]
    assert list(opt.state) == names
    assert_close_to_twin(opt, [a, b, c], values, wanted + more, states + more_states, names)
    assert [group["lr"] for group in opt.param_groups] == [0.05, 0.3]


def test_add_param_group_in_mid_training(dtype, rng):
    """The old leaves go on as before, the new ones start their own count."""
    values = [rng.normal(size=n).astype(dtype) for n in (33, 9)]
    a, b = (v.copy() for v in values)
    opt = instep.Adam({"a": a}, **ADAM)
    first = [rng.normal(0.3, 1.0, 33).astype(dtype) for _ in range(STEPS)]
    second = [rng.normal(0.3, 1.0, 9).astype(dtype) for _ in range(STEPS - 7)]
    for g in first[:7]:
        opt.step({"a": g})
    opt.add_param_group({"params": [b], "lr": 0.07, "amsgrad": True})
    for ga, gb in zip(first[7:], second, strict=True):
        opt.step([{"a": ga}, [gb]])
    wanted, states, _ = reference.run(reference.adam, values[:1], [[g] for g in first], **ADAM)
    more, more_states, _ = reference.run(
        reference.adam,
        values[1:],
        [[g] for g in second],
        **{**ADAM, "lr": 0.07, "amsgrad": True},
    )
    assert opt.steps == STEPS
    assert [entry["step"] for entry in opt.state.values()] == [STEPS, STEPS - 7]
    assert_close_to_twin(opt, [a, b], values, wanted + more, states + more_states)


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.4])
def test_momentum_switched_on_later(dampening, scheduled, dtype):
    """Without momentum the gradient is not damped and the buffer rests, as in torch."""

    def momentum(t):
        return 0.8 if 5 <= t < 12 or t >= 15 else 0

    start, grads = problem(65, dtype)
    param = start.copy()
    opt = instep.SGD(param, lr=0.03, dampening=dampening, weight_decay=0.1)
    if scheduled:
        opt.param_groups[0]["momentum"] = momentum
    for t, grad in enumerate(grads):
        if not scheduled:
            opt.param_groups[0]["momentum"] = momentum(t)
        opt.step(grad)
    wanted, states, _ = reference.run(
        reference.sgd,
        [start],
        [[g] for g in grads],
        lr=0.03,
        dampening=dampening,
        weight_decay=0.1,
        momentum=momentum,
    )
    assert_close_to_twin(opt, [param], [start], wanted, states)


def test_momentum_switched_on_where_only_one_leaf_has_a_buffer(dtype, rng):
    """Leaves of equal step counts may differ in their states: each has its own first buffer."""
    shapes = [3, 4, 5, 6]
    starts = [rng.normal(size=n).astype(dtype) for n in shapes]
    momentum = [0.8, 0, 0, 0, 0.8, 0.8, 0.8]
    missing = [{1}, {0}, set(), {3}, set(), {1}, set()]
    steps = [
        [None if k in gone else rng.normal(1, 1, n).astype(dtype) for k, n in enumerate(shapes)]
        for gone in missing
    ]
    params = [start.copy() for start in starts]
    opt = instep.SGD(params, lr=0.1, dampening=0.5)
    for mu, grads in zip(momentum, steps, strict=True):
        opt.param_groups[0]["momentum"] = mu
        opt.step(grads)
    wanted, states, _ = reference.run(
        reference.sgd, starts, steps, lr=0.1, dampening=0.5, momentum=lambda t: momentum[t]
    )
    assert_close_to_twin(opt, params, starts, wanted, states, ["0", "1", "2", "3"])


def test_options_switched_in_mid_training(dtype):
    """Changes in param_groups act from the next step on."""
    start, grads = problem(33, dtype)
    param = start.copy()
    opt = instep.Adam(param, lr=0.02, eps=1e-3)
    later = {"lr": 0.05, "betas": (0.7, 0.8), "eps": 1e-2, "weight_decay": 0.3}
    for t, grad in enumerate(grads):
        if t == 9:
            opt.param_groups[0].update(later, amsgrad=True, maximize=True)
        assert opt.step(grad).lr == (0.02 if t < 9 else 0.05)

    def since(t, old, new):
        return old if t < 9 else new

    wanted, states, _ = reference.run(
        reference.adam,
        [start],
        [[g] for g in grads],
        lr=lambda t: since(t, 0.02, 0.05),
        betas=(lambda t: since(t, 0.9, 0.7), lambda t: since(t, 0.999, 0.8)),
        eps=lambda t: since(t, 1e-3, 1e-2),
        weight_decay=lambda t: since(t, 0.0, 0.3),
        amsgrad=lambda t: t >= 9,
        maximize=lambda t: t >= 9,
    )
    assert_close_to_twin(opt, [param], [start], wanted, states)


def test_centered_variance_never_goes_below_zero(dtype, isa):
    """Under a steady gradient v - a^2 is rounding noise; without a floor its root is NaN."""
    grad = np.random.default_rng(3).normal(size=500).astype(dtype)
    param = np.zeros(500, dtype)
    opt = instep.RMSprop(param, lr=1e-3, alpha=0.9, eps=0.1, centered=True)
    for _ in range(600):
        opt.step(grad)
    entry = opt.state["param"]
    variance = entry["square_avg"] - entry["grad_avg"] ** 2
    assert (variance < 0).any(), "nothing to see"
    assert np.isfinite(param).all() and (np.sign(param) == -np.sign(grad)).all()


def test_many_steps_of_bias_correction(isa):
    """The step count is an integer and beta^t is exact: no drift after 3,000 steps."""
    start, grads = problem(8, np.dtype(np.float64), 3000)
    param = start.copy()
    opt = instep.AdamW(param, lr=1e-3, betas=(0.99, 0.9999), eps=1e-6, weight_decay=0.1)
    for grad in grads:
        opt.step(grad)
    wanted, states, _ = reference.run(
        reference.adamw,
        [start],
        [[g] for g in grads],
        lr=1e-3,
        betas=(0.99, 0.9999),
        eps=1e-6,
        weight_decay=0.1,
    )
    assert travel_error(param, wanted[0], start) < 1e-11
    assert travel_error(opt.state["param"]["exp_avg_sq"], states[0]["exp_avg_sq"]) < 1e-11
