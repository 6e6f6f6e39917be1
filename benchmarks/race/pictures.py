"""The results drawn: how far ahead of the best peer, how close to the limit, how cost grows."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.contenders import CEILING, OURS
from benchmarks.harness import Race
from benchmarks.race.marks import Races, fastest
from benchmarks.race.page import TITLES
from benchmarks.race.record import task_of

_DRAWN = "adamw"  # the optimizer of the curves
_OURS_STYLE = {"color": "C3", "linewidth": 2.5, "zorder": 3}


def draw(races: Races, stem: Path) -> list[Path]:
    """Write the pictures that these races have data for; where they are."""
    made = []
    for suffix, drawn in (("", _bars), ("-roofline", _roofline), ("-growth", _growth)):
        figure = drawn(races)
        if figure is not None:
            made.append(stem.with_name(f"{stem.name}{suffix}.png"))
            figure.savefig(made[-1], dpi=110)
            plt.close(figure)
    return made


def _bars(races: Races) -> Any:
    """The fastest peer's time over instep's, a bar for each work."""
    bars: list[tuple[str, float, str]] = []
    for name, found in races.items():
        for race in found:
            best = fastest(race)
            if race.ours is not None and best is not None:
                ratio = best.ratio(race.ours)
                label = f"{race.kind}  {race.work}  {race.threads} thr.  ({best.name})"
                bars.append((label, ratio, name))
    if not bars:
        return None
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.19 * len(bars)), layout="constrained")
    names = list(races)
    for at, (_, ratio, name) in enumerate(bars):
        # From 1 on, to the right where instep is ahead.
        axes.barh(at, ratio - 1, left=1, color=f"C{names.index(name)}")
        axes.annotate(f"{ratio:.2f}", (max(ratio, 1), at), (3, 0), textcoords="offset points",
                      va="center", fontsize=7)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=7)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(
        "time of the fastest peer (in brackets) over instep's; right of 1: instep ahead"
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=f"C{k}") for k in range(len(names))]
    axes.legend(handles, [TITLES[name] for name in names], loc="lower right", fontsize=7)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _lone(races: Races, threads: int) -> list[Race]:
    """Steps of one array, by its size."""
    found = [r for r in races.get("steps", []) if r.kind == _DRAWN and r.threads == threads]
    lone = [race for race in found if task_of(race.task).arrays == 1]
    return sorted(lone, key=lambda race: race.task.elements)


def _names(races: list[Race]) -> list[str]:
    return list(dict.fromkeys(r.name for race in races for r in race.results if r.seconds))


def _curves(axes: Any, races: list[Race], x: Any, y: Any, names: list[str]) -> None:
    for number, name in enumerate(names):
        points = [(x(race), y(race, race.result(name))) for race in races if race.result(name)]
        style: dict[str, Any] = {"color": f"C{number % 10}", "linewidth": 1}
        if name == OURS:
            style = _OURS_STYLE
        elif name == CEILING:
            style = {"color": "black", "linestyle": "--"}
        axes.plot(*zip(*points, strict=True), marker=".", label=name, **style)


def _roofline(races: Races) -> Any:
    """Useful bytes a second against the size of the arrays: what is done for each byte is the same
    at every size, so it is the level of the caches that sets the limit."""
    panels = {n: found for n in (1, 2) if len(found := _lone(races, n)) > 1}
    if not panels:
        return None
    figure, grid = plt.subplots(
        1, len(panels), figsize=(6.5 * len(panels), 5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, (threads, found) in zip(grid[0], panels.items(), strict=True):
        enough = [race for race in found if race.task.elements >= 1024]
        _curves(
            axes,
            enough or found,
            lambda race: race.task.elements,
            lambda race, result: race.task.traffic / result.median() / 1e9,
            _names(found),
        )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(f"AdamW, float32, {threads} thread{'s' if threads > 1 else ''}")
        axes.set_xlabel("elements of the array (28 bytes move for each)")
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("GB/s of useful bytes")
    grid[0][-1].legend(fontsize=8)
    return figure


def _growth(races: Races) -> Any:
    """Time against the size of one array, and against the number of arrays of 100."""
    sized = max((_lone(races, n) for n in (2, 1)), key=len)
    counted = [
        race
        for race in races.get("steps", [])
        if race.kind == _DRAWN
        and race.threads == 1
        and race.task.elements == 100 * task_of(race.task).arrays
    ]
    counted.sort(key=lambda race: task_of(race.task).arrays)
    if len(sized) < 2 and len(counted) < 2:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for axes, found, x, label in (
        (left, sized, lambda race: race.task.elements, "elements of one array"),
        (right, counted, lambda race: task_of(race.task).arrays, "arrays of 100 elements"),
    ):
        if found:
            names = [name for name in _names(found) if name != CEILING]
            _curves(axes, found, x, lambda _, result: 1e6 * result.median(), names)
            axes.set_title(f"AdamW, float32, {found[0].threads} thread(s)")
            axes.legend(fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("microseconds a step")
        axes.grid(alpha=0.3)
    return figure
