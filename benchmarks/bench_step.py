"""Times a step of instep and of its peers and prints one table: ``python -m benchmarks``."""

import argparse
import sys

from benchmarks import report
from benchmarks.command import (
    LARGE,
    Benchmark,
    Output,
    Plan,
    finish,
    names_of,
    options_of,
    parser,
    race_all,
)
from benchmarks.contenders import STEP_CONTENDERS
from benchmarks.harness import Race
from benchmarks.works import OPTIMIZERS, STEPS, WORKS

PACKAGES = ("instep", "numpy", "torch", "numba", "llvmlite", "jax", "jaxlib", "optax")
STEP = Benchmark(STEP_CONTENDERS, STEPS, report.Table("optimizer", STEPS, PACKAGES))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    made = parser("python -m benchmarks", __doc__, STEP)
    add = made.add_argument
    add("--full", action="store_true", help="also 64M, the shapes of models, more counts and sizes")
    add("--optimizer", type=names_of(OPTIMIZERS), metavar="NAMES", help=", ".join(OPTIMIZERS))
    return options_of(made, argv)


def _planned(options: argparse.Namespace) -> Plan:
    plan = []
    for name, work in WORKS.items():
        left_out = not (work.usual or options.full)
        left_out |= options.quick and work.elements > LARGE
        if name not in options.works if options.works else left_out:
            continue
        for threads in [options.threads] if options.threads else work.threads:
            for optimizer in options.optimizer or work.optimizers:
                plan.append((threads, optimizer, name))
    return plan


def _overhead(races: list[Race]) -> str:
    """What a step costs that has next to nothing to compute."""
    parts = [
        f"{race.kind} {1e9 * race.ours.median():.0f} ns"
        for race in races
        if race.work == "10" and race.ours is not None
    ]
    if not parts:
        return ""
    return "fixed overhead of instep: step() on one array of 10 elements: " + ", ".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if a contender failed its verification or broke."""
    options = _arguments(argv)
    say, others = Output(), report.Others()
    races = race_all(STEP, _planned(options), options, say)
    say(STEP.table.verdicts(races))
    say(_overhead(races))
    return finish(say, races, others, options.output)


if __name__ == "__main__":
    sys.exit(main())
