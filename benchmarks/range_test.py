"""Is the rate that `instep.lr_range_test` suggests right? ``python -m benchmarks.range_test``.

Each work of `benchmarks.verdict` is swept once, from 1e-7 to 10 in 100 steps, and then trained in
full at the suggested rate and at those of the grid. The suggestion is right if it is "just_right"
among them, as defined there: it misses at most 5 % of what the best rate gains. Two older rules
read the same sweep: the steepest point of the smoothed losses, and a tenth of the rate at their
minimum. The rule was chosen on seeds 0 to 5 of `WORKS`; other seeds are reported.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import instep
from benchmarks.verdict import (
    OTHERS,
    RATES,
    TOLERANCE,
    WORKS,
    Array,
    Work,
    backward,
    forward,
    gaps,
    initialize,
    train,
)
from instep.lr_range import LRRangeTest

REPORTED = (300, 301, 302)


def problem(work: Work, seed: int) -> tuple[Callable[[Any], tuple[float, Any]], dict[str, Array]]:
    """`loss_and_grad`, which goes through the batches, and new parameters."""
    rng = np.random.default_rng(seed)
    x, y = work.data()
    params = initialize((x.shape[1], *work.hidden, work.outputs), rng)
    order: list[int] = []

    def loss_and_grad(params: dict[str, Array]) -> tuple[float, Any]:
        if len(order) < work.batch:
            order[:] = rng.permutation(len(y)).tolist()
        rows = [order.pop() for _ in range(work.batch)]
        outputs, inputs = forward(params, x[rows])
        loss, delta = work.loss(outputs, y[rows])
        return loss, backward(params, inputs, delta)

    return loss_and_grad, params


def older_rules(found: LRRangeTest) -> dict[str, float]:
    """What others would read off the same sweep."""
    losses = found.losses[np.isfinite(found.losses)]
    losses = np.minimum(losses, 3 * losses[:10].mean())
    smoothed = np.convolve(losses, np.ones(7), "same") / np.convolve(
        np.ones_like(losses), np.ones(7), "same"
    )
    lowest = int(smoothed[10:].argmin()) + 10
    slope = np.gradient(smoothed, np.log(found.lrs[: len(losses)]))
    return {
        "steepest": float(found.lrs[slope[: lowest + 1].argmin()]),
        "minimum/10": float(found.lrs[lowest] / 10),
    }


def measure(work: Work, seed: int) -> dict[str, tuple[float | None, float]]:
    """Rate and gap of each rule on one work; the gap of no suggestion is infinite."""
    loss_and_grad, params = problem(work, seed)
    found = instep.lr_range_test(loss_and_grad, params, work.optimizer, progress=False)
    rules: dict[str, float | None] = {"suggestion": found.suggestion, **older_rules(found)}
    runs = {rate: train(work, rate, seed) for rate in RATES}
    runs |= {rate: train(work, rate, seed) for rate in rules.values() if rate is not None}
    missed = gaps(runs)
    return {name: (rate, missed.get(rate, np.inf)) for name, rate in rules.items()}  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="also write the text there")
    options = parser.parse_args()
    instep.set_num_threads(1)
    names = ("suggestion", "steepest", "minimum/10")
    lines = [
        f"rate and gap of each rule, seeds {REPORTED}; right: a gap of at most {TOLERANCE:.0%}",
        "",
        f"{'work':<30}{'seed':>5}" + "".join(f"{name:>21}" for name in names),
    ]
    right = {name: 0 for name in names}
    works = [work for work in WORKS + OTHERS if not work.cosine]
    for work in works:
        for seed in REPORTED:
            found = measure(work, seed)
            line = f"{work.name:<30}{seed:>5}"
            for name in names:
                rate, gap = found[name]
                right[name] += gap <= TOLERANCE
                line += f"{'none' if rate is None else f'{rate:.1e}':>12}{gap:>9.1%}"
            lines.append(line)
    total = len(works) * len(REPORTED)
    lines += ["", "right: " + ", ".join(f"{name} {right[name]} of {total}" for name in names)]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text)
    return 0 if right["suggestion"] >= 0.9 * total else 1


if __name__ == "__main__":
    raise SystemExit(main())
