"""Does training end as well with states of 16 and 8 bits? ``python -m benchmarks.quality``.

Networks are trained by AdamW with `state_dtype` "float32", "bfloat16" and "8bit", from the same
seeds: the same initial parameters, the same batches in the same order. What counts is the ratio of
a final loss to that of the float32 run of the same seed; its mean over the seeds must be within
`TOLERANCE` of 1. The exit status is 1 if it is not. What a final loss is was fixed on float32
runs, before any run with another state:

- **character model** (`benchmarks.character_model`), judged: the mean loss of the last tenth of the
  training batches, and the loss of the whole held-out text at the end.
- **digits with noise**, judged: network, batches, epochs and schedule of examples/digits.py, with
  normal noise of `NOISE` on the pixels of every batch; the loss of the whole training set at the
  end, over `DRAWS` draws of noise that are the same for all runs.
- **digits of the example**, shown and not judged: the same without noise. It learns its training
  set by heart, to a loss of 0.002, of which 1 % is chance. With noise there remains a loss that can
  be compared, without a constant in it: of the 0.516 that smoothed labels leave, 0.500 is one.

How much of a ratio is chance shows in the row "control": float32 states, but each initial
parameter multiplied by 1 plus a uniform number of at most 2^-8, the step of bfloat16. Such runs are
as good as their twins and part ways with them; a ratio as far from 1 as theirs says nothing about
the states.
"""

import argparse
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import instep
from benchmarks import character_model
from benchmarks.harness import usable_cpus

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

STATES = ("float32", "bfloat16", "8bit")
CONTROL = "control"
TOLERANCE = 0.01
NOISE, DRAWS = np.float32(0.25), 20
Array = np.ndarray[Any, np.dtype[Any]]
Params = dict[str, Array]


# ---- training --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training: the loss of each step's batch, the final figures by name, a sample of text."""

    losses: Array
    finals: Mapping[str, float]
    sample: str = ""


def optimizer(params: Params, steps: int, state: str, seed: int) -> instep.AdamW:
    """AdamW as in examples/digits.py; for the control the parameters are disturbed."""
    lr = instep.schedules.Warmup(
        instep.schedules.CosineAnnealing(3e-3, steps - steps // 10), steps // 10
    )
    options: dict[str, Any] = {"lr": lr, "weight_decay": 0.01, "clip_norm": 1.0}
    if state == CONTROL:
        rng = np.random.default_rng((seed, 1))
        for value in params.values():
            value *= 1 + 2**-8 * rng.uniform(-1, 1, value.shape).astype(value.dtype)
    elif state != "float32":
        options |= {"state_dtype": state, "seed": seed}
    return instep.AdamW(params, **options)


def train_character_model(state: str, seed: int, steps: int, batch: int = 128) -> Run:
    rng = np.random.default_rng(seed)
    train, held_out = map(character_model.windows, character_model.split())
    params = character_model.initialize(rng)
    opt = optimizer(params, steps, state, seed)
    epochs = -(-steps * batch // len(train))
    order = np.concatenate([rng.permutation(len(train)) for _ in range(epochs)])
    losses = np.empty(steps)
    for step in range(steps):
        rows = train[order[step * batch :][:batch]]
        contexts, targets = rows[:, :-1], rows[:, -1]
        logits, inputs = character_model.forward(params, contexts)
        losses[step], delta = instep.losses.cross_entropy(logits, targets, out=logits)
        character_model.backward(params, contexts, inputs, delta, opt.grads)
        opt.step()
    finals = {
        f"training loss, mean of the last {steps // 10} batches": losses[-(steps // 10) :].mean(),
        "loss of the held-out text": character_model.mean_loss(params, held_out),
    }
    drawn = character_model.sample(params, "The statement", 300, np.random.default_rng(seed))
    return Run(losses, finals, drawn)


def digits_loss(params: Params, x: Array, y: Array, noise: float) -> float:
    """Loss of all rows, over draws of noise that are the same in every run."""
    import digits

    rng = np.random.default_rng(0)
    values = []
    for _ in range(DRAWS if noise else 1):
        pixels = x + noise * rng.standard_normal(x.shape, dtype=np.float32)
        values.append(instep.losses.cross_entropy(digits.forward(params, pixels)[0], y).value)
    return float(np.mean(values))


def train_digits(state: str, seed: int, epochs: int, noise: float, batch: int = 32) -> Run:
    import digits

    rng = np.random.default_rng(seed)
    x, y, x_test, y_test = digits.load(rng)
    params = digits.initialize(rng)
    steps = epochs * (len(y) // batch)
    opt = optimizer(params, steps, state, seed)
    losses = []
    for _epoch in range(epochs):
        order = rng.permutation(len(y))
        for start in range(0, len(y) - batch + 1, batch):
            rows = order[start : start + batch]
            pixels = x[rows] + noise * rng.standard_normal(x[rows].shape, dtype=np.float32)
            logits, inputs = digits.forward(params, pixels)
            loss, delta = instep.losses.cross_entropy(logits, y[rows], out=logits)
            digits.backward(params, inputs, delta, opt.grads)
            opt.step()
            losses.append(loss)
    finals = {
        "loss of the whole training set": digits_loss(params, x, y, noise),
        "loss of the test set": digits_loss(params, x_test, y_test, noise),
        "test accuracy, without noise": digits.accuracy(params, x_test, y_test),
    }
    return Run(np.array(losses), finals)


# ---- works -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What is trained, how long, from which seeds, and how many of its figures are judged."""

    name: str
    train: Callable[..., Run]
    length: int
    quick: int
    seeds: tuple[int, ...]
    judged: int
    window: int  # batches: what the curves are means over
    options: Mapping[str, Any] = field(default_factory=dict)


# 4,700 batches of 128 are just under two epochs: a third would begin within the last batches, and
# with it the loss of text that is known by heart.
WORKS = (
    Work("character model", train_character_model, 4700, 60, tuple(range(5)), 2, 100),
    Work("digits with noise", train_digits, 40, 2, tuple(range(10)), 1, 44, {"noise": NOISE}),
    Work(
        "digits of the example", train_digits, 40, 2, tuple(range(10)), 0, 44,
        {"noise": np.float32(0)},
    ),
)  # fmt: skip
Runs = dict[str, dict[str, dict[int, Run]]]  # of a work's name, a state, a seed


def run(work: int, state: str, seed: int, quick: bool) -> Run:
    """In a process of its own, on one thread: the bits do not depend on how many there are."""
    instep.set_num_threads(1)
    what = WORKS[work]
    return what.train(state, seed, what.quick if quick else what.length, **what.options)


def run_all(states: Sequence[str], quick: bool, processes: int) -> Runs:
    """Every work, state and seed."""
    for name in ("OMP", "MKL", "OPENBLAS", "VECLIB"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    found: Runs = {}
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        futures = {
            (work.name, state, seed): pool.submit(run, k, state, seed, quick)
            for k, work in enumerate(WORKS)
            for state in states
            for seed in work.seeds[: 2 if quick else None]
        }
        for (name, state, seed), future in futures.items():
            found.setdefault(name, {}).setdefault(state, {})[seed] = future.result()
            print(f"{name}, {state}, seed {seed}", file=sys.stderr)
    check_that_states_matter(found)
    return found


def check_that_states_matter(found: Runs) -> None:
    """A run of the same losses as float32's has been given the same states."""
    for name, states in found.items():
        for state, runs in states.items():
            for seed, other in runs.items():
                if state != "float32" and np.array_equal(
                    other.losses, states["float32"][seed].losses
                ):
                    raise RuntimeError(
                        f"{name}, seed {seed}: the losses with {state} are those with float32, "
                        "bit for bit; was the option ignored?"
                    )


# ---- the tables ------------------------------------------------------------------------------


def ratios(states: Mapping[str, Mapping[int, Run]], state: str, figure: str) -> Array:
    """Per seed: a final figure over that of the float32 run of this seed."""
    runs = states["float32"]
    return np.array([states[state][s].finals[figure] / runs[s].finals[figure] for s in runs])


def standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def table(states: Mapping[str, Mapping[int, Run]], figure: str, judged: bool) -> list[str]:
    """Mean and spread over the seeds, and the ratios to float32."""
    title = figure + (f": judged, the mean ratio must be within {TOLERANCE:.0%} of 1" * judged)
    lines = [
        "", title,
        f"{'state':<10}{'mean':>9}{'between seeds':>15}{'mean ratio':>12}{'+-':>8}"
        "   difference per seed, %",
    ]  # fmt: skip
    for state, runs in states.items():
        values = np.array([run.finals[figure] for run in runs.values()])
        line = f"{state:<10}{values.mean():>9.5f}{values.std(ddof=1) / values.mean():>15.2%}"
        if state != "float32":
            each = ratios(states, state, figure)
            line += f"{each.mean():>12.4f}{standard_error(each):>8.4f}  "
            line += "".join(f"{100 * (ratio - 1):>+6.2f}" for ratio in each)
        lines.append(line)
    return lines


def verdicts(found: Runs) -> dict[tuple[str, str, str], bool]:
    """Of each work, judged figure and state: is the mean ratio within the tolerance?"""
    return {
        (work.name, figure, state): bool(abs(ratios(states, state, figure).mean() - 1) <= TOLERANCE)
        for work in WORKS
        for states in [found[work.name]]
        for figure in list(next(iter(states["float32"].values())).finals)[: work.judged]
        for state in states
        if state not in ("float32", CONTROL)
    }


def about_the_text() -> list[str]:
    train, held_out = character_model.split()
    parameters = sum(v.size for v in character_model.initialize(np.random.default_rng(0)).values())
    by_counts = character_model.baselines(train, held_out)
    return [
        f"{parameters:,} parameters; {len(train):,} characters to learn from, "
        f"{len(held_out):,} held out",
        "held-out loss of counted characters, in nats as all others: "
        + ", ".join(f"{name} {value:.3f}" for name, value in by_counts.items()),
    ]


def samples(states: Mapping[str, Mapping[int, Run]]) -> list[str]:
    """What the models of the first seed write."""
    lines = ["", 'after "The statement", drawn from the model of the first seed:']
    for state, runs in states.items():
        if state != CONTROL:
            text = next(iter(runs.values())).sample
            lines += ["", f"-- {state}", *textwrap.indent(text, "    ", lambda _: True).split("\n")]
    return [line.rstrip() for line in lines]


def report(found: Runs) -> str:
    """All tables as text."""
    lines = [
        "final loss by the type of the optimizer's states; definitions in benchmarks/quality.py",
        f"Python {platform.python_version()}, NumPy {np.__version__}, {instep.isa()}; "
        "between seeds: standard deviation over mean; +-: standard error of the mean ratio",
    ]
    for work in WORKS:
        states = found[work.name]
        one = next(iter(states["float32"].values()))
        lines += ["", f"==== {work.name}: {len(one.losses):,} steps"]
        lines += ["", *about_the_text()] if one.sample else []
        for k, figure in enumerate(one.finals):
            lines += table(states, figure, k < work.judged)
        lines += samples(states) if one.sample else []
    said = verdicts(found)
    if said:
        lines += ["", f"==== within {TOLERANCE:.0%} of float32", ""]
    for (name, figure, state), fine in said.items():
        lines.append(f"{'yes' if fine else 'NO':<5}{state:<10}{name}, {figure}")
    return "\n".join(lines) + "\n"


# ---- the picture -----------------------------------------------------------------------------

COLOURS = {"float32": "black", CONTROL: "0.6", "bfloat16": "#0072B2", "8bit": "#D55E00"}


def smooth(runs: Mapping[int, Run], window: int) -> Array:
    """(seeds, points): means over windows that follow each other."""
    losses = np.stack([run.losses for run in runs.values()])
    window = min(window, losses.shape[1])
    points = losses.shape[1] // window
    return losses[:, : points * window].reshape(len(losses), points, window).mean(axis=2)


def draw(found: Runs, path: Path) -> None:
    """Above the losses, below what they differ by from float32; bands reach over all seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    works = [work for work in WORKS if work.judged]
    figure, axes = plt.subplots(
        2, len(works), figsize=(10, 6.5), sharex="col", height_ratios=(3, 2), layout="constrained"
    )
    for work, (top, bottom) in zip(works, axes.T, strict=True):
        draw_curves(work, found[work.name], top, bottom)
    figure.suptitle("AdamW with optimizer states of 32, 16 and 8 bits")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_curves(work: Work, states: Mapping[str, Mapping[int, Run]], top: Any, bottom: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    base = smooth(states["float32"], work.window)
    at = (np.arange(base.shape[1]) + 0.5) * work.window
    for state, runs in states.items():
        losses = smooth(runs, work.window)
        style = {"color": COLOURS[state], "linestyle": "--" if state == CONTROL else "-"}
        for panel, values in ((top, losses), (bottom, 100 * (losses / base - 1))):
            panel.plot(at, values.mean(axis=0), label=state, linewidth=1.4, **style)
            low, high = values.min(axis=0), values.max(axis=0)
            panel.fill_between(at, low, high, color=COLOURS[state], alpha=0.15, linewidth=0)
    for limit in (-100 * TOLERANCE, 100 * TOLERANCE):
        bottom.axhline(limit, color="black", linestyle=":", linewidth=0.8)
    top.set_title(f"{work.name}, {len(states['float32'])} seeds", fontsize="medium")
    top.set_yscale("log")
    top.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
    top.yaxis.set_major_formatter("{x:g}")
    top.yaxis.set_minor_formatter(NullFormatter())
    top.set_ylabel(f"training loss, mean of {work.window} batches")
    bottom.set_ylabel("difference from float32,\nsame seed (%)")
    bottom.set_xlabel("step")
    top.legend(frameon=False)
    for panel in (top, bottom):
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)


def states_of(text: str) -> list[str]:
    """An argparse type: names of states, float32 among them, which the others are compared with."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in STATES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(STATES)}")
    if "float32" not in names:
        raise argparse.ArgumentTypeError("float32 is missing, which the others are compared with")
    return names


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two seeds, few steps: does it work?")
    add("--states", type=states_of, default=list(STATES), help=f"of {', '.join(STATES)}")
    add("--processes", type=int, default=len(usable_cpus()), help="runs at a time")
    add("--output", type=Path, help="also write the text there")
    add("--picture", type=Path, help="draw the curves there")
    options = parser.parse_args(argv)
    states = ["float32", CONTROL, *(s for s in STATES[1:] if s in options.states)]
    found = run_all(states, options.quick, options.processes)
    text = report(found)
    print(text, end="")
    if options.output:
        options.output.write_text(text)
    if options.picture:
        draw(found, options.picture)
    return 0 if options.quick or all(verdicts(found).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
