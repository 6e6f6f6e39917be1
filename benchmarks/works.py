"""What is timed: the update rules and losses, the array shapes, and the data they start from.

Needs NumPy alone, so that every process of a benchmark and the tests can read these tables.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
ROOT = Path(__file__).resolve().parent.parent

# One row per rule of the core: the class that runs it, and the hyperparameters that choose it.
#
# A benchmark repeats one gradient for many steps, under which a centred variance v - a^2 decays
# to rounding error as alpha^steps, and becomes NaN in the peers that do not clamp it. This alpha
# keeps it in the normal range for the length of a batch; it changes nothing that costs time.
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 1e-2}),
    "sgd_momentum": ("SGD", {"lr": 1e-2, "momentum": 0.9}),
    "rmsprop": ("RMSprop", {"lr": 1e-3, "alpha": 0.9999}),
    "rmsprop_momentum": ("RMSprop", {"lr": 1e-3, "alpha": 0.9999, "momentum": 0.9}),
    "rmsprop_centered": ("RMSprop", {"lr": 1e-3, "alpha": 0.9999, "centered": True}),
    "rmsprop_centered_momentum": (
        "RMSprop",
        {"lr": 1e-3, "alpha": 0.9999, "momentum": 0.9, "centered": True},
    ),
    "adam": ("AdamW", {"lr": 1e-3, "weight_decay": 1e-2}),
    "adam_amsgrad": ("AdamW", {"lr": 1e-3, "weight_decay": 1e-2, "amsgrad": True}),
}


def regression(rng: np.random.Generator) -> tuple[Array, Array]:
    """64K predictions and targets."""
    pred, target = rng.standard_normal((2, 65_536), dtype=np.float32)
    return pred, target


def classification(rng: np.random.Generator) -> tuple[Array, Array]:
    """A batch of 512 rows of 1,000 logits, and their labels."""
    return rng.standard_normal((512, 1000), dtype=np.float32), rng.integers(0, 1000, 512)


# One row per loss of the core: what makes its prediction and target.
LOSSES: dict[str, Callable[[np.random.Generator], tuple[Array, Array]]] = {
    "mse": regression,
    "cross_entropy": classification,
}


class Optimizer(NamedTuple):
    """An optimizer as it is raced: a rule, and how many state arrays every contender needs."""

    rule: str
    states: int

    @property
    def class_name(self) -> str:
        return RULES[self.rule][0]

    @property
    def hyper(self) -> dict[str, Any]:
        return dict(RULES[self.rule][1])

    @property
    def bytes_per_element(self) -> int:
        """The parameter and each state are read and written, the gradient is read; float32."""
        return 4 * (2 * (1 + self.states) + 1)


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer("adam", 2),
    "sgd": Optimizer("sgd", 0),
    "sgd_momentum": Optimizer("sgd_momentum", 1),
    "rmsprop": Optimizer("rmsprop_centered_momentum", 3),
}


@dataclass(frozen=True)
class Work:
    """Arrays to update, the thread counts and the optimizers to do it with."""

    shapes: tuple[tuple[int, ...], ...]
    threads: tuple[int, ...]
    optimizers: tuple[str, ...]
    usual: bool = True  # False: only where asked for

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


def _gpt2_shapes() -> tuple[tuple[int, ...], ...]:
    """The 148 parameters of GPT-2 small, 124 million elements."""
    width = 768
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    feed_forward = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    block = [*norm, *attention, *norm, *feed_forward]
    return ((50_257, width), (1024, width), *(12 * block), *norm)


WORKS: dict[str, Work] = {
    "10": Work(((10,),), (1,), ("adamw", "sgd")),
    "4K": Work(((4096,),), (1,), ("adamw",)),
    "64K": Work(((65_536,),), (1,), ("adamw", "sgd_momentum", "rmsprop")),
    "1000x100": Work(((100,),) * 1000, (1,), ("adamw",)),
    "1M": Work(((1_048_576,),), (1, 2), ("adamw", "sgd_momentum", "rmsprop")),
    "16M": Work(((16_777_216,),), (2,), ("adamw",)),
    "gpt2": Work(_gpt2_shapes(), (2,), ("adamw",), usual=False),
}


class StepTask(NamedTuple):
    """A step of one optimizer over one work's arrays."""

    optimizer: Optimizer
    work: Work

    @property
    def elements(self) -> int:
        return self.work.elements

    @property
    def traffic(self) -> int:
        """Bytes that a step must move."""
        return self.elements * self.optimizer.bytes_per_element

    @property
    def memory(self) -> int:
        """Bytes that a contender needs: parameter, gradient, one more while verifying."""
        return 4 * self.elements * (self.optimizer.states + 3)


STEPS = {
    (kind, name): StepTask(optimizer, work)
    for name, work in WORKS.items()
    for kind, optimizer in OPTIMIZERS.items()
}


def parameters(shapes: Any, seed: int = 1) -> list[Array]:
    """Seeded float32 weights of the usual spread, 0.02."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    for array in arrays:
        array *= np.float32(0.02)
    return arrays


def gradients(shapes: Any, step: int) -> list[Array]:
    """Seeded float32 gradients of one step."""
    rng = np.random.default_rng([2, step])
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def gradient_steps(shapes: Any, steps: int) -> Iterator[list[Array]]:
    """The gradients of each step, one step in memory at a time."""
    return (gradients(shapes, step) for step in range(steps))


def load_reference() -> ModuleType:
    """The float64 twins of tests/reference.py, which is not in a package."""
    path = ROOT / "tests" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
