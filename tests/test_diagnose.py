"""The verdict on a learning rate: synthetic curves, words, invariances."""

import dataclasses
import math
import pickle
import re

import numpy as np
import pytest
from diagnose_common import N, falling, noisy, settled
from hypothesis import given, settings
from hypothesis import strategies as st

import instep
from instep import Diagnosis, diagnose


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
        (settled(), r"the loss fell from 1\.\d+ to 0\.2 and settled: \d\.\d% of that came after"),
        (np.linspace(1, 0.02, 500), r"fell from 0\.99\d to 0\.068\d: 6\.8% of it is left"),
        (np.append(settled(), [1.5, 1.8]), r"leap above the first one, 1\.2: from step 400 on"),
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
@given(seeds, st.integers(20, 500), st.floats(0, 0.3), st.floats(1, 60))
def test_a_run_that_ends_far_above_its_start_is_never_fine(seed, n, spread, decades):
    rng = np.random.default_rng(seed)
    losses = np.geomspace(1.0, 10**decades, n) * (1 + spread * rng.uniform(-1, 1, n))
    assert diagnose(losses).verdict == "too_high"


@pytest.mark.parametrize("n", [20, 26, 30, 40, 50, 100, 1000])
@pytest.mark.parametrize("factor", [1.0001, 1.01, 1.1, 1.5, 2, 3, 5, 10, 100, 1e5])
def test_geometric_growth_of_any_rate(n, factor):
    if n * math.log10(factor) > 300:
        pytest.skip("leaves the range of float64")
    for scale in (1e-8, 1.0, 1e8):
        assert diagnose(scale * factor ** np.arange(float(n))).verdict == "too_high"


@settings(deadline=None, max_examples=300)
@given(st.integers(20, 2000), st.floats(0.4, 0.95), st.floats(1.02, 10), st.floats(-12, -2))
def test_a_run_that_falls_and_then_grows_exponentially(n, decay, growth, depth):
    steps = np.arange(n)
    turn = n // 2
    grown = np.minimum((steps - turn) * math.log(growth), 600)
    fallen = np.exp(np.maximum(steps * math.log(decay), -600)) + 10.0**depth
    losses = fallen + 10.0**depth * np.exp(grown)
    enough = losses.argmin() < n - 8  # fewer steps do not tell growth from noise
    if enough and losses[-1] > 30 * losses.min() and losses.min() < 0.1:
        assert diagnose(losses).verdict == "too_high"


@pytest.mark.parametrize(("rate", "n"), [(0.21, 216), (0.3, 32), (0.4, 20)])
def test_a_small_component_that_diverges_on_a_quadratic(rate, n):
    curvature, w, losses = np.array([1.0, 10.0]), np.array([10.0, 1e-9]), []
    opt = instep.SGD(w, lr=rate)
    for _ in range(n):
        losses.append(0.5 * np.sum(curvature * w**2))
        opt.step(curvature * w)
    assert losses[-1] > 1000 * min(losses) and losses[-1] < losses[0]
    found = diagnose(losses)
    assert found.verdict == "too_high" and "grows exponentially" in found.reason


def test_an_explosion_in_the_unit_of_the_loss():
    w, losses = np.array([1.0]), []
    opt = instep.SGD(w, lr=4.2)
    for _ in range(26):
        losses.append(0.5 * w[0] ** 2)
        opt.step(w.copy())
    found = diagnose(losses, 4.2)
    assert found.verdict == "too_high" and "ends above where it began" in found.reason


@pytest.mark.parametrize("n", [20, 300, 1000, 5000])
@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("times", [3.0, 6.5, 1e6])
def test_a_settled_run_that_explodes_at_the_last_steps(n, last, times):
    losses = noisy(settled(n), 0.01)
    losses[-last:] = losses[0] * times ** np.arange(1, last + 1)
    found = diagnose(losses)
    assert found.verdict == "too_high"
    assert "leap" in found.reason or "ends above" in found.reason


@pytest.mark.parametrize("seed", range(20))
def test_a_jump_to_losses_as_noisy_as_their_level(seed):
    rng = np.random.default_rng(seed)
    losses = 1e6 * rng.exponential(size=20)
    losses[0] = 0.5
    assert diagnose(losses).verdict == "too_high"


@pytest.mark.parametrize("seed", range(50))
def test_losses_that_have_nothing_left_are_fine_however_noisy(seed):
    # Many rows only go up by chance, and factors between almost nothings mean little.
    rng = np.random.default_rng(seed)
    losses = np.exp(-np.arange(1000) / 20) + 1e-3 * rng.exponential(size=1000)
    assert diagnose(losses).verdict == "just_right"
    rounded = np.exp(-np.arange(1000) / 20) + 1e-30 * np.exp(np.arange(1000) / 50)
    assert diagnose(rounded).verdict == "just_right"


def test_zeros():
    found = diagnose(np.zeros(100))
    assert (found.verdict, found.factor) == ("just_right", 1.0)
    assert "nothing that could fall" in found.reason


def test_a_longdouble_beyond_float64():
    if np.finfo(np.longdouble).max <= np.finfo(np.float64).max:
        pytest.skip("no wider than float64 here")
    losses = settled().astype(np.longdouble)
    losses[7] = np.longdouble("1e400")
    with np.errstate(all="raise"):
        found = diagnose(losses)
    assert found.verdict == "too_high" and "became inf at step 7" in found.reason


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
