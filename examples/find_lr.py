"""Find a learning rate for the digits network, and see what a lower and a higher one do.

Run it with ``python examples/find_lr.py``. A range test of 100 steps suggests a rate and leaves
the network as it was; then the same network is trained three times: with the suggestion, with a
hundredth of the lowest rate worth trying and with a hundred times the highest. `instep.diagnose`
says of each run what it thinks of its rate, from the losses alone.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from digits import Params, accuracy, backward, forward, initialize, load, plt

import instep

ADVICE = instep.recommend("multiclass", "mlp")


class Run(NamedTuple):
    """A training run and what became of it."""

    rate: float
    losses: list[float]
    rates: list[float]
    diagnosis: Any
    accuracy: float


def batches(x: np.ndarray, y: np.ndarray, size: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Random batches without end, every example once per epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(y))
        for start in range(0, len(y) - size + 1, size):
            rows = order[start : start + size]
            yield x[rows], y[rows]


def loss_and_grad(source: Iterator[tuple[Any, Any]]) -> Callable[[Params], tuple[float, Params]]:
    """A function of the parameters: loss and gradient on the next batch."""

    def function(params: Params) -> tuple[float, Params]:
        x, y = next(source)
        logits, inputs = forward(params, x)
        loss, dlogits = instep.losses.cross_entropy(logits, y, out=logits)
        grads = {name: np.empty_like(value) for name, value in params.items()}
        backward(params, inputs, dlogits, grads)
        return loss, grads

    return function


def train(rate: float, data: tuple[np.ndarray, ...], options: argparse.Namespace) -> Run:
    """The recommended optimizer and schedule, with another peak."""
    x, y, x_test, y_test = data
    params = initialize(np.random.default_rng(options.seed))
    steps = options.epochs * (len(y) // options.batch)
    opt = ADVICE.build(params, steps, lr=rate)
    function = loss_and_grad(batches(x, y, options.batch, options.seed))
    losses, rates = [], []
    for _ in range(steps):
        loss, grads = function(params)
        losses.append(loss)
        rates.append(opt.step(grads).lr)
    return Run(
        rate, losses, rates, instep.diagnose(losses, rates), accuracy(params, x_test, y_test)
    )


def report(test: Any, runs: list[Run]) -> None:
    tried = f"{test.low:.2g} to {test.high:.2g}"
    print(f"range test: worth trying {tried}; the suggestion is {test.suggestion:.2g}\n")
    print(f"{'rate':>9}  {'verdict':<10}  {'last loss':>9}  {'test accuracy':>13}")
    for run in runs:
        last = np.mean(run.losses[-len(run.losses) // 20 :])
        verdict = run.diagnosis.verdict.replace("_", " ")
        print(f"{run.rate:9.2g}  {verdict:<10}  {last:9.3g}  {run.accuracy:13.2%}")
    print()
    for run in runs:
        print(f"{run.rate:9.2g}  {run.diagnosis}")


def draw(test: Any, runs: list[Run], path: Path) -> None:
    """The range test above, the runs with their verdicts below."""
    figure = plt.figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(2, len(runs), height_ratios=(1, 1.2))
    above = instep.plots.plot_range_test(test, figure.add_subplot(grid[0, :]))
    above.set_title("The range test: one step at each rate, from low to high", loc="left")
    first = None
    for column, run in enumerate(runs):
        first = figure.add_subplot(grid[1, column], sharey=first)
        instep.plots.plot_training(run.losses, None, run.diagnosis, first)
        first.set_xlabel(f"step, at a peak rate of {run.rate:.2g}")
        first.set_ylabel("training loss" if column == 0 else "")
    figure.suptitle("A learning rate for a NumPy network on handwritten digits, found with instep")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("find_lr.png"))
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    data = load(np.random.default_rng(options.seed))
    params = initialize(np.random.default_rng(options.seed))
    function = loss_and_grad(batches(*data[:2], options.batch, options.seed))
    test = instep.lr_range_test(function, params, ADVICE.optimizer, **ADVICE.options)
    if test.suggestion is None:
        raise SystemExit(f"the range test suggests no rate: {test.reason}")
    rates = (test.low / 100, test.suggestion, 100 * test.high)
    runs = [train(rate, data, options) for rate in rates]
    report(test, runs)
    draw(test, runs, options.output)
    print(f"\n{options.output}, in {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
