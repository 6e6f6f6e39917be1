"""Draw the pictures of choosing.md and print its tables: ``make pictures``.

Everything is seeded and measured here, in about a minute; the pictures are written beside this
file. Needs the extra "demo".
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import instep
from instep import losses, schedules
from instep.__main__ import main as command_line

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "examples"), str(HERE.parent / "tests")]

import digits  # noqa: E402
import find_lr  # noqa: E402
from digits import plt  # noqa: E402
from PIL import Image  # noqa: E402  # matplotlib needs it too
from small_networks import Network  # noqa: E402

NOISES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: 0.5 * rng.standard_normal(n),
    "1 of 10 far off": lambda rng, n: (
        0.5 * rng.standard_normal(n) + np.where(rng.random(n) < 0.1, 20.0, 0.0)
    ),
    "heavy tails": lambda rng, n: 0.5 * rng.standard_t(1.2, n),
}
LOSSES = {"mse": losses.mse, "huber": losses.huber, "mae": losses.mae}
OPTIMIZERS = {
    "SGD": instep.SGD,
    "SGD, momentum 0.9": partial(instep.SGD, momentum=0.9),
    "RMSprop": instep.RMSprop,
    "AdamW": instep.AdamW,
}
RATES = np.geomspace(1e-5, 10, 19)


# ---- which loss ------------------------------------------------------------------------------


def fit(loss: Callable[..., losses.LossGrad], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slopes and intercept of the best line for a loss."""
    x = np.column_stack([x, np.ones(len(x))])
    w = np.zeros(x.shape[1])
    opt = instep.recommend("regression").build(w, 2000, lr=0.05)
    for _ in range(2000):
        opt.step(x.T @ loss(x @ w, y).grad)
    return w


def table_of_noises(seeds: int = 40) -> None:
    """Error of the slopes found, per noise and loss: the median over the seeds."""
    print("\n| noise | " + " | ".join(f"`{name}`" for name in LOSSES) + " |\n|---|---|---|---|")
    truth = np.array([1.0, -2.0, 0.5, 3.0])
    for noise, sample in NOISES.items():
        errors = np.empty((seeds, len(LOSSES)))
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            x = rng.standard_normal((200, len(truth)))
            y = x @ truth + sample(rng, len(x))
            errors[seed] = [np.linalg.norm(fit(f, x, y)[:-1] - truth) for f in LOSSES.values()]
        print(f"| {noise} | " + " | ".join(f"{e:.2f}" for e in np.median(errors, axis=0)) + " |")


def draw_noise() -> None:
    """The same points, of which a few are far off, and the line that each loss finds."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-1, 1, 40))
    y = 1.5 * x + 0.15 * rng.standard_normal(40)
    y[rng.choice(np.flatnonzero(x > 0.2), 5, replace=False)] -= 5
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.scatter(x, y, s=18, color="0.6", label="targets")
    for name, colour, style in (
        ("mse", "#D55E00", "--"), ("huber", "#0072B2", "-"), ("mae", "#009E73", "-.")
    ):  # fmt: skip
        slope, intercept = fit(LOSSES[name], x, y)
        ends = np.array([-1.0, 1.0])
        axes.plot(ends, slope * ends + intercept, style, color=colour, linewidth=2, label=name)
    axes.plot([-1, 1], [-1.5, 1.5], color="black", linewidth=0.8, label="without noise")
    axes.set_xlabel("input")
    axes.set_ylabel("target, output")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "noise.png")


def table_of_regions(steps: int = 1200) -> None:
    """Dice loss of thresholded masks on test images, per kind of network and loss."""

    def both(pred: np.ndarray, target: np.ndarray) -> losses.LossGrad:
        one = losses.dice(pred, target, from_logits=True)
        other = losses.binary_cross_entropy_with_logits(pred, target)
        return losses.LossGrad(one.value + other.value, one.grad + other.grad)

    functions = {
        "`dice`": partial(losses.dice, from_logits=True),
        "cross-entropy": losses.binary_cross_entropy_with_logits,
        "their sum": both,
    }
    data = digits.load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = ((data.images[order] - 4.9) / 6).astype(np.float32)
    print(
        "\n| network | share of the region | " + " | ".join(functions) + " |\n|---|---|---|---|---|"
    )
    for model in ("mlp", "cnn"):
        for threshold in (1.8, 0.0):
            masks = (x > threshold).reshape(len(x), -1)
            row = f"| {model} | {masks.mean():.0%} | "
            for loss in functions.values():
                rng = np.random.default_rng(1)
                network = Network(model, 64, rng)
                opt = instep.recommend("segmentation", model).build(network.params, steps)
                for _ in range(steps):
                    rows = rng.integers(0, 1400, 32)
                    opt.step(network.backward(loss(network.forward(x[rows]), masks[rows]).grad))
                found = (network.forward(x[1400:]) > 0).astype(np.float32)
                row += f"{losses.dice(found, masks[1400:]).value:.2f} | "
            print(row.strip())


# ---- which rate ------------------------------------------------------------------------------


def final(make: Callable[..., instep.optim.Optimizer], rate: float, epochs: int = 10) -> float:
    """Test loss of the digits network after a run at a rate (its peak)."""
    rng = np.random.default_rng(0)
    x, y, x_test, y_test = digits.load(rng)
    params = digits.initialize(rng)
    batch = 32
    steps = epochs * (len(y) // batch)
    opt = make(params, lr=schedules.CosineAnnealing(rate, steps))
    with np.errstate(all="ignore"):
        for _ in range(steps):
            rows = rng.integers(0, len(y), batch)
            logits, inputs = digits.forward(params, x[rows])
            digits.backward(params, inputs, losses.cross_entropy(logits, y[rows]).grad, opt.grads)
            opt.step()
        return losses.cross_entropy(digits.forward(params, x_test)[0], y_test).value


def draw_rates() -> None:
    """The test loss over the rate, for each optimizer."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    print("\n| optimizer | best rate | test loss | rates within a factor of 2 of that loss |")
    print("|---|---|---|---|")
    marks = zip("osD^", ("#E69F00", "#D55E00", "#009E73", "#0072B2"), strict=True)
    for (name, make), (mark, colour) in zip(OPTIMIZERS.items(), marks, strict=True):
        found = np.array([final(make, float(rate)) for rate in RATES])
        axes.plot(RATES, found, marker=mark, markersize=4, color=colour, label=name)
        best = np.nanmin(found)
        good = RATES[found <= 2 * best]
        print(
            f"| {name} | {RATES[np.nanargmin(found)]:.2g} | {best:.3f} | "
            f"{good.min():.2g} to {good.max():.2g} |"
        )
    axes.axhline(np.log(10), color="0.5", linestyle=":", label="guessing")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.015, 5)
    axes.set_xlabel("learning rate (peak of a cosine)")
    axes.set_ylabel("test loss after 10 epochs")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "rates.png")


def save(figure: "plt.Figure", name: str) -> None:
    figure.savefig(HERE / name, dpi=100)
    plt.close(figure)
    shrink(HERE / name)


def shrink(path: Path) -> None:
    """Keep 64 colours, which is all that curves and text need: a third of the bytes."""
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    draw_noise()
    table_of_noises()
    table_of_regions()
    draw_rates()
    command_line(["schedules", "--plot", str(HERE / "schedules.png")])
    shrink(HERE / "schedules.png")
    find_lr.main(["--output", str(HERE / "find_lr.png")])
    shrink(HERE / "find_lr.png")


if __name__ == "__main__":
    main()
