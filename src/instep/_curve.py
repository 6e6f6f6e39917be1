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
    left: float  # what there is still to gain, at most, as a share of the start

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
    second = losses[n // 2 :]
    steps = np.diff(second)  # differences: a slow trend is not noise
    noise = math.sqrt(np.square(steps).mean() / 2)
    end = float(losses[-level:].mean())
    start, start_error = _start(losses, level, noise, float(np.median(np.abs(steps))))
    windows = np.array([part.mean() for part in np.array_split(losses, count)])[1:]
    middle, stop = _halves(n, rates, level)
    wide = max(5, int(stop * WIDE))
    reached = losses[stop - wide : stop].mean()
    positive = losses.min() >= 0
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
        climb=float((windows - np.minimum.accumulate(windows)).max()),
        climb_error=noise * math.sqrt(2 * count / n),
        gain=float(losses[max(0, middle - wide // 2) :][:wide].mean() - reached),
        gain_error=noise * math.sqrt(2 / wide),
        after=float(reached) - end,
        decayed=stop <= n - level,
        swings=bool(positive and np.quantile(second, 1 / 4) < SWING * losses[0]),
        left=end / start if positive and start > 0 else 1.0,
    )


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
