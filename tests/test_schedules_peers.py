"""Schedules against PyTorch's and optax's, step by step over 1,000 steps and more."""

import math
import warnings

import numpy as np
import pytest

import instep
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
    PolynomialDecay,
    ReduceOnPlateau,
    Sequence,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)

T = 1000


def torch_values(make, lr, steps, option="lr"):
    """What a PyTorch scheduler sets, step by step."""
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    with warnings.catch_warnings():
        # SequentialLR warns about its own calls.
        warnings.filterwarnings("ignore", "The epoch parameter in `scheduler.step")
        scheduler = make(torch.optim.lr_scheduler, optimizer)
        values = []
        for _ in range(steps):
            values.append(optimizer.param_groups[0][option])
            optimizer.step()
            scheduler.step()
    return values


def one_cycle(total_steps, **options):
    return lambda s, opt: s.OneCycleLR(opt, 0.3, total_steps=total_steps, **options)


def warmed_cosine(s, opt):
    linear = s.LinearLR(opt, start_factor=1 / 100, total_iters=99)
    return s.SequentialLR(opt, [linear, s.CosineAnnealingLR(opt, T - 100)], milestones=[100])


def wsd(s, opt):
    parts = [
        s.LinearLR(opt, start_factor=1 / 100, total_iters=99),
        s.ConstantLR(opt, factor=1.0, total_iters=1),
        s.LinearLR(opt, start_factor=1.0, end_factor=0.0, total_iters=200),
    ]
    return s.SequentialLR(opt, parts, milestones=[100, 700])


# ours, PyTorch's, steps to compare
TORCH = [
    (Constant(0.3), lambda s, opt: s.ConstantLR(opt, 1.0, 5), T),
    (StepDecay(0.3, 30), lambda s, opt: s.StepLR(opt, 30), T),
    (StepDecay(0.3, 7, 0.93), lambda s, opt: s.StepLR(opt, 7, gamma=0.93), T),
    (MultiStepDecay(0.3, [100, 101, 700]), lambda s, opt: s.MultiStepLR(opt, [100, 101, 700]), T),
    (MultiStepDecay(0.3, [1, 9], 0.5), lambda s, opt: s.MultiStepLR(opt, [9, 1], gamma=0.5), T),
    (ExponentialDecay(0.3, 0.99), lambda s, opt: s.ExponentialLR(opt, 0.99), T),
    (LinearDecay(0.3, T), lambda s, opt: s.LinearLR(opt, 1.0, 0.0, T), T + 9),
    (LinearDecay(0.3, 700, 0.03), lambda s, opt: s.LinearLR(opt, 1.0, 0.1, 700), T),
    (PolynomialDecay(0.3, T), lambda s, opt: s.PolynomialLR(opt, T), T + 9),
    (PolynomialDecay(0.3, 700, 0.9), lambda s, opt: s.PolynomialLR(opt, 700, power=0.9), T),
    (PolynomialDecay(0.3, T, 2.0), lambda s, opt: s.PolynomialLR(opt, T, power=2.0), T + 9),
    # PyTorch's rises again at T + 1.
    (CosineAnnealing(0.3, T), lambda s, opt: s.CosineAnnealingLR(opt, T), T + 1),
    (CosineAnnealing(0.3, T, 1e-3), lambda s, opt: s.CosineAnnealingLR(opt, T, 1e-3), T + 1),
    (CosineAnnealing(3e-3, 10, 1e-4), lambda s, opt: s.CosineAnnealingLR(opt, 10, 1e-4), 11),
    (CosineAnnealing(3e-3, 1, 1e-4), lambda s, opt: s.CosineAnnealingLR(opt, 1, 1e-4), 2),
    (CosineRestarts(0.3, 37), lambda s, opt: s.CosineAnnealingWarmRestarts(opt, 37), T),
    (
        CosineRestarts(0.3, 10, 2, 1e-3),
        lambda s, opt: s.CosineAnnealingWarmRestarts(opt, 10, 2, 1e-3),
        T,
    ),
    (OneCycle(0.3, T), one_cycle(T), T),
    (OneCycle(0.3, 997), one_cycle(997), 997),  # the peak is between two steps
    (
        OneCycle(0.3, T, 0.45, 10, 100),
        one_cycle(T, pct_start=0.45, div_factor=10, final_div_factor=100),
        T,
    ),
    (OneCycle(0.3, 5, pct_start=0), one_cycle(5, pct_start=0.0), 5),
    (OneCycle(0.3, 1), one_cycle(1), 1),
    (Warmup(CosineAnnealing(0.3, T - 100), 100), warmed_cosine, T),
    (WarmupStableDecay(0.3, 100, 600, 200), wsd, T),
    (
        Sequence([0.3, ExponentialDecay(0.3, 0.99)], [300]),
        lambda s, opt: s.SequentialLR(
            opt, [s.ConstantLR(opt, 1.0, 1), s.ExponentialLR(opt, 0.99)], milestones=[300]
        ),
        T,
    ),
    (
        0.3 * Lambda(lambda t: 1 / (1 + t)),
        lambda s, opt: s.LambdaLR(opt, lambda t: 1 / (1 + t)),
        T,
    ),
    (
        StepDecay(0.3, 30) * ExponentialDecay(1, 0.99),
        lambda s, opt: s.ChainedScheduler([s.StepLR(opt, 30), s.ExponentialLR(opt, 0.99)]),
        T,
    ),
    (
        StepDecay(0.3, 3).per_epoch(50),
        lambda s, opt: s.LambdaLR(opt, lambda t: 0.1 ** (t // 50 // 3)),
        T,
    ),
    (
        InverseSqrt(0.3, 100),
        lambda s, opt: s.LambdaLR(opt, lambda t: min((t + 1) / 100, (100 / (t + 1)) ** 0.5)),
        T,
    ),
]


@pytest.mark.parametrize(("ours", "make", "steps"), TORCH, ids=lambda x: repr(x)[:60])
def test_torch(ours, make, steps):
    lr = ours.lr if isinstance(ours, CosineAnnealing) else 0.3
    np.testing.assert_allclose(ours(np.arange(steps)), torch_values(make, lr, steps), rtol=1e-12)


def test_torch_where_we_hold():
    """The differences that are meant, see docs/math.md."""
    rising = torch_values(lambda s, opt: s.CosineAnnealingLR(opt, 10), 0.3, 16)
    assert rising[10] < 1e-15 and rising[15] == pytest.approx(0.15)
    assert CosineAnnealing(0.3, 10)(np.arange(10, 16)).tolist() == [0.0] * 6
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        torch_values(one_cycle(10), 0.3, 12)


def test_momentum_of_torchs_one_cycle():
    """The recipe of the docstring, through an optimizer of ours."""
    expected = torch_values(one_cycle(T), 0.3, T, option="momentum")
    momentum = OneCycle(0.85, T, div_factor=0.85 / 0.95, final_div_factor=1)
    np.testing.assert_allclose(momentum(np.arange(T)), expected, rtol=1e-12)
    opt = instep.SGD(np.zeros(1), lr=OneCycle(0.3, T), momentum=momentum)
    opt.step(np.ones(1))
    assert opt._groups[0].values["momentum"] == expected[0] == 0.95


# ---- ReduceOnPlateau -------------------------------------------------------------------------

PLATEAUS = [
    {},
    {"mode": "max", "patience": 3},
    {"threshold_mode": "abs", "threshold": 0.02, "patience": 2},
    {"mode": "max", "threshold_mode": "abs", "threshold": 0.05, "patience": 2, "cooldown": 4},
    {"factor": 0.5, "patience": 0, "cooldown": 3, "min_lr": 1e-3},
    {"factor": 0.5, "patience": 0, "eps": 0.01},
    {"factor": 0.0, "patience": 5, "min_lr": 0.1, "eps": 0.0},
    {"factor": 0.9, "patience": 1, "cooldown": 1, "threshold": 0.05},
]


@pytest.mark.parametrize("noise", [0.02, 0.5])
@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_plateau(options, noise, rng):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    ours = ReduceOnPlateau(0.3, **options)
    metrics = np.exp(-np.arange(T) / 200) + noise * rng.random(T)
    metrics[[0, 50, 51, 300, 301, 302]] = [math.inf, math.nan, math.nan, math.inf, -1.0, math.nan]
    if options.get("mode") == "max":
        metrics = -metrics
    changes = 0
    for metric in metrics:
        before = optimizer.param_groups[0]["lr"]
        theirs.step(float(metric))
        expected = optimizer.param_groups[0]["lr"]
        changes += expected != before
        assert ours.observe(metric) == ours(0) == expected
        state = (theirs.num_bad_epochs, theirs.cooldown_counter)
        assert (ours.state.bad_epochs, ours.state.cooldown_left) == state
        best = ours.state.best
        assert theirs.best == (best if best is not None else theirs.mode_worse)
    assert changes > 0


# ---- optax -----------------------------------------------------------------------------------


def optax_pairs(optax):
    """(ours, optax's, steps)"""
    yield Constant(0.3), optax.constant_schedule(0.3), T
    yield LinearDecay(0.3, T), optax.linear_schedule(0.3, 0.0, T), T + 9
    yield LinearDecay(0.1, 700, 0.9), optax.linear_schedule(0.1, 0.9, 700), T
    for power in (1.0, 0.5, 3.0):
        theirs = optax.polynomial_schedule(0.3, 0.01, power, 900)
        yield PolynomialDecay(0.3, 900, power, 0.01), theirs, T
    yield CosineAnnealing(0.3, T), optax.cosine_decay_schedule(0.3, T), T + 9
    yield CosineAnnealing(0.3, 700, 0.03), optax.cosine_decay_schedule(0.3, 700, alpha=0.1), T
    # The first step of a cycle of `transition_steps` is its step 0, so that it has one more.
    yield OneCycle(0.3, T), optax.cosine_onecycle_schedule(T - 1, 0.3), T + 9
    theirs = optax.cosine_onecycle_schedule(
        T - 1, 0.3, pct_start=0.45, div_factor=10, final_div_factor=100
    )
    yield OneCycle(0.3, T, 0.45, 10, 100), theirs, T + 9
    # Three lines, of which the first two meet at the peak.
    theirs = optax.linear_onecycle_schedule(T, 0.3, 0.3, 0.85, 25, 1e4)
    lines = [(0, 0.012), (300, 0.3), (850, 0.012), (T, 0.012 / 1e4)]
    yield Interpolate(lines), theirs, T + 9
    yield StepDecay(0.3, 30), optax.exponential_decay(0.3, 30, 0.1, staircase=True), 600
    yield ExponentialDecay(0.3, 0.99), optax.exponential_decay(0.3, 1, 0.99), T
    theirs = optax.piecewise_constant_schedule(0.3, {100: 0.5, 700: 0.5})
    yield MultiStepDecay(0.3, [100, 700], 0.5), theirs, T
    theirs = optax.sgdr_schedule(
        [
            {"init_value": 0.3, "peak_value": 0.3, "decay_steps": n, "warmup_steps": 0}
            for n in (100, 200, 400, 800)
        ]
    )
    yield CosineRestarts(0.3, 100, 2), theirs, T
    theirs = optax.join_schedules(
        [optax.constant_schedule(0.3), optax.linear_schedule(0.3, 0, 500)], [300]
    )
    yield Sequence([0.3, LinearDecay(0.3, 500)], [300]), theirs, T
    yield WarmupStableDecay(0.3, 0, 300, 500), theirs, T


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_optax(precision):
    """float32 is what optax's users get: to 1e-6 of the highest rate, since differences cancel."""
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    before, t = jax.config.jax_enable_x64, np.arange(T + 9)
    jax.config.update("jax_enable_x64", precision == "float64")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what jax deprecates in optax
            pairs = list(optax_pairs(optax))
            theirs = [np.broadcast_to(jax.vmap(f)(t[:n]), n) for _, f, n in pairs]
    finally:
        jax.config.update("jax_enable_x64", before)
    for (ours, _, n), expected in zip(pairs, theirs, strict=True):
        assert expected.dtype == precision or isinstance(ours, Constant)
        rtol, atol = (1e-12, 0) if precision == "float64" else (1e-6, 1e-6 * expected.max())
        found = ours(t[:n])
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=repr(ours))
