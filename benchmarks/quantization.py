"""What is lost by keeping states in 8 and 16 bits: ``python -m benchmarks.quantization``.

Each kind of numbers is rounded once, to the nearest and stochastically, by instep's formats and by
the "dynamic" map of bitsandbytes in blocks of 256, its own size, and of 128. The map is computed
here from its definition (Dettmers, arXiv:1511.04561 and 2110.02861); bitsandbytes is not needed.

RMS: root mean square of the errors over that of the numbers. Relative: root mean square and
largest of error / number over the numbers that are not 0; of a second moment v also of its root,
which is what a step divides by. A number that is rounded to 0 has a relative error of 1, one that
is raised to the least code of its block a large one. Last: what becomes of Adam's update,
m / sqrt(v), which is what training sees, over its RMS.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import instep
from benchmarks.verdict import backward, digits, forward, initialize

Array = np.ndarray[Any, np.dtype[Any]]
SIZE = 1 << 20


# ---- numbers ---------------------------------------------------------------------------------


def adam_state(epochs: int = 5) -> tuple[Array, Array]:
    """exp_avg and exp_avg_sq of the largest weight matrix of a network on digits."""
    rng = np.random.default_rng(0)
    x, y = digits()
    params = initialize((x.shape[1], 512, 256, 10), rng)
    opt = instep.AdamW(params, lr=1e-3)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), 32):
            rows = order[start : start + 32]
            outputs, inputs = forward(params, x[rows])
            loss = instep.losses.cross_entropy(outputs, y[rows])
            opt.step(backward(params, inputs, loss.grad))
    name = max(params, key=lambda name: params[name].size)
    return opt.state[name]["exp_avg"].ravel(), opt.state[name]["exp_avg_sq"].ravel()


def averages(steps: int = 200) -> tuple[Array, Array]:
    """m and v, corrected, after gaussian gradients of elements whose sizes are log-normal."""
    rng = np.random.default_rng(3)
    size = rng.lognormal(0, 1, SIZE // 8)
    m, v = np.zeros(size.shape), np.zeros(size.shape)
    for _ in range(steps):
        g = rng.normal(size=size.shape) * size
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
    v /= 1 - 0.999**steps
    return m.astype(np.float32), v.astype(np.float32)


def momenta() -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        "gaussian": rng.normal(size=SIZE).astype(np.float32),
        "Adam on digits": adam_state()[0],
    }


def second_moments() -> dict[str, Array]:
    rng = np.random.default_rng(2)
    return {
        "chi-square, 1 degree": rng.chisquare(1, SIZE).astype(np.float32),
        "log-normal, sigma 2": rng.lognormal(0, 2, SIZE).astype(np.float32),
        "Adam on digits": adam_state()[1],
    }


# ---- formats ---------------------------------------------------------------------------------


def nearest(state: str, state_dtype: str) -> Callable[[Array], Array]:
    """instep's, as a snapshot is converted."""

    def rounded(values: Array) -> Array:
        opt = instep.Adam(np.zeros(values.size, np.float32), state_dtype=state_dtype)
        saved = opt.state_dict()
        saved["state"]["param"] = {"step": 1, "exp_avg": values * 0, "exp_avg_sq": values * 0}
        saved["state"]["param"][state] = values
        opt.load_state_dict(saved)
        return opt.decoded_state("param")[state]

    return rounded


def stochastic(state: str, state_dtype: str) -> Callable[[Array], Array]:
    """instep's, as a step does: of an Adam without memory, whose averages are g and g^2."""

    def rounded(values: Array) -> Array:
        opt = instep.Adam(np.zeros(values.size), lr=0.0, betas=(0.0, 0.0), state_dtype=state_dtype)
        wide = values.astype(np.float64)
        opt.step(wide if state == "exp_avg" else np.sqrt(wide))
        return opt.decoded_state("param")[state]

    return rounded


def dynamic_map(signed: bool) -> Array:
    """Seven decades; each has twice as many numbers as the one below, at the middles of equal
    intervals of [0.1, 1]; 0; 1."""
    numbers = [0.0, 1.0]
    for k in range(7):
        edges = np.linspace(0.1, 1, (1 if signed else 2) * 2**k + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (k - 6)
        numbers += [*middles, *(-middles if signed else [])]
    return np.array(sorted(numbers), np.float32)


def dynamic(signed: bool, block: int) -> Callable[[Array], Array]:
    numbers = dynamic_map(signed).astype(np.float64)
    middles = (numbers[1:] + numbers[:-1]) / 2

    def rounded(values: Array) -> Array:
        room = np.zeros(-(-values.size // block) * block)
        room[: values.size] = values
        blocks = room.reshape(-1, block)
        scale = np.max(np.abs(blocks), axis=1, keepdims=True)
        scale[scale == 0] = 1
        codes = np.searchsorted(middles, blocks / scale)
        return (numbers[codes] * scale).ravel()[: values.size]

    return rounded


def formats(state: str) -> dict[str, Callable[[Array], Array]]:
    signed = state == "exp_avg"
    return {
        "8bit, nearest": nearest(state, "8bit"),
        "8bit, stochastic": stochastic(state, "8bit"),
        "dynamic, 256": dynamic(signed, 256),
        "dynamic, 128": dynamic(signed, 128),
        "bfloat16, nearest": nearest(state, "bfloat16"),
        "bfloat16, stochastic": stochastic(state, "bfloat16"),
    }


# ---- errors ----------------------------------------------------------------------------------


def rms(numbers: Array) -> float:
    return float(np.sqrt(np.mean(np.square(numbers))))


def errors(values: Array, found: Array, root: bool) -> list[float]:
    wide, found = values.astype(np.float64), found.astype(np.float64)
    there = wide != 0
    relative = found[there] / wide[there] - 1
    row = [rms(found - wide) / rms(wide), rms(relative), float(np.max(np.abs(relative)))]
    if root:
        of_root = np.sqrt(found[there] / wide[there]) - 1
        row += [rms(of_root), float(np.max(np.abs(of_root)))]
    return row


def share(number: float) -> str:
    percent = 100 * number
    return f"{percent:.3g}" if percent < 99.95 or percent >= 1e4 else f"{percent:.0f}"


def table(state: str, kinds: dict[str, Array]) -> list[str]:
    root = state == "exp_avg_sq"
    head = ["numbers", "format", "RMS", "relative RMS", "largest"]
    head += ["RMS of the root", "largest"] if root else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, values in kinds.items():
        for label, rounded in formats(state).items():
            cells = [share(number) for number in errors(values, rounded(values), root)]
            lines.append("| " + " | ".join([name, label, *cells]) + " |")
    return lines


def update_table() -> list[str]:
    """What becomes of m / (sqrt(v) + 1e-8)."""
    kinds = {"averages of gradients": averages(), "Adam on digits": adam_state()}
    lines = ["| numbers | format | RMS |", "|---|---|---|"]
    for name, (m, v) in kinds.items():
        wanted = m / (np.sqrt(v.astype(np.float64)) + 1e-8)
        of_m, of_v = formats("exp_avg"), formats("exp_avg_sq")
        for label in of_m:
            root = np.sqrt(of_v[label](v).astype(np.float64))
            found = of_m[label](m) / (root + 1e-8)
            lines.append(f"| {name} | {label} | {share(rms(found - wanted) / rms(wanted))} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    output = parser.parse_args().output
    lines = ["Errors of one rounding, in percent.", "", "Momenta:", ""]
    lines += table("exp_avg", momenta())
    lines += ["", "Second moments:", "", *table("exp_avg_sq", second_moments())]
    lines += ["", "Adam's update:", "", *update_table()]
    text = "\n".join(lines)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
