"""What is printed: the header that says where the numbers come from, and the table."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import instep
from benchmarks.contenders import OURS
from benchmarks.harness import Race, Result, usable_cpus

# Under this many elements a call costs more than the memory, and the ceiling says nothing.
_LEAST_FOR_CEILING = 4096
_CELLS = "{:>11}{:>12}{:>8}{:>8}  {:<13}{:>12}"


def machine(packages: Iterable[str]) -> dict[str, str]:
    """Where and when numbers come from, with the versions of these packages."""
    model = _first_line("/proc/cpuinfo", "model name")
    now = datetime.datetime.now(datetime.UTC)
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return {
        "date": f"{now:%Y-%m-%d %H:%M} UTC, load average {load} before the start",
        "machine": f"{model}, {platform.machine()}, {len(usable_cpus())} usable CPUs of "
        f"{os.cpu_count()}, {platform.system()} {platform.release()}",
        "pages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "isa": os.environ.get("INSTEP_ISA") or instep.isa(),
        "versions": f"Python {platform.python_version()}, {versions}",
    }


class Table:
    """One table of times; its lines begin with the kind of task (an optimizer, a loss)."""

    def __init__(
        self, kind: str, tasks: Iterable[tuple[str, str]], packages: tuple[str, ...]
    ) -> None:
        kinds, works = zip(*tasks, strict=True)
        self.kind = kind
        self.packages = packages
        self.kind_width = max(map(len, (kind, *kinds))) + 1
        self.work_width = max(map(len, ("work", *works))) + 1

    def header(self, notes: dict[str, str], rounds: int, batch: float) -> str:
        """The machine, the versions, the method."""
        lines = [
            *(f"{name:<10}{text}" for name, text in machine(self.packages).items()),
            *(f"          {name}: {note}" for name, note in notes.items()),
            f"method    float32; median of {rounds} interleaved rounds of {1e3 * batch:g} ms; "
            "every contender verified before",
            "          ratio: time over instep's in the same round, above 1 means instep is faster",
        ]
        return "\n".join(lines)

    def head(self) -> str:
        cells = ("us/call", "ns/element", "GB/s", "ratio", "(quartiles)", "of roofline")
        return self._place(self.kind, "work", "threads", "contender") + _CELLS.format(*cells)

    def rows(self, race: Race) -> str:
        """One line for each contender, also for those without times."""
        lines = []
        for result in race.results:
            text = f"  {result.trouble}" if result.trouble else _row(race, result)
            lines.append(self._place(race.kind, race.work, race.threads, result.name) + text)
        return "\n".join(lines)

    def verdicts(self, races: list[Race]) -> str:
        """Per task: the fastest peer, and its time over instep's."""
        lines = []
        for race in races:
            if race.ours is None or not race.peers:
                continue
            fastest = race.fastest(race.peers)
            assert fastest is not None
            place = self._place(race.kind, race.work, race.threads, fastest.name)
            lines.append(f"{place}{fastest.ratio(race.ours):>8.2f}")
        return "\n".join(["fastest peer of each work, and its ratio:", *lines]) if lines else ""

    def _place(self, kind: str, work: str, threads: object, contender: str) -> str:
        """How a line begins."""
        return f"{kind:<{self.kind_width}}{work:>{self.work_width}}{threads:>8}  {contender:<16}"


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


def _row(race: Race, result: Result) -> str:
    elements, seconds = race.task.elements, result.median()
    cells = [f"{1e6 * seconds:.2f}", f"{1e9 * seconds / elements:.3f}"]
    traffic = race.task.traffic
    cells.append(f"{traffic / seconds / 1e9:.1f}" if traffic else "-")
    ratio, spread, share = "-", "", "-"
    if race.ours is not None:
        ratio = f"{result.ratio(race.ours):.2f}"
        if result.name != OURS:
            low, high = result.quartiles(race.ours)
            spread = f"({low:.2f}-{high:.2f})"
    if race.ceiling is not None and elements >= _LEAST_FOR_CEILING:
        shares = race.ceiling.ratios(result)
        share = f"{100 * statistics.median(shares):.0f} %"
    return _CELLS.format(*cells, ratio, spread, share)


def quietness(races: list[Race]) -> str:
    """How much of its CPU a contender on one thread got: 100 % where nothing else was running."""
    shares = [share for race in races if race.threads == 1 for r in race.results for share in r.cpu]
    if not shares:
        return ""
    share = statistics.fmean(shares)
    text = f"contenders on one thread had {100 * share:.1f} % of their CPU"
    return text if share > 0.98 else f"{text}: the machine was busy, run it again"


class Others:
    """How much CPU time everything but this benchmark has taken since this was made."""

    def __init__(self) -> None:
        self.start, self.before = time.monotonic(), self._seconds()

    @staticmethod
    def _seconds() -> float | None:
        """All that the machine's CPUs have worked, less what this process and its children have."""
        try:
            fields = Path("/proc/stat").read_text().split()[1:9]
        except OSError:
            return None
        user, nice, system, _, _, *interrupts_and_steal = map(int, fields)
        all_of_it = (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")
        return all_of_it - sum(os.times()[:4])

    def text(self) -> str:
        after = self._seconds()
        if self.before is None or after is None:
            return ""
        share = max(0.0, after - self.before) / (time.monotonic() - self.start)
        text = f"other processes took {100 * share:.0f} % of a CPU meanwhile"
        return text if share < 0.05 else f"{text}: the machine was busy, run it again"
