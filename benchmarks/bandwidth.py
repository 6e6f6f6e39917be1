"""What becomes of a step's speed as memory bandwidth per core falls: a model, fitted and drawn.

A step of one kind takes, on each of its cores and for each element, the time c of its arithmetic
and the time b / B of its b bytes through the core's share B of the memory's bandwidth. The two
overlap, but not wholly:

    t = (c^q + (b / B)^q)^(1 / q)

q = 1 is none of it, q = infinity all. c is measured with arrays in a cache, on as many threads
(CPUs that share a core have a larger one), B is the roofline's on the same arrays, and q, one for
all kinds and thread counts, is fitted to what large arrays took.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import Race

_CACHE, _MEMORY = "64K", "64M"
_BASE = "float32 states"
_BANDWIDTHS = (20.0, 10.0, 5.0, 2.5)  # GB/s per core that the table shows


@dataclass(frozen=True)
class Point:
    """A measurement on large arrays."""

    kind: str
    threads: int
    bandwidth: float  # GB/s per core
    seconds: float  # per element and core, in ns


@dataclass(frozen=True)
class Model:
    compute: dict[tuple[str, int], float]  # ns per element and core, by kind and threads
    traffic: dict[str, float]  # bytes per element
    overlap: float  # q
    points: tuple[Point, ...]

    @property
    def threads(self) -> int:
        """The most that were measured."""
        return max(threads for _, threads in self.compute)

    @property
    def smaller(self) -> list[str]:
        """The kinds with smaller states."""
        return [kind for kind in self.traffic if kind != _BASE and kind.endswith("states")]

    def time(self, kind: str, threads: int, bandwidth: float) -> float:
        """ns per element and core at so many GB/s per core."""
        return _time(self.compute[kind, threads], self.traffic[kind] / bandwidth, self.overlap)

    def speed_up(self, kind: str, bandwidth: float) -> float:
        """Over float32 states, on the most threads."""
        base, own = (self.time(k, self.threads, bandwidth) for k in (_BASE, kind))
        return base / own


def _time(compute: float, memory: float, overlap: float) -> float:
    return math.exp(np.logaddexp(overlap * math.log(compute), overlap * math.log(memory)) / overlap)


def fit(races: list[Race]) -> Model | None:
    """From races in the cache and in memory; None where some are missing."""
    compute: dict[tuple[str, int], float] = {}
    traffic: dict[str, float] = {}
    points = []
    for race in races:
        if race.ours is None or race.ceiling is None:
            continue
        seconds = 1e9 * race.ours.median() * race.threads / race.task.elements
        if race.work == _CACHE:
            compute[race.kind, race.threads] = seconds
            traffic[race.kind] = race.task.traffic / race.task.elements
        if race.work == _MEMORY:
            bandwidth = race.task.traffic / race.ceiling.median() / 1e9 / race.threads
            points.append(Point(race.kind, race.threads, bandwidth, seconds))
    points = [point for point in points if (point.kind, point.threads) in compute]
    if (_BASE, max((p.threads for p in points), default=0)) not in compute or len(points) < 2:
        return None
    compute = {(p.kind, p.threads): compute[p.kind, p.threads] for p in points}

    def error(overlap: float) -> float:
        return sum(
            math.log(
                _time(compute[p.kind, p.threads], traffic[p.kind] / p.bandwidth, overlap)
                / p.seconds
            )
            ** 2
            for p in points
        )

    candidates = np.geomspace(1, 30, 200)
    overlap = float(min(candidates, key=error))
    return Model(compute, traffic, overlap, tuple(points))


def text(model: Model | None) -> str:
    """The fit beside the measurements, and what follows from it."""
    if model is None:
        return ""
    lines = [
        "model     ns per element and core = (c^q + (b / B)^q)^(1 / q): c in the cache, b bytes, "
        f"B GB/s per core; q = {model.overlap:.2f} fitted",
        "{:<24}{:>8}{:>9}{:>7}{:>10}{:>8}".format("step", "c", "threads", "B", "measured", "model"),
    ]
    for point in model.points:
        fitted = model.time(point.kind, point.threads, point.bandwidth)
        lines.append(
            f"{point.kind:<24}{model.compute[point.kind, point.threads]:>8.3f}{point.threads:>9}"
            f"{point.bandwidth:>7.1f}{point.seconds:>10.3f}{fitted:>8.3f}"
        )
    head = "".join(f"{f'B = {b:g}':>10}" for b in _BANDWIDTHS)
    title = f"speed-up over float32 states, {model.threads} threads"
    lines.append(f"{title:<40}{head}{'  B -> 0':>10}")
    for kind in model.smaller:
        cells = "".join(f"{model.speed_up(kind, b):>10.2f}" for b in _BANDWIDTHS)
        limit = model.traffic[_BASE] / model.traffic[kind]
        lines.append(f"{kind:<40}{cells}{limit:>10.2f}")
    return "\n".join(lines)


def draw(model: Model, path: str) -> None:
    """Speed-up over float32 states against bandwidth per core, with this machine's points."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    grid = np.geomspace(0.5, 60, 200)
    base = {p.threads: p.seconds for p in model.points if p.kind == _BASE}
    for kind in model.smaller:
        (line,) = axes.plot(grid, [model.speed_up(kind, b) for b in grid], label=kind)
        mine = [p for p in model.points if p.kind == kind and p.threads in base]
        axes.plot(
            [p.bandwidth for p in mine],
            [base[p.threads] / p.seconds for p in mine],
            "o",
            color=line.get_color(),
        )
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("memory bandwidth per core, GB/s")
    axes.set_ylabel("speed-up of an AdamW step\nover float32 states")
    axes.set_title(
        "Smaller states pay where many cores share the memory\n"
        f"(lines: model, {model.threads} threads; dots: measured, 64M parameters)",
        fontsize=10,
    )
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
