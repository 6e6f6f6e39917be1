"""Counts the instructions of every kernel per element, and of calls on a few elements.

A count under callgrind does not depend on how busy the machine is: a kernel that has become
longer shows. The exit status is 1 if a count is more than 3 % above the baseline, or has none.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.instructions import count
from benchmarks.instructions.count import Counts

BASELINE = Path(__file__).resolve().parent / "baseline.json"
TOLERANCE = 0.03
_LEAST = 0.05  # instructions per element: a smaller difference is none
_LINE = "{:<58}{:>12}{:>12}{:>9}  {}"


class Change(NamedTuple):
    name: str
    before: float | None
    now: float

    @property
    def ratio(self) -> float | None:
        return self.now / self.before if self.before else None

    @property
    def worse(self) -> bool:
        if self.before is None:
            return True
        return self.now > self.before * (1 + TOLERANCE) and self.now - self.before > _LEAST

    @property
    def better(self) -> bool:
        return self.before is not None and self.now < self.before * (1 - TOLERANCE)

    def line(self) -> str:
        before = "-" if self.before is None else f"{self.before:.2f}"
        ratio = "-" if self.ratio is None else f"{100 * (self.ratio - 1):+.1f} %"
        word = "no baseline" if self.before is None else "MORE" if self.worse else ""
        return _LINE.format(self.name, before, f"{self.now:.2f}", ratio, word or self._good())

    def _good(self) -> str:
        return "fewer" if self.better else ""


def compared(counts: Counts, baseline: Counts) -> list[Change]:
    """Each count beside its baseline."""
    return [Change(name, baseline.get(name), now) for name, now in counts.items()]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    add = made.add_argument
    add("--update", action="store_true", help="write the counts into the baseline")
    add("--isa", choices=count.countable(), help="only this one; callgrind knows no AVX-512")
    add("--all", action="store_true", help="print every count, not only those that changed")
    options = made.parse_args(argv)
    if options.update and options.isa:
        made.error("the baseline holds every instruction set: --update goes without --isa")
    return options


def _judged(found: count.Record, baseline: count.Record) -> list[Change]:
    """What can be compared: kernels with the same compiler, calls with the same Python too."""
    changes = []
    for what, versions in count.DEPENDS_ON.items():
        now = {name: found.versions[name] for name in versions}
        then = {name: baseline.versions.get(name) for name in versions}
        if now != then:
            print(f"not compared: counts per {what}, whose baseline is of {then}; here: {now}")
            continue
        changes += compared(found.counts[what], baseline.counts.get(what, {}))
    return changes


def main(argv: list[str] | None = None) -> int:
    """Print what changed; 1 if anything takes more instructions than the baseline says."""
    options = _arguments(argv)
    missing = count.missing()
    if missing:
        print(missing)
        return 77
    isas = [options.isa] if options.isa else count.countable()
    found = count.counted(isas)
    if options.update:
        count.save(found, BASELINE)
        print(f"{sum(map(len, found.counts.values()))} counts written to {BASELINE.name}")
        return 0
    changes = _judged(found, count.load(BASELINE))
    worse = [change for change in changes if change.worse]
    shown = [c for c in changes if options.all or c.worse or c.better]
    if shown:
        print(_LINE.format("instructions", "baseline", "now", "", "").rstrip())
        print("\n".join(change.line().rstrip() for change in shown))
    print(f"{len(changes)} counts of {', '.join(isas)}, {len(worse)} above the baseline")
    if any(change.better for change in changes) and not worse:
        print("commit what is better: python -m benchmarks.instructions --update")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
