"""The range test: a few steps at rates from tiny to huge show which ones are worth trying."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from instep import _check
from instep._check import Array
from instep.optim import AdamW
from instep.optim.base import Optimizer
from instep.schedules._check import at_least, finite, positive

__all__ = ["LRRangeTest", "lr_range_test"]

Floats = npt.NDArray[np.float64]

FEWEST = 20  # steps
START = 1 / 10  # of the steps: their mean loss is the level at the start
WINDOW = 0.07  # of the steps, centred: seven of a hundred, half a decade of the default range
# Shares of the way from the start to the lowest smoothed loss. Of 48 sweeps on 8 works
# (benchmarks/verdict.py, seeds 0 to 5) the rate that got 70 % of the way was just right after full
# training in all, a tenth of the rate at the lowest loss in 47, the steepest rate in 36.
SUGGESTED = 0.7
USEFUL = 0.1
# Whatever stops the restoring of one array is tried again so often: a signal passes, an array that
# has become read-only does not.
TRIES = 3
# A descent of so many errors is no noise: of losses that are nothing else, two sweeps in a hundred
# come down that far somewhere.
VISIBLE = 3.5


@dataclass(frozen=True, eq=False)
class LRRangeTest:
    """What `lr_range_test` found.

    Attributes
    ----------
    lrs, losses : ndarray of float64
        The rate of each step that was taken, and the loss before its update.
    suggestion : float or None
        The rate to start with; None where the losses show no descent.
    low, high : float or None
        The range worth trying: from where the loss begins to fall to where it is lowest.
    reason : str
        Where the suggestion comes from, or why there is none.
    """

    lrs: Floats
    losses: Floats
    suggestion: float | None
    low: float | None
    high: float | None
    reason: str

    def __str__(self) -> str:
        if self.suggestion is None:
            return f"no suggestion: {self.reason}"
        return f"{self.suggestion:.2g} (of {self.low:.2g} to {self.high:.2g}): {self.reason}"

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses over the rates, with the suggestion; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from instep.plots import plot_range_test  # only a drawing needs matplotlib

        return plot_range_test(self, ax=ax)


def lr_range_test(
    loss_and_grad: Callable[[Any], tuple[Any, Any]],
    params: Any,
    optimizer: Callable[..., Optimizer] = AdamW,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    *,
    divergence: float = 4.0,
    progress: bool | None = None,
    **options: Any,
) -> LRRangeTest:
    """Find a learning rate by training a little while the rate grows from `min_lr` to `max_lr`.

    The parameters are as before afterwards, bit for bit, also when the test is interrupted or
    something in it raises. `loss_and_grad` must not put other arrays in their place.

    Parameters
    ----------
    loss_and_grad : callable
        ``loss_and_grad(params) -> (loss, grads)`` on the next batch; `params` is the object given
        here, `grads` is nested like it. Called once per step, with NumPy's warnings about
        overflow and invalid values off: the last rates are meant to diverge.
    params : tree of arrays, or list of groups
        As for the optimizer. A group must not have an ``"lr"`` of its own.
    optimizer : callable, default AdamW
        ``optimizer(params, lr=schedule, **options)``: a class, a `functools.partial` of one, or a
        function that returns an optimizer with this schedule.
    min_lr, max_lr : float, default 1e-7 and 10
        First and last rate.
    steps : int, default 100
        How many, at least 20; the rates between are evenly spaced in the logarithm.
    divergence : float, default 4.0
        Stop when the mean of the last 7 % of the losses exceeds the best such mean by
        ``divergence - 1`` times that mean or what was gained so far, whichever is more. More
        than 1.
    progress : bool, optional
        Show a progress bar, which needs tqdm. By default if tqdm is there and stderr is a
        terminal.
    **options
        For the optimizer: ``momentum=0.9``, ``clip_norm=1.0``.

    Returns
    -------
    LRRangeTest
        ``lrs, losses, suggestion, low, high, reason`` and ``.plot()``.

    Raises
    ------
    TypeError, ValueError
        A bad argument, before anything is written; what the optimizer refuses.
    ImportError
        If ``progress=True`` without tqdm.

    Notes
    -----
    Let the losses be smoothed by a centred mean over 7 % of the steps. The *suggestion* is the
    first rate at which they have fallen by 70 % of the way from their level at the start (the
    mean of the first tenth) to their minimum; *low* is where they have fallen by 10 %, *high* is
    the rate at the minimum. Smith reads these two off the curve; fastai suggests the steepest
    point, or a tenth of the rate at the minimum. Of 36 tests on real and generated data, followed
    by full training, the 70 % rule was right in 35, a tenth of the minimum's rate in 31, the
    steepest point, which depends on the noise, in 29 (``benchmarks/range_test.py``).

    The test ends at the first loss that is not finite and at a skipped step; where the loss still
    fell there, `reason` says so. Where the losses fall by less than their
    noise, or diverge before they fall, there is no suggestion, and ``reason`` says why.
    Batches, random states and running means of `loss_and_grad` are its own: they move on.

    References
    ----------
    Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186.
    Howard and Gugger, fastai: A Layered API for Deep Learning, arXiv:2002.04688.

    Examples
    --------
    >>> import numpy as np, instep
    >>> w = np.linspace(-1, 1, 50)
    >>> def loss_and_grad(w):
    ...     return np.mean((w - 2) ** 2), 2 * (w - 2) / w.size
    >>> found = instep.lr_range_test(loss_and_grad, w, instep.SGD, momentum=0.9, max_lr=1e3)
    >>> found.low < found.suggestion < found.high
    True
    >>> w[0], w[-1]  # as before
    (np.float64(-1.0), np.float64(1.0))
    """
    rates = _rates(min_lr, max_lr, steps)
    divergence = finite("divergence", divergence)
    if divergence <= 1:
        raise ValueError(f"divergence must be greater than 1, got {divergence!r}")
    if not callable(loss_and_grad):
        raise TypeError(
            f"loss_and_grad must be a function of params, got {type(loss_and_grad).__name__}"
        )
    if "lr" in options:
        raise TypeError("lr is what the test varies; give min_lr and max_lr instead")
    bar = _progress_bar(progress, len(rates))
    opt = _optimizer(optimizer, params, rates, options)
    arrays = [array for leaf in opt._leaves.all for array in (leaf.parameter, leaf.given)]
    with bar, _restored(arrays), np.errstate(all="ignore"):
        losses, end = _sweep(loss_and_grad, params, opt, rates, divergence, bar)
    return LRRangeTest(np.array(rates[: len(losses)]), losses, *_read(rates, losses, end))


# ---- arguments -------------------------------------------------------------------------------


def _rates(min_lr: object, max_lr: object, steps: object) -> list[float]:
    lowest, highest = positive("min_lr", min_lr), positive("max_lr", max_lr)
    if not lowest < highest:
        raise ValueError(f"max_lr must be above min_lr, got {highest!r} and {lowest!r}")
    rates: list[float] = np.geomspace(lowest, highest, at_least(FEWEST)("steps", steps)).tolist()
    return rates


def _optimizer(make: Any, params: Any, rates: list[float], options: dict[str, Any]) -> Optimizer:
    """The optimizer, whose every group must follow the rates and go downhill."""
    if not callable(make):
        raise TypeError(f"optimizer must be a class or a function, got {make!r:.60}")
    sweep = rates.__getitem__  # a schedule is any function of the step
    opt = make(params, lr=sweep, **options)
    if not isinstance(opt, Optimizer):
        raise TypeError(f"optimizer must return an instep optimizer, got {type(opt).__name__}")
    for k, group in enumerate(opt.param_groups):
        if group["lr"] is not sweep:
            raise ValueError(
                f"group {k} has a learning rate of its own, {group['lr']!r:.60}; leave it out, "
                "the test gives all groups the same"
            )
        if group["maximize"]:
            raise ValueError("maximize=True: the test needs a loss that is to fall; negate it")
    return opt


class _NoBar:
    """In place of a progress bar."""

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        pass


def _progress_bar(progress: bool | None, total: int) -> Any:
    if progress is not None:
        _check.flag("progress", progress)
    stderr = sys.stderr
    if progress is None and (stderr is None or not stderr.isatty()):
        return _NoBar()
    if progress is False:
        return _NoBar()
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        if progress is None:
            return _NoBar()
        raise ImportError(
            'progress=True needs tqdm; install it with: python -m pip install "instep[demo]"'
        ) from None
    return tqdm(total=total, desc="range test", unit="step", leave=False, disable=False)


# ---- the sweep -------------------------------------------------------------------------------


@contextmanager
def _restored(arrays: list[Array]) -> Iterator[None]:
    """Whatever happens within, the arrays have their bits again afterwards."""
    pending = [(array, np.array(array, copy=True)) for array in arrays]
    try:
        yield
    finally:
        try:
            _write_back(pending)
        finally:
            _write_back(pending)  # what a signal between two lines of the first time has left


def _write_back(pending: list[tuple[Array, Array]]) -> None:
    """Take array after array from the list, to the end, then raise the first error."""
    first: BaseException | None = None
    failed = 0
    while pending:
        try:
            while pending:
                array, before = pending[-1]
                array[...] = before
                pending.pop()
                failed = 0
        except BaseException as error:
            first, failed = first or error, failed + 1
            if failed == TRIES:
                pending.pop()
                failed = 0
    if first is not None:
        raise first


def _sweep(
    loss_and_grad: Callable[[Any], Any],
    params: Any,
    opt: Optimizer,
    rates: list[float],
    divergence: float,
    bar: Any,
) -> tuple[Floats, str]:
    """The losses until the last rate or until they diverge, that one included; why they end."""
    losses: list[float] = []
    stepped = _arrays_in(params, opt)
    width, best = _width(len(rates)), math.inf
    for _ in rates:
        loss, grads = _returned(loss_and_grad(params))
        _same_arrays(opt, params, stepped)
        losses.append(loss)
        if not math.isfinite(loss):
            return np.array(losses), f"the loss was {loss}"
        if len(losses) >= width:
            level = float(np.mean(losses[-width:]))
            best = min(best, level)
            gained = float(np.mean(losses[:width])) - best
            if level - best > (divergence - 1) * max(abs(best), gained):
                break
        if not opt.step(grads).applied:
            return np.array(losses), "gradients that were not finite were skipped"
        bar.update()
    return np.array(losses), ""


def _arrays_in(params: Any, opt: Optimizer) -> list[Any]:
    trees = [group["params"] for group in params] if opt._listed else params
    return opt._flatten_trees(trees, "params")


def _same_arrays(opt: Optimizer, params: Any, stepped: list[Any]) -> None:
    """`params` must still hold the arrays that are stepped, whatever their class."""
    for leaf, array, there in zip(opt._leaves.all, _arrays_in(params, opt), stepped, strict=True):
        if array is not there:
            raise ValueError(
                f"loss_and_grad has put another array in the place of {leaf.path}, which is what "
                "is stepped; leave it there"
            )


def _returned(result: object) -> tuple[float, Any]:
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            f"loss_and_grad must return (loss, grads), got {type(result).__name__} ({result!r:.60})"
        )
    loss, grads = result
    if isinstance(loss, np.ndarray) and loss.ndim == 0:
        loss = loss[()]
    if isinstance(loss, bool | np.bool_) or not isinstance(loss, float | int | np.number):
        raise TypeError(f"loss_and_grad must return a number as loss, got {loss!r:.60}")
    if isinstance(loss, complex | np.complexfloating):
        raise TypeError(f"loss_and_grad must return a real number as loss, got {loss!r:.60}")
    try:
        return float(loss), grads
    except OverflowError:
        raise ValueError("loss_and_grad returned an int beyond float64; return a float") from None


def _width(steps: int) -> int:
    """Of the smoothing window: odd, so that it has a centre."""
    return 2 * max(1, round(WINDOW * steps / 2 - 0.5)) + 1


# ---- reading the curve -----------------------------------------------------------------------

Read = tuple[float | None, float | None, float | None, str]  # suggestion, low, high, reason


def _smooth(losses: Floats, width: int) -> Floats:
    """Centred means; at the ends of what there is."""
    ones = np.ones(min(width, len(losses)))
    return np.convolve(losses, ones, "same") / np.convolve(np.ones_like(losses), ones, "same")


def _read(rates: list[float], losses: Floats, end: str) -> Read:
    steps, width = len(rates), _width(len(rates))
    finite = losses[np.isfinite(losses)]
    opening = max(3, int(steps * START))
    if len(finite) <= opening + width:
        ended = f"diverged after {len(losses)} of {steps} steps, at {rates[len(losses) - 1]:.2g}"
        return None, None, None, f"the loss {ended}, before it fell; lower min_lr"
    # Beyond twice the first level only the fact counts, and huge losses would spread in the means.
    start = float(finite[:opening].mean())
    smoothed = _smooth(np.minimum(finite, start + 2 * abs(start)), width)
    lowest = int(smoothed[opening:].argmin()) + opening
    descent = start - float(smoothed[lowest])
    noise = math.sqrt(np.square(np.diff(finite[: lowest + 1])).mean() / 2)
    if start - finite[0] > max(2 * abs(finite[0]), noise):
        rose = f"rose from {finite[0]:.3g} to {start:.3g} within the first {opening} steps"
        return None, None, None, f"the loss {rose}; lower min_lr"
    if descent <= VISIBLE * noise * math.sqrt(1 / opening + 1 / width):
        seen = f"from {start:.3g} the loss comes down to {start - descent:.3g} at best"
        return None, None, None, f"{seen}, which is within its noise: no rate brought a descent"
    fallen = start - smoothed[: lowest + 1]
    # The last time it passes there: before, noise may have taken it across.
    low, suggestion = (
        rates[int(np.flatnonzero(fallen < share * descent)[-1]) + 1]
        for share in (USEFUL, SUGGESTED)
    )
    way = f"{SUGGESTED:.0%} of the way from {start:.3g} to {start - descent:.3g}"
    reason = f"at this rate the smoothed loss was {way}, which it reached at {rates[lowest]:.2g}"
    if end and lowest >= len(finite) - width:
        reason += f"; it still fell at {rates[len(losses) - 1]:.2g}, where the test ended because "
        reason += f"{end}: if that was one bad batch, test again"
    elif lowest >= steps - width:
        reason += "; it still fell at the last rate: raise max_lr"
    return suggestion, low, rates[lowest], reason
