"""What is raced, in the quick, the usual and the full form."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import report
from benchmarks.bench_loss import LOSS
from benchmarks.bench_pipeline import PIPELINE
from benchmarks.bench_step import STEP
from benchmarks.command import LARGE, Benchmark, Plan
from benchmarks.contenders import DIGITS_CONTENDERS, LAYOUT_CONTENDERS
from benchmarks.digits import DIGITS_TASKS
from benchmarks.pipelines import PIPELINE_TASKS
from benchmarks.works import LAYOUTS, LOSS_TASKS, LOSSES, OPTIMIZERS

PACKAGES = (
    *("instep", "numpy", "torch", "deepspeed", "numba", "llvmlite", "jax", "jaxlib", "optax"),
    *("numexpr", "scikit-learn", "bitsandbytes", "ml_dtypes"),
)
LAYOUT = Benchmark(LAYOUT_CONTENDERS, LAYOUTS, report.Table("optimizer", LAYOUTS, PACKAGES))
DIGITS = Benchmark(DIGITS_CONTENDERS, DIGITS_TASKS, report.Table("step", DIGITS_TASKS, PACKAGES))
BENCHMARKS = {
    "steps": STEP,
    "layouts": LAYOUT,
    "losses": LOSS,
    "pipeline": PIPELINE,
    "digits": DIGITS,
}


class Form(NamedTuple):
    """How long to measure; so many rounds for works of at most and of more than 4M elements."""

    rounds: int
    large_rounds: int
    batch: float  # seconds


QUICK, USUAL, FULL = "quick", "usual", "full"
FORMS = {QUICK: Form(3, 3, 0.005), USUAL: Form(7, 5, 0.02), FULL: Form(9, 5, 0.03)}


def add_forms(made: argparse.ArgumentParser, quick: str, full: str) -> None:
    """The options --quick and --full, with these helps."""
    forms = made.add_mutually_exclusive_group()
    form = {"action": "store_const", "dest": "form", "default": USUAL}
    forms.add_argument("--quick", const=QUICK, help=quick, **form)
    forms.add_argument("--full", const=FULL, help=full, **form)


# One of each family, in the order of the tables; the others are options of these.
MAIN = ("adamw", "sgd_momentum", "sgd", "rmsprop", "amsgrad")
MARKED = ("adamw", "sgd_momentum")
CACHES = ("4K", "64K", "1M")  # first, second and third level
MEMORY = ("16M", "64M")
COUNTS = ("10x100", "100x100", "1000x100", "10000x100")
# Those that are not above, for the cost as arrays grow.
SIZES = ("1", "10", "100", "1K", "16K", "256K", "4M")
SMALLEST_LOSS_THREADS = 2


def steps(form: str) -> Plan:
    """Each optimizer at the sizes of the caches and of memory."""
    others = [name for name in OPTIMIZERS if name not in MAIN]
    plan = [(1, optimizer, "10") for optimizer in MARKED]
    plan += [(1, optimizer, "64K") for optimizer in others]
    if form == QUICK:
        plan += [(1, optimizer, "64K") for optimizer in MAIN] + [(1, "adamw", "4K")]
        return plan + [(2, optimizer, "1M") for optimizer in ("adamw", "rmsprop", "amsgrad")]
    plan += [(n, optimizer, work) for n in (1, 2) for optimizer in MAIN for work in CACHES]
    if form == USUAL:
        plan += [(2, optimizer, work) for optimizer in MARKED for work in MEMORY]
        return plan + [(2, optimizer, "16M") for optimizer in MAIN if optimizer not in MARKED]
    plan += [(n, optimizer, "16M") for n in (1, 2) for optimizer in MAIN]
    plan += [(2, optimizer, "1M") for optimizer in others]
    return plan + [(2, optimizer, "64M") for optimizer in MAIN] + [(1, "adamw", "64M")]


def tensors(form: str) -> Plan:
    """Many small arrays."""
    if form == QUICK:
        return [(1, "adamw", "1000x100")]
    plan = [(1, optimizer, work) for optimizer in MARKED for work in COUNTS]
    return plan + ([(2, "adamw", work) for work in COUNTS] if form == FULL else [])


def models(form: str) -> Plan:
    """The arrays of true models; they do not fit into a quick run."""
    if form == QUICK:
        return []
    plan = [(2, optimizer, model) for optimizer in MARKED for model in ("gpt2", "resnet50")]
    return plan + ([(1, "adamw", "resnet50")] if form == FULL else [])


def growth(form: str) -> Plan:
    """The cost as the array grows, on one thread up to the second-level cache, and on two."""
    if form == QUICK:
        return [(1, "adamw", work) for work in ("1", "1K")]
    small = [(1, "adamw", work) for work in ("1", "100", "1K", "16K")]
    return small + [(2, "adamw", work) for work in SIZES]


def layouts(form: str) -> Plan:
    """Gradients that do not lie densely in the order of their parameters."""
    works = {work: None for _, work in LAYOUTS}
    if form == QUICK:
        return [(1, "adamw", work) for work in works]
    optimizers = MARKED if form == FULL else ("adamw",)
    return [(n, optimizer, work) for n in (1, 2) for optimizer in optimizers for work in works]


def losses(form: str) -> Plan:
    """Each loss; in the full form at more sizes, and on one thread too."""
    if form == QUICK:
        return [(2, kind, next(iter(loss.shapes))) for kind, loss in LOSSES.items()]
    usual = [(2, kind, work) for kind, loss in LOSSES.items() for work in loss.shapes]
    if form == USUAL:
        return usual
    more = [(2, kind, work) for kind, loss in LOSSES.items() for work in loss.more]
    on_one = [
        (1, kind, work) for kind, work in LOSS_TASKS if LOSS_TASKS[kind, work].elements <= LARGE
    ]
    return usual + more + on_one


def pipeline(form: str) -> Plan:
    """What loops do around the update, mixed precision, and smaller states."""
    works = {"64K": (2,), "1000x100": (1,), "16M": (2,), "64M": (2,)}
    if form == QUICK:
        works = {"64K": (2,)}
    if form == FULL:
        works |= {"64K": (1, 2), "64M": (1, 2)}
    return [(n, kind, work) for kind, work in PIPELINE_TASKS for n in works.get(work, ())]


def digits(form: str) -> Plan:
    """Training itself, end to end."""
    tasks = list(DIGITS_TASKS)
    return [(1, *tasks[0])] if form == QUICK else [(n, *task) for n in (1, 2) for task in tasks]


class Section(NamedTuple):
    benchmark: str
    plan: Callable[[str], Plan]


SECTIONS = {
    "steps": Section("steps", steps),
    "tensors": Section("steps", tensors),
    "models": Section("steps", models),
    "growth": Section("steps", growth),
    "layouts": Section("layouts", layouts),
    "losses": Section("losses", losses),
    "pipeline": Section("pipeline", pipeline),
    "digits": Section("digits", digits),
}


def planned(form: str, sections: list[str], threads: int | None = None) -> dict[str, Plan]:
    """Per benchmark what is raced, each once; `threads`: only what is raced on so many."""
    plans: dict[str, Plan] = {}
    for name in sections:
        section = SECTIONS[name]
        plan = plans.setdefault(section.benchmark, [])
        plan += [entry for entry in section.plan(form) if threads in (None, entry[0])]
    return {name: list(dict.fromkeys(plan)) for name, plan in plans.items() if plan}
