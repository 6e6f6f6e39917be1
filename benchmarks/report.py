"""What is printed: the header that says where the numbers come from, the table, the overhead."""

import datetime
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path

import numpy as np

import instep
from benchmarks.contenders import CEILING, OURS, PACKAGES
from benchmarks.harness import Race, Result, usable_cpus
from benchmarks.works import OPTIMIZERS, WORKS

# Under this many elements a call costs more than the memory, and the ceiling says nothing.
_LEAST_FOR_CEILING = 4096
_COLUMNS = ("us/step", "ns/element", "GB/s", "ratio", "(quartiles)", "of roofline")
TABLE_HEAD = f"{'optimizer':<13}{'work':>9}{'threads':>8}  {'contender':<15}" + (
    "{:>11}{:>12}{:>8}{:>8}  {:<13}{:>12}".format(*_COLUMNS)
)


def _first_line(path: str, start: str = "") -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    found = next((line for line in lines if line.startswith(start)), "unknown")
    return found.partition(":")[2].strip() or found


def _version(package: str) -> str:
    if package == "instep":
        return instep.__version__  # also of a checkout that is not installed
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def header(notes: dict[str, str], rounds: int, batch: float) -> str:
    """The machine, the versions, the method."""
    model = _first_line("/proc/cpuinfo", "model name")
    now = datetime.datetime.now(datetime.UTC)
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    lines = [
        f"date      {now:%Y-%m-%d %H:%M} UTC, load average {load} before the start",
        f"machine   {model}, {platform.machine()}, {len(usable_cpus())} usable CPUs of "
        f"{os.cpu_count()}, {platform.system()} {platform.release()}",
        f"pages     {_first_line('/sys/kernel/mm/transparent_hugepage/enabled')}",
        f"isa       {instep.isa()}",
        f"versions  Python {platform.python_version()}, {versions}",
        *(f"          {name}: {note}" for name, note in notes.items()),
        f"method    float32; median of {rounds} interleaved rounds of {1e3 * batch:g} ms; every "
        "contender verified before",
        "          ratio: time over instep's in the same round, above 1 means instep is faster",
    ]
    return "\n".join(lines)


def _row(race: Race, result: Result) -> str:
    work, seconds = WORKS[race.work], result.median()
    traffic = work.elements * OPTIMIZERS[race.optimizer].bytes_per_element
    cells = [f"{1e6 * seconds:.2f}", f"{1e9 * seconds / work.elements:.3f}"]
    cells.append(f"{traffic / seconds / 1e9:.1f}")
    ratio, spread, share = "-", "", "-"
    if race.ours is not None:
        ratios = result.ratios(race.ours)
        ratio = f"{statistics.median(ratios):.2f}"
        if result.name != OURS:
            low, high = np.quantile(ratios, [0.25, 0.75])
            spread = f"({low:.2f}-{high:.2f})"
    if race.ceiling is not None and work.elements >= _LEAST_FOR_CEILING:
        shares = race.ceiling.ratios(result)
        share = f"{100 * statistics.median(shares):.0f} %"
    return "{:>11}{:>12}{:>8}{:>8}  {:<13}{:>12}".format(*cells, ratio, spread, share)


def table_rows(race: Race) -> str:
    """One line for each contender, also for those without times."""
    lines = []
    place = f"{race.optimizer:<13}{race.work:>9}{race.threads:>8}  "
    for result in race.results:
        text = f"  {result.trouble}" if result.trouble else _row(race, result)
        lines.append(f"{place}{result.name:<15}{text}")
    return "\n".join(lines)


def overhead(races: list[Race]) -> str:
    """What a step costs that has next to nothing to compute."""
    parts = [
        f"{race.optimizer} {1e9 * race.ours.median():.0f} ns"
        for race in races
        if race.work == "10" and race.ours is not None
    ]
    if not parts:
        return ""
    return "fixed overhead of instep: step() on one array of 10 elements: " + ", ".join(parts)


def quietness(races: list[Race]) -> str:
    """How much of its CPU a contender on one thread got: 100 % where nothing else was running."""
    shares = [share for race in races if race.threads == 1 for r in race.results for share in r.cpu]
    if not shares:
        return ""
    share = statistics.fmean(shares)
    text = f"contenders on one thread had {100 * share:.1f} % of their CPU"
    return text if share > 0.98 else f"{text}: the machine was busy, run it again"


def verdicts(races: list[Race]) -> str:
    """Per work: instep against the fastest peer, and against the ceiling."""
    lines = []
    for race in races:
        peers = [r for r in race.results if r.seconds and r.name not in (OURS, CEILING)]
        if race.ours is None or not peers:
            continue
        fastest = min(peers, key=Result.median)
        ratio = statistics.median(fastest.ratios(race.ours))
        place = f"{race.optimizer:<13}{race.work:>9}{race.threads:>8}  "
        lines.append(f"{place}{fastest.name:<15}{ratio:>8.2f}")
    return "\n".join(["fastest peer of each work, and its ratio:", *lines]) if lines else ""
