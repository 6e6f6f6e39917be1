"""Times value and gradient of a loss, by instep and by its peers, and prints one table."""

import argparse
import sys

from benchmarks import marks, report
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
from benchmarks.contenders import LOSS_CONTENDERS
from benchmarks.works import LOSS_TASKS, LOSSES

PACKAGES = ("instep", "numpy", "torch", "jax", "jaxlib", "optax", "scikit-learn")
LOSS = Benchmark(LOSS_CONTENDERS, LOSS_TASKS, report.Table("loss", LOSS_TASKS, PACKAGES))
_THREADS = 2


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    made = parser("python -m benchmarks.bench_loss", __doc__, LOSS)
    made.add_argument("--losses", type=names_of(LOSSES), metavar="NAMES", help=", ".join(LOSSES))
    return options_of(made, argv)


def _planned(options: argparse.Namespace) -> Plan:
    plan = []
    for (kind, work), task in LOSS_TASKS.items():
        left_out = work not in task.loss.shapes or (options.quick and task.elements > LARGE)
        if work not in options.works if options.works else left_out:
            continue
        if kind in (options.losses or LOSSES):
            plan.append((options.threads or _THREADS, kind, work))
    return plan


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if a contender failed its verification or broke."""
    options = _arguments(argv)
    say, others = Output(), report.Others()
    races = race_all(LOSS, _planned(options), options, say)
    say(marks.verdicts(races))
    return finish(say, races, others, options.output)


if __name__ == "__main__":
    sys.exit(main())
