"""A NumPy network learns scikit-learn's handwritten digits through instep.

Run it with ``python examples/digits.py``. The 1,797 scans of 8 x 8 pixels (UCI, Alpaydin and
Kaynak 1998) ship with scikit-learn. The network is 64-128-64-10 with hand-written forward and
backward passes; the loss and the optimizer are instep's. The same AdamW written in plain NumPy
takes the same steps on a copy of the parameters, so that the time of each is known in one run.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import instep

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_digits
    from tqdm import tqdm
except ImportError as error:
    raise SystemExit(
        f'{error.name} is missing; install the extras with: python -m pip install ".[demo]"'
    ) from None

LAYERS = (64, 128, 64, 10)
Params = dict[str, np.ndarray]


def load(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels in [0, 1] and labels, shuffled; the last fifth is for testing."""
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    x = (digits.data[order] / 16.0).astype(np.float32)
    y = digits.target[order]
    split = len(y) * 4 // 5
    return x[:split], y[:split], x[split:], y[split:]


def initialize(rng: np.random.Generator) -> Params:
    """He's initialization for the weights (arXiv:1502.01852), zero biases."""
    params: Params = {}
    for k, (inputs, outputs) in enumerate(pairwise(LAYERS)):
        scale = np.sqrt(2.0 / inputs)
        params[f"W{k}"] = (scale * rng.standard_normal((inputs, outputs))).astype(np.float32)
        params[f"b{k}"] = np.zeros(outputs, np.float32)
    return params


def forward(params: Params, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits, and the input of each layer for the backward pass."""
    inputs = [x]
    last = len(LAYERS) - 2
    for k in range(last + 1):
        x = x @ params[f"W{k}"] + params[f"b{k}"]
        if k < last:
            x = np.maximum(x, 0)
            inputs.append(x)
    return x, inputs


def backward(params: Params, inputs: list[np.ndarray], dlogits: np.ndarray, grads: Params) -> None:
    """Write the gradient of the loss into `grads`, given that of the logits."""
    delta = dlogits
    for k in range(len(LAYERS) - 2, -1, -1):
        np.matmul(inputs[k].T, delta, out=grads[f"W{k}"])
        np.sum(delta, axis=0, out=grads[f"b{k}"])
        if k > 0:
            delta = (delta @ params[f"W{k}"].T) * (inputs[k] > 0)


class NumpyAdamW:
    """The same update in plain NumPy, in place where NumPy can: what instep replaces."""

    def __init__(self, params: Params, schedule: Any, weight_decay: float, clip_norm: float):
        self.params, self.schedule = params, schedule
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.m = {name: np.zeros_like(value) for name, value in params.items()}
        self.v = {name: np.zeros_like(value) for name, value in params.items()}
        self.steps = 0

    def step(self, grads: Params, beta1: float = 0.9, beta2: float = 0.999) -> None:
        lr = self.schedule(self.steps)
        self.steps += 1
        norm = np.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
        clip = np.float32(self.clip_norm / norm if norm > self.clip_norm else 1.0)
        step_size = np.float32(lr / (1 - beta1**self.steps))
        root_scale = np.float32(1 / np.sqrt(1 - beta2**self.steps))
        for name, p in self.params.items():
            g, m, v = grads[name] * clip, self.m[name], self.v[name]
            m *= np.float32(beta1)
            m += np.float32(1 - beta1) * g
            v *= np.float32(beta2)
            v += np.float32(1 - beta2) * np.square(g)
            p *= np.float32(1 - lr * self.weight_decay)
            p -= step_size * m / (np.sqrt(v) * root_scale + np.float32(1e-8))


def accuracy(params: Params, x: np.ndarray, y: np.ndarray) -> float:
    return float((forward(params, x)[0].argmax(axis=1) == y).mean())


def train(epochs: int, batch: int, seed: int) -> dict[str, Any]:
    """Train; return the history and the times of both optimizers in seconds per step."""
    rng = np.random.default_rng(seed)
    x, y, x_test, y_test = load(rng)
    params = initialize(rng)
    steps = epochs * (len(y) // batch)
    cosine = instep.schedules.CosineAnnealing(3e-3, steps - steps // 10)
    lr = instep.schedules.Warmup(cosine, steps // 10)
    opt = instep.AdamW(params, lr=lr, weight_decay=0.01, clip_norm=1.0)
    rival = NumpyAdamW({k: p.copy() for k, p in params.items()}, lr, 0.01, 1.0)
    history: dict[str, Any] = {"loss": [], "lr": [], "test": [], "ours": [], "numpy": []}
    with tqdm(total=steps, unit="step") as bar:
        for _epoch in range(epochs):
            order = rng.permutation(len(y))
            for start in range(0, len(y) - batch + 1, batch):
                rows = order[start : start + batch]
                logits, inputs = forward(params, x[rows])
                loss, dlogits = instep.losses.cross_entropy(logits, y[rows], out=logits)
                backward(params, inputs, dlogits, opt.grads)
                begin = time.perf_counter()
                report = opt.step()
                middle = time.perf_counter()
                rival.step(opt.grads)
                history["numpy"].append(time.perf_counter() - middle)
                history["ours"].append(middle - begin)
                history["loss"].append(loss)
                history["lr"].append(report.lr)
                bar.update()
            history["test"].append(accuracy(params, x_test, y_test))
            bar.set_postfix(loss=f"{loss:.4f}", test=f"{history['test'][-1]:.2%}", refresh=False)
    logits, _ = forward(params, x)
    history["train_loss"] = instep.losses.cross_entropy(logits, y).value
    history["test_loss"] = instep.losses.cross_entropy(forward(params, x_test)[0], y_test).value
    history["rival_gap"] = max(float(np.abs(params[k] - rival.params[k]).max()) for k in params)
    history["size"] = sum(p.size for p in params.values())
    return history


def report(history: dict[str, Any], seconds: float) -> None:
    ours, numpy = (1e3 * float(np.median(history[who])) for who in ("ours", "numpy"))
    rows = [
        ("test accuracy", f"{history['test'][-1]:.2%}"),
        ("loss, train / test", f"{history['train_loss']:.4f} / {history['test_loss']:.4f}"),
        ("parameters", f"{history['size']:,}"),
        ("training", f"{seconds:.1f} s for {len(history['loss'])} steps"),
        ("optimizer, instep", f"{ours:.4f} ms per step"),
        ("optimizer, plain NumPy", f"{numpy:.4f} ms per step ({numpy / ours:.1f} times as long)"),
        ("largest difference", f"{history['rival_gap']:.1e} between their parameters"),
        ("instruction set", f"{instep.isa()}, {instep.get_num_threads()} threads at most"),
    ]
    for name, value in rows:
        print(f"{name:>24}  {value}")


def draw(history: dict[str, Any], path: Path) -> None:
    """Loss, accuracy and learning rate over the steps."""
    steps = np.arange(1, len(history["loss"]) + 1)
    ends = np.linspace(len(steps) / len(history["test"]), len(steps), len(history["test"]))
    window = 20
    smooth = np.convolve(history["loss"], np.ones(window) / window, mode="valid")
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(8, 8), sharex=True, height_ratios=(3, 3, 2), layout="constrained"
    )
    top.semilogy(steps, history["loss"], color="0.8", linewidth=0.8, label="each batch")
    top.semilogy(steps[window - 1 :], smooth, color="C0", label=f"mean of {window}")
    top.set_ylabel("training loss")
    top.legend(frameon=False)
    middle.plot(ends, 100 * np.array(history["test"]), color="C2")
    middle.set_ylabel("test accuracy (%)")
    middle.set_ylim(top=100.5)
    middle.annotate(
        f"{history['test'][-1]:.2%}",
        (ends[-1], 100 * history["test"][-1]),
        xytext=(-4, -14),
        textcoords="offset points",
        ha="right",
    )
    bottom.plot(steps, history["lr"], color="C1")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    bottom.set_ylim(bottom=0)
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("A 64-128-64-10 NumPy network learns handwritten digits with instep.AdamW")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("digits.png"))
    options = parser.parse_args()
    begin = time.perf_counter()
    history = train(options.epochs, options.batch, options.seed)
    report(history, time.perf_counter() - begin)
    draw(history, options.output)
    print(f"{'picture':>24}  {options.output}")


if __name__ == "__main__":
    main()
