"""Pictures of schedules, range tests and training runs. Needs matplotlib: the extra "plots".

Each function draws into the axes that it is given, or into a new figure's, and returns the axes.
None shows a window, saves a file or changes a setting of matplotlib: call
``matplotlib.pyplot.show`` or ``ax.figure.savefig`` yourself.
"""

from __future__ import annotations

import importlib
import math
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from instep._plot_data import Curve, curve, drawn_steps, named, returned_by, run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_range_test", "plot_schedule_panels", "plot_schedules", "plot_training"]

MISSING = 'matplotlib is missing; install it with: python -m pip install "instep[plots]"'

# Okabe and Ito's colours, which people who see red and green alike can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_VERDICT_COLOURS = {"too_high": "#D55E00", "too_low": "#0072B2", "just_right": "#009E73"}


def plot_schedules(schedules: Any, steps: int, ax: Axes | None = None) -> Axes:
    """Draw schedules over the steps of a run, in one picture.

    Parameters
    ----------
    schedules : Schedule, sequence or mapping of Schedule
        One schedule or several; the keys of a mapping are the labels, otherwise the class names
        are. Any callable of the 0-based step will do.
    steps : int
        How many steps to draw, from 1 to 2**53; of a long run 2000 of them, with both ends.
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
        Something that is not a schedule, none at all, a value that is not a finite number, or
        steps out of range. Nothing is drawn.

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
    shown = named(schedules)
    at = drawn_steps(steps)
    curves = {label: curve(label, schedule, at) for label, schedule in shown.items()}
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
    shown = named(schedules)
    at = drawn_steps(steps)
    curves = [curve(label, schedule, at) for label, schedule in shown.items()]
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    if figure is None:
        size = (2.4 * columns + 0.6, 1.6 * rows + 0.8)
        figure = _pyplot().figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = list(grid.ravel())
    for panel in panels[len(shown) :]:
        panel.remove()
    panels = panels[: len(shown)]
    for number, (panel, (label, schedule)) in enumerate(zip(panels, shown.items(), strict=True)):
        plot_schedules({label: schedule}, steps, panel)
        panel.set_title(label, fontsize="medium")
        below_is_empty = number + columns >= len(shown)
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
    TypeError
        Something that is not a range test.
    ValueError
        Rates and losses of different lengths, a rate that is not finite, or no finite loss.

    References
    ----------
    Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186.
    """
    returned_by("lr_range_test", "result", result, "losses", "lrs", "suggestion", "low", "high")
    lrs, losses = run(result.losses, result.lrs)
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
    TypeError
        Something that is not a number, or not a diagnosis.
    ValueError
        Losses and rates of different lengths, a rate that is not finite, or no finite loss.
    """
    if diagnosis is not None:
        returned_by("diagnose", "diagnosis", diagnosis, "verdict", "reason")
    rates, values = run(losses, lrs)
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


# ---- how it is drawn -----------------------------------------------------------------------------


def load(module: str) -> Any:
    """A module of matplotlib, or an ImportError that says what is wrong with it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == "matplotlib":
            raise ImportError(MISSING, name="matplotlib") from None
        broken: Exception = error
    except Exception as error:  # of any kind: a bad MPLBACKEND is a ValueError
        broken = error
    raise ImportError(f"matplotlib cannot be imported: {broken}", name="matplotlib") from broken


def _pyplot() -> Any:
    return load("matplotlib.pyplot")


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
    values = np.concatenate(list(curves))
    values = values[np.isfinite(values)]  # those of others' lines may not be
    if values.min() >= 0 and values.max() > 0:
        ax.set_ylim(0, 1.05 * float(values.max()))
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
