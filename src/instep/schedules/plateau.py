"""The schedule that needs to be shown a metric."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from instep.schedules._base import Schedule
from instep.schedules._check import (
    at_least,
    entries,
    finite,
    fraction,
    non_negative,
    number,
    one_of,
)


class PlateauState(NamedTuple):
    """What a `ReduceOnPlateau` has made of the metrics that it was shown.

    Attributes
    ----------
    lr : float
        The value at present.
    best : float or None
        The best metric; None before the first.
    bad_epochs : int
        Metrics since then that were no better.
    cooldown_left : int
        Metrics that will not be counted as bad.
    """

    lr: float
    best: float | None
    bad_epochs: int
    cooldown_left: int


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Reduce the value when a metric has stopped improving.

    Call `observe` with the metric, once per epoch, on the object that the optimizer was given. It
    has the same value at all steps between two metrics. It may stand within other schedules
    (``Warmup(plateau, 100)``), be scaled (``0.1 * plateau``) and be shared by groups.

    Parameters
    ----------
    lr : float
        Value at first; at least ``min_lr``.
    mode : {"min", "max"}, default "min"
        Whether a lower or a higher metric is better.
    factor : float, default 0.1
        What the value is multiplied by, in [0, 1).
    patience : int, default 10
        Metrics without improvement that are tolerated; the one after them reduces.
    threshold : float, default 1e-4
        How much better a metric must be to count. In mode "min" and "rel" less than 1.
    threshold_mode : {"rel", "abs"}, default "rel"
        Whether ``threshold`` is a share of the best metric or a difference.
    cooldown : int, default 0
        Metrics after a reduction of which none is counted as bad.
    min_lr : float, default 0.0
        The value never falls below it; at least 0.
    eps : float, default 1e-8
        A reduction by no more than this is not made.
    state : PlateauState, optional
        Where to go on: what `to_dict` and ``dataclasses.replace`` hand over. None: at the start.

    Notes
    -----
    These are the rules of PyTorch's ``ReduceLROnPlateau``:

    - "rel": better is ``metric < best * (1 - threshold)``, in mode "max" ``metric > best * (1 +
      threshold)``; "abs": ``metric < best - threshold``, ``metric > best + threshold``. "rel" is
      meant for positive metrics: below 0, a slightly worse one counts as better.
    - A better metric becomes the best; any other is counted as bad, NaN too. During a cooldown
      the count is 0. More than ``patience`` bad ones in a row: the value becomes
      ``max(value * factor, min_lr)``, the count 0, and the cooldown begins.

    What was observed is in ``plateau.state``. It is saved in the ``state_dict`` of every optimizer
    that uses the schedule, in a copy, and ``load_state_dict`` brings it back *into the object
    that the optimizer was made with*, so that calls of `observe` on that object go on having an
    effect. To go on with other parameters, load first and then put
    ``dataclasses.replace(plateau, patience=20)`` into ``param_groups``. Within a function
    (``lr=lambda t: plateau(t)``) a plateau is not seen, and its state not saved.

    Two are equal if their parameters are, whatever they observed. A skipped step changes nothing.

    Examples
    --------
    >>> plateau = ReduceOnPlateau(0.5, factor=0.5, patience=1)
    >>> [plateau.observe(loss) for loss in (3.0, 2.0, 2.5, 2.4, 2.3)]
    [0.5, 0.5, 0.5, 0.25, 0.25]
    >>> plateau(1000), plateau.state.best
    (0.25, 2.0)
    """

    lr: float
    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    state: PlateauState = field(default=None, kw_only=True, compare=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self._check(
            lr=finite,
            mode=one_of("min", "max"),
            factor=fraction,
            patience=at_least(0),
            threshold=non_negative,
            threshold_mode=one_of("rel", "abs"),
            cooldown=at_least(0),
            min_lr=non_negative,
            eps=non_negative,
            state=self._checked_state,
        )
        if self.lr < self.min_lr:
            raise ValueError(
                f"ReduceOnPlateau: lr must be at least min_lr, got {self.lr!r} < {self.min_lr!r}"
            )
        if self.mode == "min" and self.threshold_mode == "rel" and self.threshold >= 1:
            raise ValueError(
                "ReduceOnPlateau: threshold must be less than 1 in the modes 'min' and 'rel', or "
                f"nothing is ever better; got {self.threshold!r}"
            )

    def _checked_state(self, name: str, value: Any) -> PlateauState:
        if value is None:
            return PlateauState(self.lr, None, 0, 0)
        parts = entries(name, value)
        if len(parts) != len(PlateauState._fields):
            raise ValueError(f"{name} must be {', '.join(PlateauState._fields)}; got {value!r}")
        lr, best, bad_epochs, cooldown_left = parts
        best = None if best is None else number(f"{name}: best", best)
        if best is not None and math.isnan(best):
            raise ValueError(f"{name}: best must be a number or None, got nan")
        return PlateauState(
            non_negative(f"{name}: lr", lr),
            best,
            at_least(0)(f"{name}: bad_epochs", bad_epochs),
            at_least(0)(f"{name}: cooldown_left", cooldown_left),
        )

    def _at(self, step: int) -> float:
        return self.state.lr

    def observe(self, metric: float) -> float:
        """Take note of a metric, and reduce the value if it is time.

        Parameters
        ----------
        metric : float
            Of the latest epoch, say the validation loss. NaN counts as bad.

        Returns
        -------
        float
            The value from now on.

        Raises
        ------
        TypeError
            If ``metric`` is no number. Nothing has changed.
        """
        current = number("metric", metric)
        lr, best, bad_epochs, cooldown_left = self.state
        if self._is_better(current, best):
            best, bad_epochs = current, 0
        else:
            bad_epochs += 1
        if cooldown_left > 0:
            cooldown_left, bad_epochs = cooldown_left - 1, 0
        if bad_epochs > self.patience:
            reduced = max(lr * self.factor, self.min_lr)
            lr = reduced if lr - reduced > self.eps else lr
            cooldown_left, bad_epochs = self.cooldown, 0
        # Set at once: a step of another thread sees the state before or after.
        self._set(state=PlateauState(lr, best, bad_epochs, cooldown_left))
        return lr

    def _is_better(self, metric: float, best: float | None) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        if best is None:
            best = sign * math.inf
        if self.threshold_mode == "rel":
            goal = best * (1.0 - sign * self.threshold)
        else:
            goal = best - sign * self.threshold
        return metric < goal if self.mode == "min" else metric > goal
