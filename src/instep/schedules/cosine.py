"""Schedules made of half cosine waves."""

from __future__ import annotations

from dataclasses import dataclass

from instep.schedules._base import Schedule, half_cosine
from instep.schedules._check import at_least, finite, fraction, positive


@dataclass(frozen=True)
class CosineAnnealing(Schedule):
    """Half a cosine wave from ``lr`` down to ``min_lr``, without restarts.

    Parameters
    ----------
    lr : float
        Value at step 0.
    total_steps : int
        Steps until ``min_lr`` is reached, at least 1; from ``t = total_steps`` on it is held.
    min_lr : float, default 0.0
        Value at the end.

    Notes
    -----
    ``lr(t) = min_lr + (lr - min_lr) * (1 + cos(pi * t / total_steps)) / 2`` for
    ``t < total_steps``, then ``min_lr``

    Up to ``total_steps`` this is PyTorch's ``CosineAnnealingLR``, which goes up again afterwards.
    A run of ``total_steps`` steps uses ``t = 0 ... total_steps - 1`` and so ends just above
    ``min_lr``.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
    arXiv:1608.03983.

    Examples
    --------
    >>> schedule = CosineAnnealing(0.1, total_steps=100, min_lr=0.02)
    >>> schedule(0), round(schedule(50), 12), schedule(100), schedule(1000)
    (0.1, 0.06, 0.02, 0.02)
    """

    lr: float
    total_steps: int
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        self._check(lr=finite, total_steps=at_least(1), min_lr=finite)

    def _at(self, step: int) -> float:
        if step >= self.total_steps:
            return self.min_lr
        return half_cosine(step / self.total_steps, self.lr, self.min_lr)


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half cosine waves from ``lr`` towards ``min_lr``, again and again.

    Parameters
    ----------
    lr : float
        Value at step 0 and at every restart.
    period : int
        Steps of the first wave, at least 1.
    period_mult : int, default 1
        Each wave is so many times as long as the one before; at least 1.
    min_lr : float, default 0.0
        What each wave falls towards.

    Notes
    -----
    ``lr(t) = min_lr + (lr - min_lr) * (1 + cos(pi * i / n)) / 2``, i steps after the latest
    restart, in a wave of n steps

    Restarts are at ``period``, ``period * (1 + period_mult)``, and so on: those steps use ``lr``,
    and ``min_lr`` itself is never used. It has no end. PyTorch's ``CosineAnnealingWarmRestarts``,
    stepped once per step. A run that shall end low ends just before a restart.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
    arXiv:1608.03983.

    Examples
    --------
    >>> schedule = CosineRestarts(0.8, period=2, period_mult=2)
    >>> [round(schedule(t), 3) for t in range(8)]
    [0.8, 0.4, 0.8, 0.683, 0.4, 0.117, 0.8, 0.77]
    """

    lr: float
    period: int
    period_mult: int = 1
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        self._check(lr=finite, period=at_least(1), period_mult=at_least(1), min_lr=finite)

    def _at(self, step: int) -> float:
        since, length = step, self.period
        if self.period_mult == 1:
            since %= length
        while since >= length:  # exact, where a logarithm would miss a restart by rounding
            since -= length
            length *= self.period_mult
        return half_cosine(since / length, self.lr, self.min_lr)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to ``max_lr``, then far down, each in half a cosine wave.

    Parameters
    ----------
    max_lr : float
        The peak.
    total_steps : int
        Steps of the cycle, at least 1; the last, ``t = total_steps - 1``, uses the final value,
        which is held.
    pct_start : float, default 0.3
        Share of the steps that go up, in [0, 1).
    div_factor : float, default 25.0
        The initial value is ``max_lr / div_factor``. Greater than 0; below 1 it starts high and
        goes down at first, as the momentum does in a cycle.
    final_div_factor : float, default 1e4
        The final value is the initial one divided by this. Greater than 0.

    Notes
    -----
    With ``peak = pct_start * total_steps - 1`` and ``last = total_steps - 1``:

    ``lr(t) = initial + (max_lr - initial) * (1 - cos(pi * t / peak)) / 2`` for ``t < peak``,

    ``lr(t) = final + (max_lr - final) * (1 + cos(pi * (t - peak) / (last - peak))) / 2`` for
    ``peak <= t < last``, then ``final``

    PyTorch's ``OneCycleLR``, which raises after ``total_steps``. The peak is between two steps,
    and no step uses ``max_lr`` exactly, where ``pct_start * total_steps`` is no whole number.
    optax's ``cosine_onecycle_schedule`` reaches the end one step later: where that is a whole
    number, its ``transition_steps`` are ``total_steps - 1``.

    The momentum cycle that ``OneCycleLR`` adds, between 0.95 and 0.85, is
    ``OneCycle(0.85, total_steps, div_factor=0.85 / 0.95, final_div_factor=1)``.

    References
    ----------
    Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates", arXiv:1708.07120.

    Examples
    --------
    >>> schedule = OneCycle(1.0, total_steps=10)
    >>> [round(schedule(t), 3) for t in (0, 1, 2, 5, 9, 100)]
    [0.04, 0.52, 1.0, 0.611, 0.0, 0.0]
    >>> schedule(9)
    4e-06
    """

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        self._check(
            max_lr=finite,
            total_steps=at_least(1),
            pct_start=fraction,
            div_factor=positive,
            final_div_factor=positive,
        )
        name, initial = "OneCycle: max_lr / div_factor", self.max_lr / self.div_factor
        finite(name, initial)
        finite(f"{name} / final_div_factor", initial / self.final_div_factor)
        try:
            float(self.total_steps)  # where the peak lies is computed in it
        except OverflowError:
            raise ValueError(
                "OneCycle: total_steps must be at most 1.8e308, got an int of "
                f"{self.total_steps.bit_length()} bits"
            ) from None

    def _at(self, step: int) -> float:
        initial = self.max_lr / self.div_factor
        final = initial / self.final_div_factor
        last = self.total_steps - 1
        if step >= last:
            return final
        peak = self.pct_start * self.total_steps - 1
        if step < peak:
            return half_cosine(step / peak, initial, self.max_lr)
        return half_cosine((step - peak) / (last - peak), self.max_lr, final)
