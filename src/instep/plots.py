"""Pictures of schedules, range tests and training runs. Needs matplotlib: the extra "plots".

Each function draws into the axes that it is given, or into a new figure's, and returns the axes.
None shows a window, saves a file or changes a setting of matplotlib: call
``matplotlib.pyplot.show`` or ``ax.figure.savefig`` yourself.
"""

from __future__ import annotations

import math
import numbers
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_range_test", "plot_schedule_panels", "plot_schedules", "plot_training"]

MISSING = 'matplotlib is missing; install it with: python -m pip install "instep[plots]"'

Curve = npt.NDArray[np.float64]

# Okabe and Ito's colours, which people who see red and green alike can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_VERDICT_COLOURS = {"too_high": "#D55E00", "too_low": "#0072B2", "just_right": "#009E73"}
_LARGEST = (
    1e100  # losses beyond are drawn there: axes of matplotlib overflow near the end of float64
)
_MOST_POINTS = 2000  # of a schedule; more cannot be told apart in a picture


def plot_schedules(schedules: Any, steps: int, ax: Axes | None = None) -> Axes:
    """Draw schedules over the steps of a run, in one picture.

    Parameters
    ----------
    schedules : Schedule, sequence or mapping of Schedule
        One schedule or several; the keys of a mapping are the labels, otherwise the class names
        are. Any callable of the 0-based step will do.
    steps : int
        How many steps to draw, at least 1.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        The step on the horizontal axis, the value on the vertical one, which starts at 0 where no
        value is negative.

    Raises
    ------
    ImportError
        matplotlib is missing; the message says how to install it.
    TypeError, ValueError
        Something that is not a schedule, none at all, or steps below 1. Nothing is drawn.

    See Also
    --------
    plot_schedule_panels : Each in a panel of its own.

    Examples
    --------
    >>> import instep
    >>> s = instep.schedules
    >>> instep.plots.plot_schedules(
    ...     {"cosine": s.CosineAnnealing(0.1, 90), "with a warm-up": s.Warmup(0.1, 10)}, steps=100
    ... )  # doctest: +SKIP
    <Axes: xlabel='step', ylabel='value'>
    """
    named = _named(schedules)
    at = _steps(steps)
    curves = {label: _curve(label, schedule, at) for label, schedule in named.items()}
    ax = _axes(ax)
    for number, (label, values) in enumerate(curves.items()):
        ax.plot(
            at,
            values,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_STYLES[number % len(_STYLES)],
            linewidth=1.8,
            label=label,
        )
    _from_zero(ax, [np.asarray(line.get_ydata(), np.float64) for line in ax.get_lines()])
    ax.set_xlim(left=0)
    ax.set_xlabel("step")
    ax.set_ylabel("value")
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize="small")
    _plain(ax)
    return ax


def plot_schedule_panels(schedules: Any, steps: int, figure: Figure | None = None) -> list[Axes]:
    """Draw schedules side by side, each in a panel of its own over the same steps.

    Parameters
    ----------
    schedules, steps
        As in `plot_schedules`.
    figure : matplotlib.figure.Figure, optional
        Where to draw; a new figure if None.

    Returns
    -------
    list of matplotlib.axes.Axes
        One per schedule, in order, its title the label; all share both axes.

    Raises
    ------
    ImportError, TypeError, ValueError
        As in `plot_schedules`.
    """
    named = _named(schedules)
    at = _steps(steps)
    curves = [_curve(label, schedule, at) for label, schedule in named.items()]
    columns = min(len(named), 4)
    rows = math.ceil(len(named) / columns)
    if figure is None:
        size = (2.4 * columns + 0.6, 1.6 * rows + 0.8)
        figure = _pyplot().figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = list(grid.ravel())
    for panel in panels[len(named) :]:
        panel.remove()
    panels = panels[: len(named)]
    for number, (panel, (label, schedule)) in enumerate(zip(panels, named.items(), strict=True)):
        plot_schedules({label: schedule}, steps, panel)
        panel.set_title(label, fontsize="medium")
        below_is_empty = number + columns >= len(named)
        panel.set_xlabel("step" if below_is_empty else "")
        panel.tick_params(labelbottom=below_is_empty)
        panel.set_ylabel("value" if number % columns == 0 else "")
    _from_zero(panels[0], curves)
    return panels


def plot_range_test(result: Any, ax: Axes | None = None) -> Axes:
    """Draw a range test: the loss at each rate, the suggestion and the range worth trying.

    Parameters
    ----------
    result : instep.LRRangeTest
        What `instep.lr_range_test` returned. Without a suggestion the losses alone are drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        The rate on a logarithmic axis and the loss, cut off a little above where it began, so that
        the divergence at the end does not hide the fall before it.

    Raises
    ------
    ImportError
        matplotlib is missing; the message says how to install it.
    ValueError
        Rates and losses of different lengths, or no finite loss.

    References
    ----------
    Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186.
    """
    lrs, losses = _losses(result.losses, result.lrs)
    assert lrs is not None
    ax = _axes(ax)
    ax.plot(lrs, losses, color="0.3", linewidth=1.5, label="loss")
    ax.set_xscale("log")
    if result.low is not None and result.high is not None:
        label = f"worth trying: {result.low:.2g} to {result.high:.2g}"
        ax.axvspan(result.low, result.high, color="#009E73", alpha=0.15, linewidth=0, label=label)
    if result.suggestion is not None:
        label = f"suggestion: {result.suggestion:.2g}"
        ax.axvline(result.suggestion, color="#D55E00", linestyle="--", linewidth=1.8, label=label)
    _cut_off(ax, losses)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    ax.legend(frameon=False, fontsize="small", loc="lower left")
    _plain(ax)
    return ax


def plot_training(
    losses: Any, lrs: Any = None, diagnosis: Any = None, ax: Axes | None = None
) -> Axes:
    """Draw the losses of a run, and the verdict on its learning rate.

    Parameters
    ----------
    losses : sequence of float
        One per step. Where they are all positive and span more than a factor of 10, the axis is
        logarithmic.
    lrs : float or sequence of float, optional
        The rate of each step, or the one of all, drawn on an axis at the right.
    diagnosis : instep.Diagnosis, optional
        What `instep.diagnose` says; its verdict and reason are the title, and the verdict colours
        the curve.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        Each loss in grey and their running mean in colour. The first loss that is NaN or infinite
        is marked.

    Raises
    ------
    ImportError
        matplotlib is missing; the message says how to install it.
    ValueError
        Losses and rates of different lengths, or no finite loss.
    """
    rates, values = _losses(losses, lrs)
    ax = _axes(ax)
    steps = np.arange(len(values))
    verdict = None if diagnosis is None else str(diagnosis.verdict)
    colour = _VERDICT_COLOURS.get(verdict or "", _COLOURS[0])
    window = max(1, len(values) // 50)
    if window > 1:
        ax.plot(steps, values, color="0.8", linewidth=0.8, label="each step")
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
        ax.plot(steps[window - 1 :], mean, color=colour, linewidth=1.8, label=f"mean of {window}")
    else:
        ax.plot(steps, values, color=colour, linewidth=1.8, label="loss")
    finite = values[np.isfinite(values)]
    if len(finite) < len(values):
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        ax.axvline(first, color="#D55E00", linestyle=":", label=f"not finite at step {first}")
    if finite.min() > 0 and finite.max() > 10 * finite.min():
        ax.set_yscale("log")
        if finite.max() > 1e4 * finite[0]:  # the way to infinity would hide all else
            ax.set_ylim(top=1e4 * finite[0])
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    _plain(ax)
    lines = list(ax.get_lines())
    if rates is not None:
        lines += _draw_rates(ax, steps, rates)
    ax.legend(handles=lines, frameon=False, fontsize="small")
    if verdict is not None:
        _title(ax, verdict.replace("_", " "), str(diagnosis.reason), colour)
    return ax


# ---- what is drawn -------------------------------------------------------------------------------


def _named(schedules: Any) -> dict[str, Any]:
    """The schedules with their labels."""
    if isinstance(schedules, Mapping):
        named = {str(label): schedule for label, schedule in schedules.items()}
    else:
        several = list(schedules) if isinstance(schedules, Sequence) else [schedules]
        named = {}
        for number, schedule in enumerate(several):
            name = type(schedule).__name__
            named[name if name not in named else f"{name} {number}"] = schedule
    if not named:
        raise ValueError("schedules must be at least one, got none")
    for label, schedule in named.items():
        if not callable(schedule):
            raise TypeError(
                f"schedules[{label!r}] must be a schedule or another function of the step, "
                f"got {schedule!r}"
            )
    return named


def _steps(steps: Any) -> npt.NDArray[np.int64]:
    """The steps to draw: all, or as many as can be seen, with both ends."""
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral):
        raise TypeError(f"steps must be an int, got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    if steps <= _MOST_POINTS:
        return np.arange(int(steps))
    return np.linspace(0, int(steps) - 1, _MOST_POINTS).astype(np.int64)


def _curve(label: str, schedule: Any, at: npt.NDArray[np.int64]) -> Curve:
    values = [schedule(step) for step in at.tolist()]
    for step, value in zip(at.tolist(), values, strict=True):
        if not isinstance(value, numbers.Real):
            raise TypeError(
                f"schedules[{label!r}] must return a number, got {value!r} at step {step}"
            )
    return np.array(values, np.float64)


def _losses(losses: Any, lrs: Any) -> tuple[Curve | None, Curve]:
    """Rates, if there are any, and losses."""
    values = _vector("losses", losses)
    values = np.where(np.isinf(values), values, np.clip(values, -_LARGEST, _LARGEST))
    if not np.isfinite(values).any():
        raise ValueError(f"losses must have a finite one to draw, got {values[:4].tolist()}")
    if lrs is None:
        return None, values
    rates = np.full(len(values), lrs) if isinstance(lrs, numbers.Real) else _vector("lrs", lrs)
    if len(rates) != len(values):
        raise ValueError(f"lrs and losses must be equally many, got {len(rates)} and {len(values)}")
    return rates, values


def _vector(name: str, values: Any) -> Curve:
    try:
        vector = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a sequence of numbers: {error}") from None
    if vector.ndim != 1:
        raise ValueError(f"{name} must be a flat sequence, got shape {vector.shape}")
    return vector


# ---- how it is drawn -----------------------------------------------------------------------------


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as pyplot
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ImportError(MISSING, name="matplotlib") from None
    return pyplot


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        new: Axes = _pyplot().subplots(figsize=(7, 4), layout="constrained")[1]
        return new
    return ax


def _plain(ax: Axes) -> None:
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def _from_zero(ax: Axes, curves: Iterable[Curve]) -> None:
    """Begin the vertical axis at 0, unless something is below."""
    lowest = min(float(np.nanmin(curve)) for curve in curves)
    highest = max(float(np.nanmax(curve)) for curve in curves)
    if lowest >= 0 and highest > 0:
        ax.set_ylim(0, 1.05 * highest)
    else:
        ax.autoscale(axis="y")


def _cut_off(ax: Axes, losses: Curve) -> None:
    """Show the losses up to a little above the first ones."""
    finite = losses[np.isfinite(losses)]
    first, lowest = float(np.median(finite[:5])), float(finite.min())
    fall = max(first - lowest, 0.1 * abs(first))
    if fall > 0:
        top = min(float(finite.max()), first + 0.5 * fall)
        ax.set_ylim(lowest - 0.08 * fall, top + 0.08 * fall)


def _draw_rates(ax: Axes, steps: npt.NDArray[np.int64], rates: Curve) -> list[Any]:
    """The rates on an axis of their own, behind the losses."""
    right = ax.twinx()
    lines: list[Any] = right.plot(
        steps, rates, color="0.5", linestyle="--", linewidth=1.2, label="learning rate"
    )
    right.set_ylabel("learning rate")
    right.spines[["top", "left"]].set_visible(False)
    _from_zero(right, [rates])
    ax.set_zorder(right.get_zorder() + 1)
    ax.patch.set_visible(False)
    return lines


def _title(ax: Axes, verdict: str, reason: str, colour: str) -> None:
    """The verdict, and below it the reason in lines that fit above the axes."""
    inches = ax.get_window_extent().width / ax.figure.dpi
    lines = textwrap.wrap(reason, max(20, int(14.5 * inches)))
    ax.set_title("\n".join([verdict, *lines]), loc="left", fontsize="medium", color=colour)
