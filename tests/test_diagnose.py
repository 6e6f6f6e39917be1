"""The verdict on a learning rate: synthetic curves, invariances, errors, and real training."""

import dataclasses
import importlib
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import instep
from instep import Diagnosis, StepReport, diagnose

N = 400


def noisy(curve, spread=0.05, seed=0):
    return curve + spread * np.random.default_rng(seed).standard_normal(len(curve))


def settled(n=N):
    return 0.2 + np.exp(-np.arange(n) / (n / 20))


def falling(n=N):
    return 2.0 - np.arange(n) / n


def oscillating(n=N):
    steps = np.arange(n)
    return 0.3 + 0.7 * np.exp(-steps / (n / 20)) + 0.2 * np.sin(steps / (n / 25)) * (steps > n / 3)


def overshooting(n=N):
    """Thrown far off at the start, as when the units of a network die."""
    steps = np.arange(n)
    return np.where(steps == 0, 2.5, 2.3 + 500 * np.exp(-steps / (n / 100)))


def climbing(n=N):
    steps = np.arange(n) / n
    return 0.2 + np.exp(-20 * steps) + 0.5 * np.maximum(steps - 0.6, 0)


CURVES = {
    "settled": (settled, "just_right"),
    "to zero": (lambda n=N: np.exp(-np.arange(n) / (n / 40)), "just_right"),
    "below zero": (lambda n=N: settled(n) - 5.0, "just_right"),
    "falling": (falling, "too_low"),
    "falling below zero": (lambda n=N: falling(n) - 1.5, "too_low"),
    "barely": (lambda n=N: 1.0 - 1e-6 * np.arange(n) / n, "too_low"),
    "constant": (lambda n=N: np.ones(n), "too_low"),
    "slow tail": (lambda n=N: 0.1 + (1 + np.arange(n) / (n / 20)) ** -0.5, "too_low"),
    "growing": (lambda n=N: np.exp(np.arange(n) / (n / 10)), "too_high"),
    "ends higher": (lambda n=N: 1.0 + np.arange(n) / n, "too_high"),
    "oscillating": (oscillating, "too_high"),
    "overshooting": (overshooting, "too_high"),
    "climbing": (climbing, "too_high"),
}


@pytest.mark.parametrize("n", [20, 50, 400, 5000])
@pytest.mark.parametrize("name", CURVES)
def test_curves_of_any_length(name, n):
    make, verdict = CURVES[name]
    if name == "oscillating" and n < 50:
        pytest.skip("fewer than four losses a period")
    assert diagnose(make(n)).verdict == verdict


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "name", ["settled", "below zero", "falling", "falling below zero", "barely", "constant"]
)
def test_curves_with_noise(name, seed):
    make, verdict = CURVES[name]
    assert diagnose(noisy(make(), seed=seed)).verdict == verdict
    assert diagnose(noisy(make(4000), spread=0.2, seed=seed)).verdict == verdict


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["growing", "ends higher", "overshooting", "climbing"])
def test_divergence_with_noise(name, seed):
    assert diagnose(noisy(CURVES[name][0](), seed=seed)).verdict == "too_high"


def test_noise_alone_does_not_move():
    said = [diagnose(noisy(np.ones(N), 0.3, seed)).verdict for seed in range(100)]
    assert said.count("too_low") >= 95


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1, 100, N - 1])
def test_a_loss_that_is_not_finite(where, bad):
    losses = settled()
    losses[where] = bad
    found = diagnose(losses)
    assert found.verdict == "too_high" and str(bad) in found.reason
    assert ("before any update" in found.reason) is (where == 0)
    assert f"step {where}" in found.reason or where == 0


def test_swings_between_nothing_and_more():
    # As logistic regression at a rate of 10: most batches solved, the others all wrong.
    rng = np.random.default_rng(0)
    losses = np.where(rng.random(N) < 0.6, 1e-5, rng.exponential(3.0, N))
    losses[0] = 0.69
    assert diagnose(losses).verdict == "too_high"


# ---- the words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (settled(), r"the loss fell from 1\.\d+ to 0\.2 and settled"),
        (falling(), r"4\d\.\d% of the descent came after the middle of the run"),
        (np.ones(N), r"barely moves: from 1 to 1,"),
        (overshooting(), r"overshot: from 2\.5 to 39\d at step 1,.*gained 0\.2"),
        (climbing(), r"climbs again, by 0\.1\d+ where the whole run gained 0\.[78]"),
        (1.0 + np.arange(N) / N, r"ends above where it began: at 1\.95, begun at 1"),
        (np.append(np.ones(N), math.nan), rf"became nan at step {N}, after 1"),
    ],
)
def test_the_reason_has_the_rule_and_the_numbers(losses, words):
    found = diagnose(losses)
    assert re.search(words, found.reason), found.reason
    assert str(found) == f"{found.verdict}: {found.reason}. {found.suggestion}."


@pytest.mark.parametrize("name", CURVES)
def test_the_suggestion_goes_the_other_way(name):
    make, verdict = CURVES[name]
    found = diagnose(make(), lrs=0.02)
    if verdict == "just_right":
        assert found.factor == 1.0 and found.suggestion == "Keep the rate"
    else:
        assert found.factor > 1 if verdict == "too_low" else found.factor < 1
        assert f"Try {0.02 * found.factor:.2g}, " in found.suggestion
    assert diagnose(make()).factor == found.factor


def test_a_diagnosis_is_a_value():
    found = diagnose(settled())
    assert [field.name for field in dataclasses.fields(Diagnosis)] == [
        "verdict",
        "reason",
        "suggestion",
        "factor",
    ]
    assert found == diagnose(settled()) and hash(found) == hash(diagnose(settled()))
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.verdict = "too_low"


# ---- invariances -----------------------------------------------------------------------------

curves = st.sampled_from(sorted(CURVES))
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([0.0, 0.02, 0.1, 0.5])


@settings(deadline=None, max_examples=150)
@given(curves, seeds, spreads, st.integers(-900, 900))
def test_the_unit_of_the_loss_does_not_matter(name, seed, spread, exponent):
    losses = noisy(CURVES[name][0](), spread, seed)
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(losses, exponent)  # exact, unless it leaves the range
    if np.array_equal(np.ldexp(scaled, -exponent), losses):
        assert diagnose(scaled).verdict == diagnose(losses).verdict
        assert diagnose(scaled).factor == diagnose(losses).factor


@settings(deadline=None, max_examples=100)
@given(curves, st.floats(1e-200, 1e200))
def test_any_unit_on_curves_away_from_the_thresholds(name, scale):
    make, verdict = CURVES[name]
    assert diagnose(make() * scale).verdict == verdict


@settings(deadline=None, max_examples=60)
@given(curves, st.integers(60, 3000))
def test_the_length_does_not_matter(name, n):
    make, verdict = CURVES[name]
    assert diagnose(make(n)).verdict == verdict


@settings(deadline=None, max_examples=100)
@given(curves, seeds, spreads, st.floats(1e-8, 1e3))
def test_one_rate_is_no_schedule(name, seed, spread, rate):
    losses = noisy(CURVES[name][0](), spread, seed)
    alone = diagnose(losses)
    for lrs in (rate, np.full(N, rate), [rate] * N, np.float32(rate)):
        found = diagnose(losses, lrs)
        assert (found.verdict, found.reason, found.factor) == (
            alone.verdict,
            alone.reason,
            alone.factor,
        )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(width=64), min_size=20, max_size=60))
def test_any_losses_get_a_verdict(losses):
    with np.errstate(all="raise"):
        found = diagnose(losses)
    assert found.verdict in ("too_high", "just_right", "too_low")
    assert str(found).isprintable()
    if not np.isfinite(losses).all():
        assert found.verdict == "too_high"


@settings(deadline=None, max_examples=200)
@given(seeds, st.integers(20, 500), st.floats(0, 0.3), st.floats(1.3, 1e6))
def test_a_run_that_ends_far_above_its_start_is_never_fine(seed, n, spread, rise):
    rng = np.random.default_rng(seed)
    losses = np.geomspace(1.0, rise, n) * (1 + spread * rng.uniform(-1, 1, n))
    assert diagnose(losses).verdict != "just_right"


def test_arguments_are_not_changed():
    losses, rates = settled(), np.linspace(1.0, 0.0, N)
    before = losses.tobytes(), rates.tobytes()
    losses.flags.writeable = rates.flags.writeable = False
    diagnose(losses, rates)
    assert (losses.tobytes(), rates.tobytes()) == before


@pytest.mark.parametrize("kind", [list, tuple, np.float32, lambda x: (1000 * x).astype(int)])
def test_kinds_of_losses(kind):
    assert diagnose(kind(settled())).verdict == "just_right"
    assert diagnose(kind(falling())).verdict == "too_low"


# ---- schedules -------------------------------------------------------------------------------


def annealed(n=N):
    """At a good rate with noise: what is left falls because the rate does."""
    rates = instep.schedules.CosineAnnealing(0.1, n)(np.arange(n))
    return 0.1 + np.exp(-np.arange(n) / (n / 40)) + 2 * rates, rates


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


def reports(n=N, **changes):
    """Of a run without incident, but for `changes`: name -> (step, value)."""
    made = [StepReport(k + 1, 0.1, True, 1.0, 0) for k in range(n)]
    for name, (step, value) in changes.items():
        made[step] = made[step]._replace(**{name: value})
    return made


def test_reports_without_incident_change_nothing():
    for make, verdict in CURVES.values():
        found = diagnose(make(), reports=reports())
        assert found.verdict == verdict
        assert found == diagnose(make(), lrs=0.1)


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
    found = diagnose(settled(), reports=reports(**changes))
    assert found.verdict == "too_high" and words in found.reason


def test_skipped_steps():
    made = reports()
    for k in range(20):
        made[k * 20] = made[k * 20]._replace(applied=False, nonfinite=5, grad_norm=math.inf)
    found = diagnose(settled(), reports=made)
    assert found.verdict == "too_high" and f"20 of {N} steps were skipped" in found.reason
    # A few, as loss scaling does, are none.
    assert diagnose(settled(), reports=[*made[:100], *reports(300)]).verdict == "just_right"


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


# ---- real training ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    """Every second rate of the grid of benchmarks/verdict.py, on a seed nothing was chosen on.

    A check in seconds; the whole grid on three seeds is benchmarks/results/verdict.txt."""
    pytest.importorskip("sklearn")
    verdict = pytest.importorskip("benchmarks.verdict", reason="the benchmarks are not here")
    return [verdict.judge(work, 200, verdict.RATES[1::2]) for work in verdict.WORKS]


def test_the_verdict_agrees_with_full_training(rows):
    verdict = importlib.import_module("benchmarks.verdict")
    assert sum(len(row.runs) for row in rows) == len(verdict.WORKS) * len(verdict.RATES) / 2 == 88
    shown = {truth for row in rows for truth in row.truths.values()}
    assert shown == {"too_low", "just_right", "too_high"}
    assert verdict.agreement(rows) >= 0.9, verdict.summary(rows)


def test_no_diverged_run_is_called_fine(rows):
    verdict = importlib.import_module("benchmarks.verdict")
    assert verdict.called_fine(rows) == []
    diverged = [run for row in rows for run in row.runs.values() if run.diverged]
    small = [work for work in verdict.WORKS if not work.hidden]
    runs = (
        verdict.train(work, rate, seed)
        for work in small
        for rate in verdict.RATES[-5:]
        for seed in range(500, 505)
    )
    diverged += [run for run in runs if run.diverged]
    assert len(diverged) > 40
    assert all(diagnose(run.losses).verdict != "just_right" for run in diverged)
