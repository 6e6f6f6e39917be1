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

The rules and thresholds of `diagnose` were chosen on `TUNED_ON`; what is reported and asserted
comes from other seeds, and from works that the tuning never saw (`OTHERS`).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import instep

RATES = tuple(float(f"{rate:.3g}") for rate in np.geomspace(1e-6, 10, 22))
TOLERANCE = 0.05
VERDICTS = ("too_low", "just_right", "too_high")
TUNED_ON = (0, 1, 2)
REPORTED = (100, 101, 102)
RESULT = Path(__file__).resolve().parent / "results" / "verdict.txt"
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
# Never looked at while the rules were chosen: other optimizers, lengths, batches, a schedule.
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
