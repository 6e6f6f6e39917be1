"""The verdict with rates and reports beside the losses; what it refuses."""

import math
import re

import numpy as np
import pytest
from diagnose_common import N, annealed, falling, reports, settled

import instep
from instep import diagnose

# ---- schedules -------------------------------------------------------------------------------


def test_what_falls_with_the_rate_is_no_low_rate():
    losses, rates = annealed()
    assert diagnose(losses).verdict == "too_low"  # alone it looks as if it still fell
    assert diagnose(losses, rates).verdict == "just_right"


def test_a_low_rate_under_a_schedule_is_low():
    # Gradient descent on x^2 / 2: the loss falls with the sum of the rates.
    rates = instep.schedules.CosineAnnealing(1.0, N)(np.arange(N))
    for rate, verdict in ((1e-4, "too_low"), (3e-3, "too_low"), (0.3, "just_right")):
        losses = 1.0 + np.exp(-2 * rate * np.cumsum(rates))
        assert diagnose(losses, rate * rates).verdict == verdict, rate
    assert diagnose(1.0 + np.exp(-6e-3 * np.cumsum(rates))).verdict == "too_low"


def test_a_decaying_rate_makes_an_overshoot_good():
    steps = np.arange(N)
    rates = instep.schedules.CosineAnnealing(1.0, N)(steps)
    losses = np.where(steps == 0, 1.0, 0.1 + 50 * np.exp(-steps / 4) + 0.5 * rates)
    assert diagnose(losses, rates).verdict == "just_right"
    assert diagnose(losses).verdict == "too_high"


def test_rates_that_are_all_zero():
    assert diagnose(np.ones(N), np.zeros(N)).verdict == "too_low"


# ---- reports ---------------------------------------------------------------------------------


def test_reports_without_incident_change_nothing():
    for losses in (settled(), falling(), 1.0 + np.arange(N) / N):
        assert diagnose(losses, reports=reports()) == diagnose(losses, lrs=0.1)


def test_rates_come_from_the_reports():
    losses, rates = annealed()
    made = [r._replace(lr=lr) for r, lr in zip(reports(), rates.tolist(), strict=True)]
    assert diagnose(losses, reports=made) == diagnose(losses, rates)
    assert diagnose(losses, 0.1, made) == diagnose(losses, 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonfinite": (7, 3)}, "not finite was applied at step 7"),
        ({"grad_norm": (9, math.nan)}, "not finite was applied at step 9"),
        ({"grad_norm": (9, math.inf)}, "not finite was applied at step 9"),
        ({"grad_norm": (200, 150.0)}, "grew to 150, 150 times those of the first steps"),
    ],
)
def test_gradients_are_evidence(changes, words):
    losses = settled()
    losses[201] = 4.0  # from 1.2; not far enough to be evidence of its own
    assert diagnose(losses).verdict == "just_right"
    found = diagnose(losses, reports=reports(**changes))
    assert found.verdict == "too_high" and words in found.reason


def test_a_norm_that_grows_while_the_loss_falls_is_none():
    # Away from a saddle: a deep linear network of small weights starts at almost no gradient.
    assert diagnose(settled(), reports=reports(grad_norm=(100, 300.0))).verdict == "just_right"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 6))
    y = x @ rng.standard_normal((6, 2))
    params = [0.01 * rng.standard_normal(shape) for shape in ((6, 8), (8, 8), (8, 2))]
    opt = instep.Adam(params, lr=3e-3, clip_norm=1e9)
    losses, made = [], []
    for _ in range(3000):
        first = x @ params[0]
        second = first @ params[1]
        error = second @ params[2] - y
        losses.append(np.square(error).mean())
        delta = 2 * error / error.size
        behind = delta @ params[2].T
        grads = [x.T @ (behind @ params[1].T), first.T @ behind, second.T @ delta]
        made.append(opt.step(grads))
    norms = [report.grad_norm for report in made]
    assert max(norms) > 100 * np.median(norms[:3])
    assert diagnose(losses, reports=made).verdict == "just_right"


def skipping(steps, n=N):
    """Reports of a run whose gradients were not finite at `steps`."""
    bad = {"applied": False, "nonfinite": 5, "grad_norm": math.inf}
    return [r._replace(**bad) if k in steps else r for k, r in enumerate(reports(n))]


def test_skipped_steps():
    found = diagnose(settled(), reports=skipping(range(0, N, 20)))
    assert found.verdict == "too_high" and f"20 of {N} steps were skipped" in found.reason
    found = diagnose(settled(20), reports=skipping(range(20), 20))
    assert found.verdict == "too_high" and "20 of 20 steps were skipped" in found.reason


@pytest.mark.parametrize(
    ("steps", "n"), [([7], 20), ([7], 49), ([7, 50, 90], 100), (range(16), 100), (range(24), 400)]
)
def test_skips_as_of_loss_scaling_are_none(steps, n):
    assert diagnose(settled(n), reports=skipping(steps, n)).verdict == "just_right"


def test_reports_without_norms():
    made = [r._replace(grad_norm=None, nonfinite=None) for r in reports()]
    assert diagnose(settled(), reports=made).verdict == "just_right"


def test_reports_of_a_real_run():
    w = np.linspace(-1, 1, 50)

    def run(lr):
        x, losses, made = w.copy(), [], []
        opt = instep.SGD(x, lr=lr, nonfinite="skip")
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(300):
                losses.append(np.mean((x - 2) ** 2))
                made.append(opt.step(2 * (x - 2) / x.size))
        return diagnose(losses, reports=made)

    verdicts = [run(lr).verdict for lr in (1e-5, 2.5, 60.0)]
    assert verdicts == ["too_low", "just_right", "too_high"]


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones(19),), ValueError, "losses must have at least 20 entries"),
        (([],), (TypeError, ValueError), "losses must"),
        ((np.ones((20, 2)),), ValueError, "losses must be 1-d, one loss per step in order, got"),
        ((1.0,), ValueError, "losses must be 1-d"),
        ((None,), TypeError, "losses must be real numbers, got NoneType"),
        ((["1"] * 20,), TypeError, "losses must be real numbers, got list of dtype <U1"),
        ((np.ones(20, complex),), TypeError, "losses must be real numbers, got ndarray of dtype"),
        ((np.ones(20, bool),), TypeError, "got ndarray of dtype bool"),
        (([1.0, [2.0]] * 10,), TypeError, "losses must be numbers"),
        ((np.ma.ones(20),), TypeError, "losses is a masked array"),
        ((np.ones(20), np.ones(19)), ValueError, "got shape (19,) for 20 losses"),
        ((np.ones(20), np.ones((20, 1))), ValueError, "got shape (20, 1)"),
        ((np.ones(20), -0.1), ValueError, "lrs[0] must be finite and at least 0, got -0.1"),
        ((np.ones(20), [0.1] * 19 + [math.nan]), ValueError, "lrs[19] must be finite"),
        ((np.ones(20), "0.1"), TypeError, "lrs must be real numbers, got str"),
        ((np.ones(20), instep.schedules.Constant(1)), TypeError, "lrs must be real numbers"),
        ((np.ones(20), None, 3), TypeError, "reports must be a list of StepReport, got int"),
        ((np.ones(20), None, [1.0] * 20), TypeError, "reports[0] must be a StepReport, got 1.0"),
        ((np.ones(20), None, reports(19)), ValueError, "one entry per loss, got 19 for 20"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        diagnose(*arguments)
