"""A whole training step of examples/digits.py: batch, forward, loss, backward, update.

All take the same batches from the same start, and their losses are compared with those of the same
training in float64 before anything is timed.
"""

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.works import ROOT, Array, load_reference

RATE, DECAY, CLIP_NORM = 3e-3, 0.01, 1.0
BATCH = 32
STEPS = 30  # that are compared
_BATCHES = 256  # before they repeat
_SCHEDULED = 1760  # steps of the example


class DigitsTask(NamedTuple):
    """With the learning rate's schedule and the clipping of the example, or without."""

    around: bool
    threads: tuple[int, ...] = (1, 2)

    @property
    def elements(self) -> int:
        return 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10

    @property
    def traffic(self) -> int:
        """Not what such a step is limited by."""
        return 0

    @property
    def memory(self) -> int:
        return 40 * self.elements


_WORK = f"64-128-64-10, batch {BATCH}"
DIGITS_TASKS = {
    ("digits", _WORK): DigitsTask(around=False),
    ("digits, clip, schedule", _WORK): DigitsTask(around=True),
}


@cache
def example() -> ModuleType:
    """examples/digits.py, which is not in a package; ModuleNotFoundError if it lacks something."""
    for name in ("sklearn", "matplotlib", "tqdm"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"examples/digits.py needs {name}", name=name)
    spec = importlib.util.spec_from_file_location("digits", ROOT / "examples" / "digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Start(NamedTuple):
    """Where all begin, and what they learn from: pixels, labels, the rows of each batch."""

    params: dict[str, Array]
    x: Array
    y: Array
    batches: list[Array]


@cache
def start() -> Start:
    rng = np.random.default_rng(0)
    x, y, _, _ = example().load(rng)
    params = example().initialize(rng)
    orders = [rng.permutation(len(y)) for _ in range(_BATCHES * BATCH // len(y) + 1)]
    per_epoch = len(y) // BATCH
    batches = [order[BATCH * k : BATCH * (k + 1)] for order in orders for k in range(per_epoch)]
    return Start(params, x, y, batches[:_BATCHES])


@cache
def rates(around: bool) -> list[float]:
    """The learning rate of each step of the example; the last one goes on."""
    if not around:
        return [RATE]
    from instep.schedules import CosineAnnealing, Warmup

    warm = _SCHEDULED // 10
    schedule = Warmup(CosineAnnealing(RATE, _SCHEDULED - warm), warm)
    return [schedule(step) for step in range(_SCHEDULED)]


def twin(around: bool) -> list[float]:
    """The losses of the first steps in float64."""
    params, x, y, batches = start()
    params = {name: value.astype(np.float64) for name, value in params.items()}
    reference, states = load_reference(), {name: dict[str, Any]() for name in params}
    losses, rate = [], rates(around)
    for step in range(STEPS):
        rows = batches[step]
        logits, inputs = example().forward(params, x[rows].astype(np.float64))
        loss, dlogits = reference.LOSSES["cross_entropy"](logits, y[rows])
        losses.append(float(loss))
        grads = {name: np.empty_like(value) for name, value in params.items()}
        example().backward(params, inputs, dlogits, grads)
        norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
        factor = min(1.0, CLIP_NORM / norm) if around else 1.0
        lr = rate[min(step, len(rate) - 1)]
        for name, g in grads.items():
            params[name], states[name] = reference.adamw(
                params[name], factor * g, states[name], step=step + 1, lr=lr, weight_decay=DECAY
            )
    return losses


def error(found: list[float], around: bool) -> float:
    """The largest difference of these losses from the twin's, over the twin's first."""
    expected = np.array(twin(around))
    return float(np.max(np.abs(np.array(found) - expected)) / expected[0])
