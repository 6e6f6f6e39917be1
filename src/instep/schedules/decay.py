"""Schedules that fall: by steps, by a factor, in a line, by a power. And the one that does not."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

from instep.schedules._base import Schedule, blend
from instep.schedules._check import at_least, decay_factor, finite, increasing, positive


def _power(base: float, exponent: int) -> float:
    """Of a base in (0, 1]; an exponent may be beyond what a float can hold."""
    try:
        return float(base**exponent)
    except OverflowError:
        return 1.0 if base == 1.0 else 0.0


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Parameters
    ----------
    lr : float
        The value; any finite number.

    Notes
    -----
    ``lr(t) = lr``

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: float

    def __post_init__(self) -> None:
        self._check(lr=finite)

    def _at(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class StepDecay(Schedule):
    """A factor every so many steps.

    Parameters
    ----------
    lr : float
        Value of the first ``step_size`` steps.
    step_size : int
        Steps between two reductions, at least 1.
    gamma : float, default 0.1
        The factor, in (0, 1].

    Notes
    -----
    ``lr(t) = lr * gamma ** (t // step_size)``

    ``t = step_size`` is the first reduced step. It never ends, as PyTorch's ``StepLR``.

    Examples
    --------
    >>> schedule = StepDecay(0.8, step_size=30, gamma=0.5)
    >>> schedule(0), schedule(29), schedule(30), schedule(60)
    (0.8, 0.8, 0.4, 0.2)
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._check(lr=finite, step_size=at_least(1), gamma=decay_factor)

    def _at(self, step: int) -> float:
        return self.lr * _power(self.gamma, step // self.step_size)


@dataclass(frozen=True, init=False)
class MultiStepDecay(Schedule):
    """A factor at each of the given steps.

    Parameters
    ----------
    lr : float
        Value before the first milestone.
    milestones : sequence of int
        The first step of each reduced stretch: increasing, from 1 on. None at all is a constant.
    gamma : float, default 0.1
        The factor, in (0, 1].

    Notes
    -----
    ``lr(t) = lr * gamma ** n``, where n is the number of milestones that are at most t

    PyTorch's ``MultiStepLR``, which sorts the milestones; here a wrong order is an error.

    Examples
    --------
    >>> schedule = MultiStepDecay(0.8, milestones=[30, 80], gamma=0.5)
    >>> schedule(29), schedule(30), schedule(79), schedule(80)
    (0.8, 0.4, 0.4, 0.2)
    """

    lr: float
    milestones: tuple[int, ...]
    gamma: float = 0.1

    # Written out, because any iterable is taken for `milestones` and a tuple kept.
    def __init__(self, lr: float, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self._set(lr=lr, milestones=milestones, gamma=gamma)
        self._check(lr=finite, milestones=increasing, gamma=decay_factor)

    def _at(self, step: int) -> float:
        return self.lr * _power(self.gamma, bisect.bisect_right(self.milestones, step))


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """A factor at every step.

    Parameters
    ----------
    lr : float
        Value at step 0.
    gamma : float
        The factor of each step, in (0, 1]: ``0.5 ** (1 / n)`` halves every n steps.

    Notes
    -----
    ``lr(t) = lr * gamma ** t``

    It never ends, as PyTorch's ``ExponentialLR``, and reaches 0 where the float underflows.

    Examples
    --------
    >>> ExponentialDecay(0.8, gamma=0.5)(3)
    0.1
    """

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        self._check(lr=finite, gamma=decay_factor)

    def _at(self, step: int) -> float:
        return self.lr * _power(self.gamma, step)


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """A straight line from ``lr`` to ``end``.

    Parameters
    ----------
    lr : float
        Value at step 0.
    total_steps : int
        Steps until ``end`` is reached, at least 1; from ``t = total_steps`` on it is held.
    end : float, default 0.0
        Value at the end; it may be above ``lr``.

    Notes
    -----
    ``lr(t) = end + (lr - end) * (1 - t / total_steps)`` for ``t < total_steps``, then ``end``

    optax's ``linear_schedule``, and PyTorch's ``LinearLR`` from a factor of 1 on. A run of
    ``total_steps`` steps uses ``t = 0 ... total_steps - 1`` and so does not take one at ``end``:
    with ``end = 0`` no step is lost.

    References
    ----------
    Bergsma et al., "Straight to Zero: Why Linearly Decaying the Learning Rate to Zero Works Best
    for LLMs", arXiv:2502.15938.

    Examples
    --------
    >>> schedule = LinearDecay(0.8, total_steps=4)
    >>> [schedule(t) for t in range(6)]
    [0.8, 0.6000000000000001, 0.4, 0.2, 0.0, 0.0]
    """

    lr: float
    total_steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        self._check(lr=finite, total_steps=at_least(1), end=finite)

    def _at(self, step: int) -> float:
        if step >= self.total_steps:
            return self.end
        return blend((self.total_steps - step) / self.total_steps, self.lr, self.end)


@dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """A power of the remaining steps, from ``lr`` to ``end``.

    Parameters
    ----------
    lr : float
        Value at step 0.
    total_steps : int
        Steps until ``end`` is reached, at least 1; from ``t = total_steps`` on it is held.
    power : float, default 1.0
        Greater than 0. Above 1 it falls fast at first, below 1 at last; 1 is `LinearDecay`.
    end : float, default 0.0
        Value at the end; it may be above ``lr``.

    Notes
    -----
    ``lr(t) = end + (lr - end) * (1 - t / total_steps) ** power`` for ``t < total_steps``, then
    ``end``

    optax's ``polynomial_schedule``; with ``end = 0`` PyTorch's ``PolynomialLR``.

    References
    ----------
    Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets", 2017,
    arXiv:1606.00915, where the power is 0.9.

    Examples
    --------
    >>> schedule = PolynomialDecay(0.8, total_steps=4, power=2.0)
    >>> [schedule(t) for t in range(6)]
    [0.8, 0.45, 0.2, 0.05, 0.0, 0.0]
    """

    lr: float
    total_steps: int
    power: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        self._check(lr=finite, total_steps=at_least(1), power=positive, end=finite)

    def _at(self, step: int) -> float:
        if step >= self.total_steps:
            return self.end
        share = ((self.total_steps - step) / self.total_steps) ** self.power
        return blend(share, self.lr, self.end)
