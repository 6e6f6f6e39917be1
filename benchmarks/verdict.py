"""How often `instep.diagnose` agrees with full training: ``python -m benchmarks.verdict``.

Each task is trained in full at every rate of a grid from 1e-6 to 10, three per decade. What full
training shows (`truth`) compares the rates with each other; the verdict on a run sees that run's
own mini-batch losses and nothing else. The truth was defined before any rule of `diagnose`:

- loss: of all training rows, by the parameters at the end of the run (and at its start, which is
  the same for all rates of a seed).
- diverged: a loss of the run or the final one is NaN or infinite, or the final one is above the
  one at the start. The right verdict is "too_high", and "just_right" is a failure of the whole.
- gap = (final loss - best final loss of all rates) / (loss at the start - best).
- gap <= 5 %: "just_right". Beyond: "too_low" below the best rate, "too_high" above it.

Every cell of the grid counts, those near 5 % too: there is no neutral band. How many disagreements
have a gap within a factor of two of 5 % is printed beside the figure, for information.

The rules and thresholds of `diagnose` were chosen on `TUNED_ON`, and on the same works with a
cosine schedule and with batches of 8. What is reported comes from other seeds, and from works that
were not used to choose anything (`OTHERS`). The whole story: a first version was looked at on seeds
100 to 102 and on `OTHERS` (90.9 % and 89.9 %). It was then changed on the tuning seeds alone, and
run on seeds 200 to 202: 94.1 % and 94.4 %. Afterwards one share was changed, of the losses that
count as a swing (a quarter, from a third), because of diverged runs on seeds from 1000 on. Then
the rules for explosions, leaps and swings, and for runs without a visible descent, were mended for
short runs, on seeds 0 to 2 of all works at the lengths in `SHORT`; all was run again. The short
runs that are reported are those of seeds 400 to 402.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import instep
from instep.verdict import FEWEST

RATES = tuple(float(f"{rate:.3g}") for rate in np.geomspace(1e-6, 10, 22))
TOLERANCE = 0.05
VERDICTS = ("too_low", "just_right", "too_high")
TUNED_ON = tuple(range(10))
REPORTED = (200, 201, 202)
SHORT = (1, 2, 3, 5, 7)  # epochs; runs of fewer than 20 losses, which `diagnose` refuses, left out
SHORT_REPORTED = (400, 401, 402)
Array = np.ndarray[Any, np.dtype[Any]]


# ---- works -----------------------------------------------------------------------------------


def standardized(values: Array) -> Array:
    """Mean 0 and deviation 1 per column; constant columns stay 0."""
    spread = values.std(axis=0)
    return ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def digits() -> tuple[Array, Array]:
    """1,797 scans of 8 x 8 pixels, ten classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target


def wine() -> tuple[Array, Array]:
    """178 wines, 13 measurements, three classes."""
    from sklearn.datasets import load_wine

    data = load_wine()
    return standardized(data.data), data.target


def diabetes() -> tuple[Array, Array]:
    """442 patients, 10 features, a regression whose noise is half of the variance."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    return standardized(data.data), standardized(data.target[:, None])


def cancer() -> tuple[Array, Array]:
    """569 tumours, 30 features, two classes."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return standardized(data.data), data.target[:, None].astype(np.float32)


def friedman() -> tuple[Array, Array]:
    """2,000 rows, 8 features of which 5 matter, noise.

    In place of California housing (20,640 rows, 8 features, a skewed and noisy target), which
    scikit-learn does not ship but downloads.
    """
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(n_samples=2000, n_features=8, noise=1.0, random_state=0)
    return standardized(x), standardized(y[:, None])


@dataclass(frozen=True)
class Work:
    """What is trained, how long and by which optimizer."""

    name: str
    data: Callable[[], tuple[Array, Array]]
    hidden: tuple[int, ...]
    loss: Callable[..., tuple[float, Array]]
    epochs: int
    optimizer: Callable[..., Any]
    batch: int = 32
    outputs: int = 1
    cosine: bool = False


ADAMW = instep.AdamW
MOMENTUM = partial(instep.SGD, momentum=0.9)
CE, BCE, MSE = (
    instep.losses.cross_entropy,
    instep.losses.binary_cross_entropy_with_logits,
    instep.losses.mse,
)
WORKS = (
    Work("digits MLP, AdamW", digits, (128, 64), CE, 25, ADAMW, outputs=10),
    Work("digits MLP, SGD 0.9", digits, (128, 64), CE, 25, MOMENTUM, outputs=10),
    Work("diabetes linear, AdamW", diabetes, (), MSE, 60, ADAMW),
    Work("diabetes linear, SGD 0.9", diabetes, (), MSE, 60, MOMENTUM),
    Work("cancer logistic, AdamW", cancer, (), BCE, 50, ADAMW),
    Work("cancer logistic, SGD 0.9", cancer, (), BCE, 50, MOMENTUM),
    Work("friedman MLP, AdamW", friedman, (64, 32), MSE, 30, ADAMW),
    Work("friedman MLP, SGD 0.9", friedman, (64, 32), MSE, 30, MOMENTUM),
)
# Nothing was chosen on these: other optimizers, models, lengths, batches, a schedule.
OTHERS = (
    Work("digits MLP, RMSprop", digits, (64,), CE, 10, instep.RMSprop, 64, outputs=10),
    Work("digits MLP, AdamW, cosine", digits, (128, 64), CE, 15, ADAMW, outputs=10, cosine=True),
    Work("wine softmax, Adam", wine, (), CE, 60, instep.Adam, 16, outputs=3),
    Work("diabetes MLP, SGD", diabetes, (32,), MSE, 40, instep.SGD, 64),
    Work("cancer MLP, SGD 0.9, cosine", cancer, (16,), BCE, 30, MOMENTUM, cosine=True),
    Work("friedman MLP, AdamW, all rows", friedman, (32,), MSE, 300, ADAMW, 2000),
)


# ---- training --------------------------------------------------------------------------------


def initialize(layers: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
    """He's initialization; a model without hidden layers starts at 0, as is usual for it."""
    params: dict[str, Array] = {}
    for k, (inputs, outputs) in enumerate(pairwise(layers)):
        scale = np.sqrt(2 / inputs) if len(layers) > 2 else 0.0
        params[f"W{k}"] = (scale * rng.standard_normal((inputs, outputs))).astype(np.float32)
        params[f"b{k}"] = np.zeros(outputs, np.float32)
    return params


def forward(params: dict[str, Array], x: Array) -> tuple[Array, list[Array]]:
    inputs = [x]
    last = len(params) // 2 - 1
    for k in range(last + 1):
        x = x @ params[f"W{k}"] + params[f"b{k}"]
        if k < last:
            x = np.maximum(x, 0)
            inputs.append(x)
    return x, inputs


def backward(params: dict[str, Array], inputs: list[Array], delta: Array) -> dict[str, Array]:
    grads: dict[str, Array] = {}
    for k in range(len(inputs) - 1, -1, -1):
        grads[f"W{k}"], grads[f"b{k}"] = inputs[k].T @ delta, delta.sum(axis=0)
        if k > 0:
            delta = (delta @ params[f"W{k}"].T) * (inputs[k] > 0)
    return grads


@dataclass(frozen=True)
class Run:
    """One training: the loss of each step's batch, and that of all rows before and after."""

    losses: Array
    lrs: Array
    start: float
    final: float

    @property
    def diverged(self) -> bool:
        return not (np.isfinite(self.losses).all() and self.final <= self.start)


def train(work: Work, rate: float, seed: int, epochs: int | None = None) -> Run:
    """Train in full at one rate; everything random comes from the seed."""
    rng = np.random.default_rng(seed)
    x, y = work.data()
    params = initialize((x.shape[1], *work.hidden, work.outputs), rng)
    per_epoch = len(y) // work.batch
    steps = (epochs or work.epochs) * per_epoch
    lr = instep.schedules.CosineAnnealing(rate, steps) if work.cosine else rate
    opt = work.optimizer(params, lr=lr)
    losses, lrs = np.empty(steps), np.empty(steps)
    with np.errstate(all="ignore"):
        start = work.loss(forward(params, x)[0], y)[0]
        for step in range(steps):
            if step % per_epoch == 0:
                order = rng.permutation(len(y))
            rows = order[step % per_epoch * work.batch :][: work.batch]
            outputs, inputs = forward(params, x[rows])
            losses[step], delta = work.loss(outputs, y[rows])
            lrs[step] = opt.step(backward(params, inputs, delta)).lr
        final = work.loss(forward(params, x)[0], y)[0]
    return Run(losses, lrs, start, final)


# ---- truth -----------------------------------------------------------------------------------


def gaps(runs: Mapping[float, Run]) -> dict[float, float]:
    """How much of what the best rate gained each rate missed; infinite where it diverged."""
    final = {rate: np.inf if run.diverged else run.final for rate, run in runs.items()}
    best = min(final.values())
    return {rate: (final[rate] - best) / (run.start - best) for rate, run in runs.items()}


def truth(runs: Mapping[float, Run]) -> dict[float, str]:
    """What full training shows about each rate."""
    missed = gaps(runs)
    best = min(missed, key=lambda rate: missed[rate])
    verdicts = {}
    for rate, run in runs.items():
        if missed[rate] <= TOLERANCE:
            verdicts[rate] = "just_right"
        else:
            verdicts[rate] = "too_high" if run.diverged or rate > best else "too_low"
    return verdicts


# ---- the verdict on each run -----------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One work and seed: what each rate of the grid showed, and what was said about it."""

    work: Work
    seed: int
    runs: Mapping[float, Run]
    truths: Mapping[float, str]
    said: Mapping[float, instep.Diagnosis]

    def right(self, rate: float) -> bool:
        return self.truths[rate] == self.said[rate].verdict


def judge(work: Work, seed: int, rates: Sequence[float] = RATES, epochs: int | None = None) -> Row:
    """Train at every rate, then diagnose each run by itself."""
    runs = {rate: train(work, rate, seed, epochs) for rate in rates}
    said = {
        rate: instep.diagnose(run.losses, run.lrs if work.cosine else None)
        for rate, run in runs.items()
    }
    return Row(work, seed, runs, truth(runs), said)


def agreement(rows: Sequence[Row]) -> float:
    """The share of all cells where the verdict is the truth."""
    return float(np.mean([row.right(rate) for row in rows for rate in row.runs]))


def diverged_but(rows: Sequence[Row], verdict: str) -> list[tuple[str, int, float, float]]:
    """Diverged runs about which something else was said: work, seed, rate, final over start."""
    return [
        (row.work.name, row.seed, rate, run.final / run.start)
        for row in rows
        for rate, run in row.runs.items()
        if run.diverged and row.said[rate].verdict == verdict
    ]


def called_fine(rows: Sequence[Row]) -> list[tuple[str, int, float, float]]:
    """Diverged runs that were called just right; there must be none."""
    return diverged_but(rows, "just_right")


def short_rows(
    works: Sequence[Work], seeds: Sequence[int], rates: Sequence[float] = RATES
) -> list[Row]:
    """Every work at every short length that has enough losses."""
    return [
        judge(work, seed, rates, epochs)
        for work in works
        for epochs in SHORT
        if epochs * (len(work.data()[1]) // work.batch) >= FEWEST
        for seed in seeds
    ]


def journey(row: Row, rate: float, most: int = 8) -> tuple[bool, int]:
    """Follow the suggestions from a rate, on the grid: did they end well, after how many runs?"""
    rates = np.array(list(row.runs))
    for count in range(1, most + 1):
        diagnosis = row.said[rate]
        if diagnosis.verdict == "just_right":
            return row.truths[rate] == "just_right", count
        wanted = np.log(rate * diagnosis.factor)
        rate = float(rates[np.abs(np.log(rates) - wanted).argmin()])
    return False, most


# ---- the tables ------------------------------------------------------------------------------

MARKS = {"too_low": "-", "just_right": "o", "too_high": "+"}


def marks(row: Row) -> list[str]:
    """Two lines: what full training shows, and the verdicts that differ."""
    shown = "".join(
        f"{'x' if run.diverged else MARKS[row.truths[rate]]:>5}" for rate, run in row.runs.items()
    )
    said = "".join(
        f"{'' if row.right(rate) else MARKS[row.said[rate].verdict]:>5}" for rate in row.runs
    )
    lines = [f"{row.work.name:<30}{row.seed:>4}{shown}"]
    return lines + ([f"{'  said instead':<34}{said}"] if said.strip() else [])


def summary(rows: Sequence[Row]) -> list[str]:
    """Figures over some rows."""
    cells = [(row, rate) for row in rows for rate in row.runs]
    wrong = [(row, rate) for row, rate in cells if not row.right(rate)]
    edge = sum(TOLERANCE / 2 <= gaps(row.runs)[rate] <= 2 * TOLERANCE for row, rate in wrong)
    diverged = sum(row.runs[rate].diverged for row, rate in cells)
    low = diverged_but(rows, "too_low")
    ends = [journey(row, rate) for row, rate in cells]
    counts = Counter((row.truths[rate], row.said[rate].verdict) for row, rate in cells)
    return [
        f"agreement {agreement(rows):.1%}: {len(cells) - len(wrong)} of {len(cells)} cells, none "
        "left out",
        f"{edge} of the {len(wrong)} others have a gap between {TOLERANCE / 2:.1%} and "
        f"{2 * TOLERANCE:.0%}, within a factor of two of the limit",
        f"diverged runs: {diverged}, of which called just right: {len(called_fine(rows))}, "
        f"too low: {len(low)}",
        *(
            f"  too low: {name}, seed {seed}, {rate:g}: ended at {times:.3g} times its start"
            for name, seed, rate, times in low
        ),
        f"the suggestions, followed from any rate of the grid, end at a rate that is just right in "
        f"{np.mean([good for good, _ in ends]):.1%} of the cases, after "
        f"{np.mean([count for _, count in ends]):.1f} runs on average",
        "",
        f"{'truth':<12}" + "".join(f"{name:>22}" for name in (f"said {v}" for v in VERDICTS)),
        *(f"{t:<12}" + "".join(f"{counts[t, v]:>22}" for v in VERDICTS) for t in VERDICTS),
    ]


def report(parts: Mapping[str, Sequence[Row]], short: Sequence[Row]) -> str:
    """All tables as text; of short runs the figures alone."""
    lines = [
        "instep.diagnose against full training; the definitions are in benchmarks/verdict.py",
        "- too low, o just right, + too high, x diverged (too high); below: verdicts that differ",
    ]
    for title, rows in parts.items():
        rates = "".join(f"{rate:>5.0e}".replace("e-0", "e-").replace("e+0", "e+") for rate in RATES)
        lines += ["", f"==== {title}", "", f"{'work':<30}{'seed':>4}{rates}"]
        lines += [line for row in rows for line in marks(row)]
        lines += ["", *summary(rows)]
    if short:
        seeds = tuple(sorted({row.seed for row in short}))
        lines += ["", f"==== all works for {SHORT} epochs, seeds {seeds}", "", *summary(short)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuning", action="store_true", help="the seeds the rules were chosen on")
    parser.add_argument("--output", type=Path, help="also write the text there")
    options = parser.parse_args()
    seeds = TUNED_ON if options.tuning else REPORTED
    instep.set_num_threads(1)
    parts = {
        f"the grid, seeds {seeds}": [judge(w, seed) for w in WORKS for seed in seeds],
    }
    if not options.tuning:
        parts["other works, never tuned on"] = [judge(w, seed) for w in OTHERS for seed in seeds]
    short = short_rows(WORKS + OTHERS, (0, 1, 2) if options.tuning else SHORT_REPORTED)
    text = report(parts, short)
    print(text, end="")
    if options.output:
        options.output.write_text(text)
    fine = all(agreement(rows) >= 0.9 and not called_fine(rows) for rows in parts.values())
    return 0 if fine and not called_fine(short) else 1


if __name__ == "__main__":
    raise SystemExit(main())
