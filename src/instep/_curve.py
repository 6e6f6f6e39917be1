"""A run's losses in numbers: levels, noise, climbs and what its second half brought."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Curve", "measure"]

Floats = npt.NDArray[np.float64]

# What is averaged where. "Noise" is the standard deviation of one loss, "error" that of a mean of
# several or of a difference of two means.
EARLY = 1 / 50  # of the run, at least one loss: their mean is the level at the start
LEVEL = 1 / 10  # of the run, at least 5 losses: their mean is the level at the end
WIDE = 1 / 5  # of the run: two means of so many say whether it still falls; noise needs more
WINDOWS = 20  # of at least 5 losses: the curve without its noise, in which climbs are looked for
# Differences below so many errors are noise: three is one in 370 by chance.
VISIBLE = 3.0
# A first loss so far above the later ones, in robust deviations, is descent and not noise.
SURPRISE = 4.0
# The mean of the next ones above the first by so much of the noise, or by this share of it where
# losses are not negative, is no noise either: the first update threw it there.
JUMP = 3.0
JUMP_SHARE = 0.5
# The largest of 1,000 noisy losses is up to 6 deviations above a low first one; with longer tails
# than the normal's it grows with the logarithm of their number.
LARGEST = 7.0
# A quarter of the losses below this share of the first one, though the mean has not fallen.
SWING = 0.05
# Losses that are not negative grow exponentially where of so many means in a row, of as many losses
# each, every one is so many times the one before. Of noise alone one row in 720 only goes up, and
# seldom evenly. Below the share of the first loss to which float32 rounds squares, all is noise.
ROW = 6
GROWTH = 1.25
ROUNDING = float(np.finfo(np.float32).eps) ** 2
# Losses so many times all those before them since the middle, and above the first one, are a leap;
# single ones so far above the first one, among others that are almost nothing, are swings.
LEAP = 2.0
# Five parts of the run, in which a rise is looked for that its noise may hide.
FIFTHS = 5


@dataclass(frozen=True)
class Curve:
    """A run in numbers, all of them over `unit`, which keeps their squares in range."""

    steps: int
    unit: float
    first: float
    start: float  # level
    end: float  # level
    error: float  # of the descent
    noise: float
    peak: float
    peak_step: int
    climb: float  # the largest, between two windows
    climb_error: float
    gain: float  # in the second half of what the rates add up to
    gain_error: float
    after: float  # what a decaying rate brought after that
    decayed: bool
    swings: bool
    towers: bool  # a loss after the middle, far above the first one
    left: float  # what there is still to gain, at most, as a share of the start
    spikes: float  # the largest loss over the first or the median one, if none is negative
    times: float  # the level at the end over the first loss, where losses are not negative
    growth: float  # of the last means in a row, where each is above the one before
    leap: int | None  # the step from which on all losses are far above those before
    leapt: float  # the lowest of those
    rise: float  # the largest between two fifths of the run, in errors

    @property
    def descent(self) -> float:
        return self.start - self.end

    @property
    def visible(self) -> bool:
        return self.descent > VISIBLE * self.error

    @property
    def largest_by_chance(self) -> float:
        """How far the largest of so many noisy losses may lie above a low first one."""
        many = max(1.0, math.log(self.steps) / math.log(1000))
        # The noise is that of the second half; where losses are squares, it falls with the level.
        # `left` is not small here: such runs have been decided.
        return LARGEST * many * self.noise / min(self.left, 1.0)

    def says(self, value: float) -> str:
        """A level as the user knows it."""
        return f"{value * self.unit:.3g}"


def measure(losses: Floats, rates: Floats | None) -> Curve:
    """The numbers of a run of at least 20 finite losses."""
    unit = float(np.abs(losses).max()) or 1.0
    n, losses = len(losses), losses / unit
    level, count = max(5, int(n * LEVEL)), min(WINDOWS, n // 5)
    earlier, second = losses[: n // 2], losses[n // 2 :]
    # Of the half whose level is lower: where a run explodes, its steps are no noise. Differences,
    # because a slow trend is none either.
    steps = np.diff(earlier if earlier.mean() < second.mean() else second)
    noise = math.sqrt(np.square(steps).mean() / 2)
    end = float(losses[-level:].mean())
    start, start_error = _start(losses, level, noise, float(np.median(np.abs(steps))))
    windows = _means(losses, count)[1:]
    middle, stop = _halves(n, rates, level)
    wide = max(5, int(stop * WIDE))
    reached = losses[stop - wide : stop].mean()
    positive = losses.min() >= 0
    leap = _leap(losses) if positive else None
    return Curve(
        steps=n,
        unit=unit,
        first=float(losses[0]),
        start=start,
        end=end,
        error=math.hypot(start_error, noise / math.sqrt(level)),
        noise=noise,
        peak=float(losses.max()),
        peak_step=int(losses.argmax()),
        climb=_climb(windows),
        climb_error=noise * math.sqrt(2 * count / n),
        gain=float(losses[max(0, middle - wide // 2) :][:wide].mean() - reached),
        gain_error=noise * math.sqrt(2 / wide),
        after=float(reached) - end,
        decayed=stop <= n - level,
        swings=bool(positive and np.quantile(second, 1 / 4) < SWING * losses[0]),
        towers=bool(positive and second.max() > LEAP * losses[0]),
        left=end / start if positive and start > 0 else 1.0,
        spikes=_over(losses.max(), max(losses[0], np.median(losses))) if positive else 1.0,
        times=_over(end, float(losses[0])) if positive else 1.0,
        growth=_growth(losses) if positive else 1.0,
        leap=leap,
        leapt=float(losses[leap:].min()),
        rise=_rise(losses, noise),
    )


def _means(losses: Floats, parts: int) -> Floats:
    """Of so many parts of the run, one after the other."""
    return np.array([part.mean() for part in np.array_split(losses, parts)])


def _climb(means: Floats) -> float:
    """The largest rise from one mean to a later one."""
    return float((means - np.minimum.accumulate(means)).max())


def _over(value: float, level: float) -> float:
    """Their ratio, of numbers that are not negative: 1 of two zeros."""
    if level > 0:
        return float(value / level)
    return math.inf if value > 0 else 1.0


def _growth(losses: Floats) -> float:
    """How many times the last `ROW` means grew, where each grew: the most, over their sizes."""
    most, size, least = 1.0, 1, ROUNDING * float(losses[0])
    while ROW * size <= len(losses):
        row = np.maximum(losses[-ROW * size :].reshape(ROW, size).mean(axis=1), least)
        if (row[1:] > GROWTH * row[:-1]).all():
            most = max(most, _over(float(row[-1]), float(row[0])))
        size += max(1, size // 4)
    return most


def _rise(losses: Floats, noise: float) -> float:
    """The largest climb between two fifths of the run, in errors."""
    climb = _climb(_means(losses, FIFTHS))
    return _over(climb, noise * math.sqrt(2 * FIFTHS / len(losses))) if climb > 0 else 0.0


def _leap(losses: Floats) -> int | None:
    """The first step after the middle from which on all losses are far above those before."""
    middle = len(losses) // 2
    before = np.maximum.accumulate(losses[middle:-1])
    after = np.minimum.accumulate(losses[:middle:-1])[::-1]
    leaps = np.flatnonzero((after > LEAP * before) & (after > losses[0]))
    return middle + 1 + int(leaps[0]) if leaps.size else None


def _start(losses: Floats, level: int, noise: float, usual: float) -> tuple[float, float]:
    """The level at the start, and its error.

    The mean of the first few: of three where the loss fell at once, further than any noise
    reaches. The first alone where the next ones jump up: they show what it did then."""
    early, few = max(1, int(len(losses) * EARLY)), 3
    first, opening, mean = (float(losses[:k].mean()) for k in (1, few, early))
    robust = usual / 0.954  # the median of the difference of two normal numbers
    fell = opening - float(np.median(losses[-level:])) > SURPRISE * robust / math.sqrt(few)
    if fell:
        mean, early = opening, few
    allowed = JUMP * noise if losses.min() < 0 else min(JUMP * noise, JUMP_SHARE * first)
    if mean - first > allowed:
        return first, min(noise, robust)
    return mean, (min(noise, robust) if fell else noise) / math.sqrt(early)


def _halves(n: int, rates: Floats | None, level: int) -> tuple[int, int]:
    """Where half of the summed rate was spent, and where the rate had decayed to half its peak."""
    if rates is None:
        return n // 2, n
    stop = int(np.flatnonzero(rates >= rates.max() / 2)[-1]) + 1
    stop = max(stop, 2 * level)
    spent = np.cumsum(rates[:stop] / rates.max())
    return int(np.searchsorted(spent, spent[-1] / 2, side="right")), stop
