"""Schedules that rise first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from instep.schedules._base import Schedule, half_cosine
from instep.schedules._check import at_least, finite, one_of
from instep.schedules.compose import schedule_or_number


def _rise(step: int, steps: int) -> float:
    """The share that the 0-based step of a warm-up has: exactly 1 at its last."""
    return (step + 1) / steps


@dataclass(frozen=True, init=False)
class Warmup(Schedule):
    """A linear warm-up in front of another schedule.

    Parameters
    ----------
    after : Schedule or float
        What follows the warm-up, starting at its own step 0. A number stands for
        ``Constant(number)``.
    steps : int
        Length of the warm-up in steps; 0 means none.

    Notes
    -----
    ``lr(t) = after(0) * (t + 1) / steps`` for ``t < steps``, then ``after(t - steps)``

    The first step already moves, by ``after(0) / steps``, where many warm-ups spend it at a
    learning rate of 0. The last warm-up step, ``t = steps - 1``, uses exactly ``after(0)``, and so
    does the step after it. The whole lasts ``steps`` longer than ``after`` alone: to end a cosine
    at step ``total``, give it ``total - steps``.

    References
    ----------
    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677.

    Examples
    --------
    >>> from instep.schedules import CosineAnnealing
    >>> schedule = Warmup(CosineAnnealing(0.8, total_steps=100), steps=4)
    >>> [schedule(t) for t in (0, 1, 2, 3, 4)]
    [0.2, 0.4, 0.6000000000000001, 0.8, 0.8]
    >>> schedule(104)
    0.0
    """

    after: Schedule
    steps: int

    # Written out, because a number is taken for `after` but never kept.
    def __init__(self, after: Schedule | float, steps: int) -> None:
        self._set(after=after, steps=steps)
        self._check(after=schedule_or_number, steps=at_least(0))

    def _at(self, step: int) -> float:
        if step < self.steps:
            return self.after._at(0) * _rise(step, self.steps)
        return self.after._at(step - self.steps)


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """A linear warm-up, then the inverse square root of the number of steps.

    Parameters
    ----------
    lr : float
        The peak, which the last warm-up step uses.
    warmup_steps : int
        Length of the warm-up in steps, at least 1; 1 falls from the first step on.

    Notes
    -----
    ``lr(t) = lr * min(n / warmup_steps, sqrt(warmup_steps / n))`` with ``n = t + 1``

    n counts the steps from 1, as the paper does: ``lr = (width * warmup_steps) ** -0.5`` gives the
    paper's formula. The Transformers library starts at n = 0, so that the first step has a rate
    of 0. It has no end: four times the steps halve the rate.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", arXiv:1706.03762.

    Examples
    --------
    >>> schedule = InverseSqrt(0.8, warmup_steps=100)
    >>> schedule(0), schedule(49), schedule(99), schedule(399)
    (0.008, 0.4, 0.8, 0.4)
    """

    lr: float
    warmup_steps: int

    def __post_init__(self) -> None:
        self._check(lr=finite, warmup_steps=at_least(1))

    def _at(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * _rise(step, self.warmup_steps)
        return self.lr * math.sqrt(self.warmup_steps / (step + 1))


# What is left of the rate when a share of the decay is over.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda over: 1.0 - over,
    "cosine": lambda over: half_cosine(over, 1.0, 0.0),
    "1-sqrt": lambda over: 1.0 - math.sqrt(over),
}


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A linear warm-up, a long constant stretch, a short decay to 0.

    The length of the run need not be known at first: go on from a snapshot of the constant
    stretch, or end one there with a decay, as often as you like.

    Parameters
    ----------
    lr : float
        Value of the constant stretch.
    warmup_steps, stable_steps : int
        Lengths in steps; 0 means none.
    decay_steps : int
        Steps until 0 is reached, at least 1; from then on it is held. A tenth to a fifth of the
        run is usual.
    shape : {"linear", "cosine", "1-sqrt"}, default "linear"
        How it falls.

    Notes
    -----
    ``lr(t) = lr * (t + 1) / warmup_steps`` in the warm-up, as in `Warmup`; then ``lr``; then with
    ``u = (t - warmup_steps - stable_steps) / decay_steps`` for ``u < 1``

    "linear": ``lr * (1 - u)``; "cosine": ``lr * (1 + cos(pi * u)) / 2``; "1-sqrt":
    ``lr * (1 - sqrt(u))``

    and 0 from ``u = 1`` on. The first step of the decay, u = 0, still uses ``lr``; the last one
    before the end is just above 0, so that no step is lost.

    References
    ----------
    Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models", arXiv:2404.06395.
    Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
    arXiv:2405.18392, which found "1-sqrt" the best of the three by a little.

    Examples
    --------
    >>> schedule = WarmupStableDecay(0.8, warmup_steps=2, stable_steps=3, decay_steps=4)
    >>> [round(schedule(t), 3) for t in range(10)]
    [0.4, 0.8, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0]
    """

    lr: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    shape: str = "linear"

    def __post_init__(self) -> None:
        self._check(
            lr=finite,
            warmup_steps=at_least(0),
            stable_steps=at_least(0),
            decay_steps=at_least(1),
            shape=one_of(*_SHAPES),
        )

    def _at(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * _rise(step, self.warmup_steps)
        over = step - self.warmup_steps - self.stable_steps
        if over <= 0:
            return self.lr
        if over >= self.decay_steps:
            return 0.0
        return self.lr * _SHAPES[self.shape](over / self.decay_steps)
