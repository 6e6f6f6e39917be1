"""Was the learning rate of a run too high, just right or too low? A verdict, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from instep._curve import VISIBLE, Curve, Floats, measure
from instep.optim.report import StepReport

__all__ = ["Diagnosis", "diagnose"]

Verdict = Literal["too_high", "just_right", "too_low"]
Found = tuple[Verdict, str, float]  # verdict, reason, what to multiply the rate by

# ---- thresholds ------------------------------------------------------------------------------
# Chosen on seeds 0 to 9 of benchmarks/verdict.py, on its works with a cosine schedule and with
# batches of 8, and on seeds 0 to 2 of all works for 1 to 7 epochs; benchmarks/results/verdict.txt
# says how they do on other seeds and other works.
# "Descent" is the level at the start less that at the end, "noise" the standard deviation of one
# loss, "error" that of a mean of several or of a difference of two means.

FEWEST = 20  # losses; fewer do not tell noise from trend
# How far a loss may rise above the first one, in descents. Rates that end well overshoot up to
# four times their descent; beyond, most runs end in a worse place for good.
OVERSHOOT = 4.0
# Losses that are not negative and end at a level so many times the first one have diverged, however
# noisy: noise as wide as the level takes a mean of five losses to twice the level seldom.
FAR = 10.0
# Without a visible descent: a rise between two fifths of the run by so many errors, or a loss so
# many times the first and the median one, says that the rate does something. Noise alone rises by
# that in one run of 33 (one of 11 with 20 losses); batches at a rate that does nothing reach twice.
RISE_ERRORS = 2.75
SPIKE = 4.0
# How far the smoothed curve may climb, in descents and in errors: of 20 windows without any
# trend, one run in a hundred climbs by four errors.
CLIMB = 0.1
CLIMB_ERRORS = 4.0
# The share of the descent that came between the middle and the end of the run: 0.42 on a straight
# line (of means over a fifth and a tenth), 0 on a plateau. Rates that miss 5 % of what the best
# one gains show more than this.
STILL_FALLING = 0.025
FALLING_ERRORS = 2.0
STEEP = 0.15  # ... and this counts whatever the error, as on a straight line
# What is left to gain for losses that are never negative, as a share of the first level: runs
# within 5 % of the best end below this (a level over the last steps is a little high).
NOTHING_LEFT = 0.07
# Under a schedule that decays: an early overshoot is forgiven where the end is below this share
# of the first loss and the decay itself brought this share of the descent. A dead network
# recovers from nothing.
RECOVERED = 0.7
RECOVERY = 0.02
# Gradient norms over the median of the first three: up to 23 in runs that end well, from 700 on
# in runs that do not. At a saddle norms begin at almost nothing: the loss must have risen too.
NORM_GROWTH = 100.0
# More skipped steps than this share, and than a handful, are no accident of loss scaling. The ones
# before the first step that was taken look for the scale: halving 2^24 to 1 takes 24.
SKIPPED = 0.02
HANDFUL = 3
SCALING = 24


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; printed, it is a sentence.

    Attributes
    ----------
    verdict : {"too_high", "just_right", "too_low"}
    reason : str
        The rule that decided, with the numbers it saw.
    suggestion : str
        What to do next, in words.
    factor : float
        What to multiply the learning rate by for the next run; 1.0 for "just_right".
    """

    verdict: Verdict
    reason: str
    suggestion: str
    factor: float

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}. {self.suggestion}."


def diagnose(
    losses: npt.ArrayLike,
    lrs: npt.ArrayLike | None = None,
    reports: Sequence[StepReport] | None = None,
) -> Diagnosis:
    """Say whether the learning rate of a run was too high, just right or too low.

    It looks at one run's own losses, so it is advice: only other runs can prove it. On the works
    of ``benchmarks/verdict.py`` it agrees with full training at other rates in 95 % of the runs of
    10 to 300 epochs and in 91 % of those of 1 to 7, and calls no diverged one just right.

    Parameters
    ----------
    losses : array_like of float, 1-d
        The loss of each step (or the mean of every few) in order, at least 20, noise and all; the
        first one from before the first update. To be minimised; may be negative.
    lrs : float or array_like of float, optional
        The learning rate of each step, or the one of all. With a schedule it matters: what falls
        while the rate decays does not speak for a low rate.
    reports : sequence of StepReport, optional
        What ``opt.step`` returned, one per loss. Skipped steps, gradients that are not finite
        and norms that explode are evidence; `lrs` is taken from here where not given.

    Returns
    -------
    Diagnosis
        ``verdict``, ``reason`` (the rule that decided and the numbers it saw), ``suggestion``
        and ``factor``, by which to multiply the rate.

    Raises
    ------
    TypeError
        If something is not of the kind above.
    ValueError
        If there are fewer than 20 losses, or rates or reports do not fit to them.

    Notes
    -----
    The first rule that applies decides. Too high: a loss or gradient is not finite; many steps
    were skipped; a gradient norm explodes; the run ends above its first loss; it grows
    exponentially at the end, from however low; the losses swing between almost nothing and more
    than the first. Just right: less than 7 % of the first level is left. Too high: a loss
    overshoots the first one by 4 times the descent; the smoothed curve climbs by 10 % of the
    descent. Without a descent that stands out of the noise: too high where the loss rises or
    spikes, else too low. Too low: 2.5 % of the descent came after the middle of the run.
    Otherwise just right. Multiplying all losses by a positive number changes nothing.
    docs/math.md has the rules in full.

    Losses of single examples are too noisy: give means over some steps.

    Examples
    --------
    >>> import numpy as np, instep
    >>> steps = np.arange(200)
    >>> instep.diagnose(0.1 + np.exp(-steps / 20)).verdict
    'just_right'
    >>> print(instep.diagnose(2 - steps / 1000, lrs=1e-5))
    too_low: 42.4% of the descent came after the middle of the run: it goes on. Try 0.0001, \
10 times the rate.
    >>> instep.diagnose(1.1**steps).verdict
    'too_high'
    """
    values = _losses(losses)
    seen = _reports(reports, len(values))
    rates = _rates(lrs, seen, len(values))
    verdict, reason, factor = _decide(values, rates, seen)
    return Diagnosis(verdict, reason, _advice(verdict, factor, rates), factor)


# ---- arguments -------------------------------------------------------------------------------


def _floats(name: str, values: object) -> Floats:
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; its mask would be ignored: fill it first")
    try:
        array = np.asarray(values)
    except ValueError as error:  # ragged
        raise TypeError(f"{name} must be numbers, got {values!r:.60}") from error
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must be real numbers, got {type(values).__name__} of dtype {array.dtype}"
        )
    with np.errstate(over="ignore"):  # a longdouble beyond float64 is infinite here
        return array.astype(np.float64)


def _losses(losses: object) -> Floats:
    values = _floats("losses", losses)
    if values.ndim != 1:
        raise ValueError(
            f"losses must be 1-d, one loss per step in order, got shape {values.shape}"
        )
    if len(values) < FEWEST:
        raise ValueError(
            f"losses must have at least {FEWEST} entries to tell a trend from noise, got "
            f"{len(values)}; give the loss of every step rather than of every epoch"
        )
    return values


def _reports(reports: object, n: int) -> list[StepReport] | None:
    if reports is None:
        return None
    if not isinstance(reports, list | tuple):
        raise TypeError(f"reports must be a list of StepReport, got {type(reports).__name__}")
    for k, report in enumerate(reports):
        if not isinstance(report, StepReport):
            raise TypeError(f"reports[{k}] must be a StepReport, got {report!r:.60}")
    if len(reports) != n:
        raise ValueError(f"reports must have one entry per loss, got {len(reports)} for {n}")
    return list(reports)


def _rates(lrs: object, reports: list[StepReport] | None, n: int) -> Floats | None:
    """The rate at each step; None where unknown or zero throughout."""
    if lrs is None:
        if reports is None:
            return None
        lrs = [report.lr for report in reports]
    rates = _floats("lrs", lrs)
    if rates.ndim == 0:
        rates = np.full(n, rates)
    if rates.shape != (n,):
        raise ValueError(
            f"lrs must be one rate or one per loss, got shape {rates.shape} for {n} losses"
        )
    wrong = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if wrong.size:
        k = int(wrong[0])
        raise ValueError(f"lrs[{k}] must be finite and at least 0, got {rates[k]}")
    return rates if rates.max() > 0 else None


# ---- rules -----------------------------------------------------------------------------------


def _decide(losses: Floats, rates: Floats | None, reports: list[StepReport] | None) -> Found:
    found = _nonfinite(losses) or (_evidence(reports, losses) if reports else None)
    if found:
        return found
    if not losses.any():
        return "just_right", "every loss is 0: there is nothing that could fall", 1.0
    with np.errstate(under="ignore"):
        curve = measure(losses, rates)
    rules = (_diverged, _nothing_left, _too_high, _too_low)
    decided = (rule(curve) for rule in rules)
    return next((found for found in decided if found), None) or _just_right(curve)


def _nonfinite(losses: Floats) -> Found | None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if not bad.size:
        return None
    k = int(bad[0])
    if k == 0:
        reason = f"the first loss is {losses[0]}, before any update"
        return "too_high", f"{reason}: look at the data and the initial parameters first", 0.1
    return "too_high", f"the loss became {losses[k]} at step {k}, after {losses[k - 1]:.3g}", 0.1


def _evidence(reports: list[StepReport], losses: Floats) -> Found | None:
    """What the gradients say."""
    for k, r in enumerate(reports):
        if r.applied and (r.nonfinite or not math.isfinite(r.grad_norm or 0.0)):
            return "too_high", f"a gradient that is not finite was applied at step {k}", 0.1
    taken = [r.applied for r in reports]
    skipped = taken.count(False)
    begun = min(taken.index(True), SCALING) if any(taken) else 0
    if skipped - begun > max(HANDFUL, SKIPPED * len(reports)):
        share = f"{skipped} of {len(reports)} steps were skipped"
        return "too_high", f"{share} because their gradients were not finite", 0.1
    norms = {k: r.grad_norm for k, r in enumerate(reports) if r.grad_norm is not None}
    finite = {k: norm for k, norm in norms.items() if math.isfinite(norm)}
    if len(finite) > 3:
        usual = float(np.median(list(finite.values())[:3]))
        k = max(finite, key=lambda step: finite[step])
        if finite[k] > NORM_GROWTH * usual > 0 and losses[k:].max() > losses[0]:
            times = f"{finite[k] / usual:.3g} times those of the first steps"
            return "too_high", f"a gradient norm grew to {finite[k]:.3g}, {times}", 0.1
    return None


def _diverged(c: Curve) -> Found | None:
    """What no low level makes good."""
    if c.end > c.first and (-c.descent > VISIBLE * c.error or c.times > FAR):
        levels = f"at {c.says(c.end)}, begun at {c.says(c.first)}"
        return "too_high", f"the loss ends above where it began: {levels}", 0.1
    if c.leap is not None:
        leap = f"from step {c.leap} on all are at {c.says(c.leapt)} or more"
        return "too_high", f"the losses leap above the first one, {c.says(c.first)}: {leap}", 0.1
    if c.growth > 1:
        return "too_high", f"the loss grows exponentially, by now {c.growth:.3g} times", 0.1
    if c.swings and c.towers:
        swings = f"almost nothing and more than twice the first one, {c.says(c.first)}"
        return "too_high", f"losses swing between {swings}", 0.1
    return None


def _nothing_left(c: Curve) -> Found | None:
    if c.left >= NOTHING_LEFT:
        return None
    levels = f"from {c.says(c.start)} to {c.says(c.end)}"
    reason = f"the loss fell {levels}: {c.left:.1%} of it is left, which is all there is to gain"
    return "just_right", reason, 1.0


def _too_high(c: Curve) -> Found | None:
    descent = max(c.descent, 0.0)
    gain = f"where the whole run gained {c.says(descent)}"
    over = c.peak - max(c.first, c.start)
    if over > OVERSHOOT * descent and over > c.largest_by_chance:
        rise = f"from {c.says(c.first)} to {c.says(c.peak)} at step {c.peak_step}"
        found: Found = "too_high", f"the loss overshot: {rise}, {gain}", 0.1
    elif c.climb > CLIMB * descent and c.climb > CLIMB_ERRORS * c.climb_error:
        rise = f"the smoothed loss climbs again, by {c.says(c.climb)}"
        found = "too_high", f"{rise} {gain}", 0.3
    elif c.swings and not c.visible:
        found = "too_high", "losses swing between almost nothing and more than the first one", 0.1
    else:
        return None
    return _just_right(c) if _recovered(c) else found


def _recovered(c: Curve) -> bool:
    """Whether a decaying rate made good what a high one did before."""
    brought = max(RECOVERY * c.descent, FALLING_ERRORS * c.gain_error)
    return c.decayed and c.end < min(RECOVERED * c.first, c.first) and c.after > brought


def _too_low(c: Curve) -> Found | None:
    if not c.visible:
        if c.rise > RISE_ERRORS:
            return "too_high", f"the loss rises, by {c.rise:.3g} errors, and has not fallen", 0.3
        if c.spikes > SPIKE:
            spike = f"to {c.says(c.peak)} at step {c.peak_step}, and has not fallen"
            return "too_high", f"the loss spikes from {c.says(c.first)} {spike}", 0.1
        moved = f"from {c.says(c.start)} to {c.says(c.end)}"
        return "too_low", f"the loss barely moves: {moved}, which is within its noise", 10.0
    seen = min(FALLING_ERRORS * c.gain_error, STEEP * c.descent)
    # Then it fell because of the decay, not in spite of it.
    annealed = c.decayed and c.after > c.gain + c.gain_error
    if c.gain > max(seen, STILL_FALLING * c.descent) and not annealed:
        share = c.gain / c.descent
        reason = f"{share:.1%} of the descent came after the middle of the run: it goes on"
        return "too_low", reason, 10.0 if share > STEEP else 3.0
    return None


def _just_right(c: Curve) -> Found:
    start = max(c.start, c.first)  # where a decaying rate made good an overshoot, start is lower
    share = min(1.0, max(0.0, c.gain) / (start - c.end))
    levels = f"from {c.says(start)} to {c.says(c.end)} and settled"
    reason = f"the loss fell {levels}: {share:.1%} of that came after the middle of the run"
    return "just_right", reason, 1.0


def _advice(verdict: Verdict, factor: float, rates: Floats | None) -> str:
    if verdict == "just_right":
        return "Keep the rate"
    times = f"{factor:g} times" if factor > 1 else {0.1: "a tenth of", 0.3: "a third of"}[factor]
    if rates is None:
        return f"Try {times} the rate"
    return f"Try {rates.max() * factor:.2g}, {times} the rate"
