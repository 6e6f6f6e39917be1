"""The range test: what it finds, when it stops, what it refuses."""

import dataclasses
import functools
import io
import math
import re
import sys
import types
import warnings

import numpy as np
import pytest
from conftest import bits, leaves, near_zero, quadratic

import instep
from instep import lr_range_test

OPTIMIZERS = [instep.SGD, instep.RMSprop, instep.Adam, instep.AdamW]


# ---- what it finds ---------------------------------------------------------------------------


def test_rates_and_losses():
    found = lr_range_test(quadratic(), near_zero(), min_lr=1e-5, max_lr=1e-2, steps=31)
    assert found.lrs.dtype == found.losses.dtype == np.float64
    assert len(found.lrs) == len(found.losses) == 31
    assert found.lrs[0] == 1e-5 and found.lrs[-1] == 1e-2
    np.testing.assert_allclose(found.lrs[1:] / found.lrs[:-1], 10 ** (3 / 30), rtol=1e-12)


def test_losses_are_those_of_the_optimizer_at_these_rates():
    w, again = near_zero(), near_zero()
    loss_and_grad, seen = quadratic(), []
    found = lr_range_test(loss_and_grad, w, instep.SGD, momentum=0.5, max_lr=1.0)
    opt = instep.SGD(again, lr=lambda step: found.lrs[step], momentum=0.5)
    for _ in found.lrs:
        loss, grads = loss_and_grad(again)
        seen.append(loss)
        opt.step(grads)
    np.testing.assert_array_equal(found.losses, seen)


def test_the_suggestion_is_where_seventy_percent_are_gained():
    # No noise: the rule can be read off. Gradient descent diverges at lr = 2 * size = 100.
    w = near_zero()
    found = lr_range_test(quadratic(), w, instep.SGD, min_lr=1e-4, max_lr=1e4, steps=200)
    lowest = found.losses.argmin()
    fallen = found.losses[0] - found.losses
    reached = found.lrs[fallen >= 0.7 * fallen[lowest]][0]
    assert reached / 2 < found.suggestion < reached * 2
    assert 0.1 < found.low < found.suggestion < found.high <= 200
    assert "70%" in found.reason and f"{found.suggestion:.2g}" in str(found)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_gets_a_rate_that_trains(optimizer):
    w, loss_and_grad = near_zero(), quadratic()
    found = lr_range_test(loss_and_grad, w, optimizer)
    before = loss_and_grad(w)[0]
    opt = optimizer(w, lr=found.suggestion)
    for _ in range(300):
        opt.step(loss_and_grad(w)[1])
    assert loss_and_grad(w)[0] < 0.05 * before


def test_options_reach_the_optimizer():
    plain, momentum, partial = (
        lr_range_test(quadratic(), near_zero(), optimizer, **options)
        for optimizer, options in (
            (instep.SGD, {}),
            (instep.SGD, {"momentum": 0.9}),
            (functools.partial(instep.SGD, momentum=0.9), {}),
        )
    )
    np.testing.assert_array_equal(momentum.losses, partial.losses)
    assert momentum.suggestion < plain.suggestion


def test_groups_take_the_same_rate():
    w = near_zero()
    alone = lr_range_test(quadratic(), w, instep.SGD)
    halves = [{"params": w[:25]}, {"params": [w[25:]], "momentum": 0.0}]

    def loss_and_grad(groups):
        assert groups is halves
        loss, grad = quadratic()(w)
        return loss, [grad[:25], [grad[25:]]]

    np.testing.assert_array_equal(
        lr_range_test(loss_and_grad, halves, instep.SGD).losses, alone.losses
    )


def test_two_runs_are_equal():
    first, second = (lr_range_test(quadratic(), near_zero()) for _ in range(2))
    assert first.losses.tobytes() == second.losses.tobytes()
    assert str(first) == str(second) and first.suggestion == second.suggestion


def test_the_result_is_frozen():
    found = lr_range_test(quadratic(), near_zero())
    names = ["lrs", "losses", "suggestion", "low", "high", "reason"]
    assert [field.name for field in dataclasses.fields(found)] == names
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.suggestion = 1.0


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.asarray, int])
def test_kinds_of_loss(kind):
    def loss_and_grad(w):
        loss, grad = quadratic(target=100.0)(w)
        return kind(loss), grad

    assert lr_range_test(loss_and_grad, near_zero()).suggestion > 0


def test_it_takes_what_losses_return():
    target = np.ones(50)
    found = lr_range_test(lambda w: instep.losses.mse(w, target), near_zero())
    assert found.suggestion > 0


def test_negative_losses():
    def lowered(w):
        loss, grad = quadratic()(w)
        return loss - 100.0, grad

    found = lr_range_test(lowered, near_zero(), instep.SGD, max_lr=1e3)
    wanted = lr_range_test(quadratic(), near_zero(), instep.SGD, max_lr=1e3).suggestion
    assert found.suggestion == pytest.approx(wanted, rel=0.5)


# ---- when there is nothing to find -----------------------------------------------------------


def test_a_flat_loss():
    found = lr_range_test(lambda w: (1.0, np.zeros_like(w)), near_zero())
    assert found.suggestion is found.low is found.high is None
    assert "no rate brought a descent" in found.reason
    assert str(found).startswith("no suggestion: ")


def test_noise_alone():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = lr_range_test(
            lambda w, rng=rng: (rng.normal(1, 0.1), np.zeros_like(w)), near_zero()
        )
        assert found.suggestion is None and len(found.lrs) == 100


def test_it_diverges_at_once():
    found = lr_range_test(quadratic(), near_zero(), instep.SGD, min_lr=1e4, max_lr=1e8)
    assert found.suggestion is None and "lower min_lr" in found.reason
    assert len(found.lrs) == len(found.losses) < 100


def test_it_recovers_from_a_jump_at_the_start():
    # Adam's first steps throw the parameters far off; what follows is no descent to trust.
    found = lr_range_test(quadratic(), near_zero(), min_lr=10.0, max_lr=100.0)
    assert found.suggestion is None and "lower min_lr" in found.reason


def test_a_range_that_ends_too_soon():
    found = lr_range_test(quadratic(), near_zero(), instep.SGD, min_lr=1e-3, max_lr=1.0)
    assert found.high == pytest.approx(1.0, rel=0.5) and "raise max_lr" in found.reason


# ---- when it stops ---------------------------------------------------------------------------


def test_it_stops_where_the_loss_diverges():
    found = lr_range_test(quadratic(), near_zero(), instep.SGD, max_lr=1e6)
    assert len(found.lrs) < 100
    assert 100 < found.lrs[-1] < 1000  # the bound is 100
    assert np.isfinite(found.losses).all() and found.losses[-1] > found.losses.min()
    later = lr_range_test(quadratic(), near_zero(), instep.SGD, max_lr=1e6, divergence=1e6)
    assert len(later.lrs) > len(found.lrs)
    np.testing.assert_array_equal(later.losses[: len(found.losses)], found.losses)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_it_stops_at_a_loss_that_is_not_finite(bad):
    calls = []

    def loss_and_grad(w):
        calls.append(w.copy())
        return (bad if len(calls) == 60 else quadratic()(w)[0]), quadratic()(w)[1]

    w = near_zero()
    found = lr_range_test(loss_and_grad, w)
    assert len(calls) == len(found.lrs) == len(found.losses) == 60
    np.testing.assert_equal(found.losses[-1], bad)
    assert bits(w) == bits(near_zero())


def test_it_stops_where_a_step_is_skipped():
    def loss_and_grad(w):
        loss, grad = quadratic()(w)
        return loss, grad * (np.nan if loss < 1.5 else 1.0)

    found = lr_range_test(loss_and_grad, near_zero(), nonfinite="skip")
    assert 20 < len(found.lrs) < 100 and found.losses[-1] < 1.5


@pytest.mark.parametrize(("loss", "words"), [(True, "the loss was nan"), (False, "were skipped")])
def test_it_says_that_one_bad_batch_ended_it(loss, words):
    calls = 0

    def loss_and_grad(w):
        nonlocal calls
        calls += 1
        good = quadratic()(w)
        bad = (math.nan, good[1]) if loss else (good[0], good[1] * math.nan)
        return bad if calls == 60 else good

    whole = lr_range_test(quadratic(), near_zero())
    found = lr_range_test(loss_and_grad, near_zero(), nonfinite="skip")
    assert len(found.lrs) == 60 and found.suggestion < whole.suggestion / 2
    assert words in found.reason and "test again" in found.reason
    assert f"at {found.lrs[-1]:.2g}, where the test ended" in found.reason
    assert "test ended" not in whole.reason


def test_overflow_is_no_news():
    def loss_and_grad(w):
        return np.float32(np.mean(np.square(w - 2))), w - np.float32(2)

    w = near_zero().astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lr_range_test(loss_and_grad, w, instep.SGD, max_lr=1e30, divergence=1e300)
    assert not np.isfinite(found.losses[-1])
    with pytest.raises(FloatingPointError), np.errstate(all="raise"):
        np.float32(1e30) * np.float32(1e30)  # the caller's settings are as before


# ---- arguments -------------------------------------------------------------------------------


def never(params):
    raise AssertionError("must not be called")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_lr": 0}, ValueError, "min_lr must be greater than 0, got 0"),
        ({"min_lr": -1e-3}, ValueError, "min_lr must be greater than 0, got -0.001"),
        ({"min_lr": math.nan}, ValueError, "min_lr must be finite, got nan"),
        ({"max_lr": math.inf}, ValueError, "max_lr must be finite, got inf"),
        ({"max_lr": "1"}, TypeError, "max_lr must be a number, got '1'"),
        ({"min_lr": instep.schedules.Constant(1)}, TypeError, "min_lr must be a number"),
        ({"min_lr": 1.0, "max_lr": 1.0}, ValueError, "max_lr must be above min_lr, got 1.0"),
        ({"steps": 19}, ValueError, "steps must be at least 20, got 19"),
        ({"steps": 1e2}, TypeError, "steps must be an int, got 100.0"),
        ({"steps": True}, TypeError, "steps must be an int, got True"),
        ({"divergence": 1}, ValueError, "divergence must be greater than 1, got 1.0"),
        ({"divergence": None}, TypeError, "divergence must be a number, got None"),
        ({"progress": "yes"}, TypeError, "progress must be True or False, got 'yes'"),
        ({"lr": 0.1}, TypeError, "lr is what the test varies"),
        ({"optimizer": "adamw"}, TypeError, "optimizer must be a class or a function, got 'adamw'"),
        ({"optimizer": lambda p, lr: p}, TypeError, "return an instep optimizer, got ndarray"),
        (
            {"optimizer": lambda p, lr: instep.SGD(p, lr=0.1)},
            ValueError,
            "group 0 has a learning rate of its own, 0.1",
        ),
        ({"maximize": True}, ValueError, "negate it"),
        ({"momentum": 0.9}, TypeError, "momentum"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be at least 0, got -1"),
    ],
)
def test_bad_arguments(options, error, message):
    w = near_zero()
    with pytest.raises(error, match=re.escape(message)):
        lr_range_test(never, w, **options)
    assert bits(w) == bits(near_zero())


def test_bad_parameters_are_the_optimizers_errors():
    with pytest.raises(TypeError, match=r"params\['W'\] is a int64 array"):
        lr_range_test(never, {"W": np.arange(3)})
    groups = [{"params": near_zero()}, {"params": near_zero(1), "lr": 0.5}]
    with pytest.raises(ValueError, match="group 1 has a learning rate of its own"):
        lr_range_test(never, groups)
    with pytest.raises(TypeError, match="loss_and_grad must be a function of params, got float"):
        lr_range_test(1.0, near_zero())


# ---- progress and pictures -------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal_only(monkeypatch):
    pytest.importorskip("tqdm")
    for stream, progress, shown in (
        (Terminal(), None, True),
        (Terminal(), False, False),
        (io.StringIO(), None, False),
        (io.StringIO(), True, True),
        (None, None, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        lr_range_test(quadratic(), near_zero(), progress=progress)
        if stream is not None:
            assert ("range test" in stream.getvalue()) is shown, (stream, progress)


def test_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # importing it then fails
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert lr_range_test(quadratic(), near_zero()).suggestion > 0
    assert sys.stderr.getvalue() == ""
    with pytest.raises(ImportError, match=r'pip install "instep\[demo\]"'):
        lr_range_test(never, near_zero(), progress=True)


def test_plot_asks_the_plots(monkeypatch):
    found, asked = lr_range_test(quadratic(), near_zero()), []
    plots = types.ModuleType("instep.plots")
    plots.plot_range_test = lambda result, ax=None: asked.append((result, ax)) or "axes"
    monkeypatch.setitem(sys.modules, "instep.plots", plots)
    assert found.plot() == found.plot(ax=3) == "axes"
    assert asked == [(found, None), (found, 3)]


# ---- on real data ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["digits MLP, AdamW", "cancer logistic, SGD 0.9"])
def test_the_suggestion_trains_well(which):
    pytest.importorskip("sklearn")
    range_test = pytest.importorskip("benchmarks.range_test", reason="the benchmarks are not here")
    work = next(work for work in range_test.WORKS if work.name == which)
    loss_and_grad, params = range_test.problem(work, seed=7)
    before = [bits(leaf) for leaf in leaves(params)]
    found = lr_range_test(loss_and_grad, params, work.optimizer)
    assert [bits(leaf) for leaf in leaves(params)] == before
    runs = {
        rate: range_test.train(work, rate, seed=7)
        for rate in (found.low / 100, found.suggestion, 10 * found.high)
    }
    low, suggested, high = runs.values()
    assert suggested.final < 0.1 * suggested.start
    assert low.final > 4 * suggested.final and high.final > 2 * suggested.final
