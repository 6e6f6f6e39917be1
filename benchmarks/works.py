"""What is timed: the update rules and losses, the array shapes, and the data they start from.

Needs NumPy alone, so that every process of a benchmark and the tests can read these tables.
"""

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]
Data = tuple[Array, Array]  # prediction and target
ROOT = Path(__file__).resolve().parent.parent

# ---- steps -------------------------------------------------------------------------------------

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
    "amsgrad": Optimizer("adam_amsgrad", 3),
    "rmsprop_plain": Optimizer("rmsprop", 1),
    "rmsprop_momentum": Optimizer("rmsprop_momentum", 2),
    "rmsprop_centered": Optimizer("rmsprop_centered", 2),
}


@dataclass(frozen=True)
class Work:
    """Arrays to update, the thread counts and the optimizers to do it with."""

    shapes: tuple[Shape, ...]
    threads: tuple[int, ...]
    optimizers: tuple[str, ...]
    usual: bool = True  # False: only where asked for
    layout: str = "C"  # of the gradients; else "F" or "strided", as a backward pass may leave them

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


def _gpt2_shapes() -> tuple[Shape, ...]:
    """The 148 parameters of GPT-2 small, 124 million elements."""
    width = 768
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    feed_forward = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    block = [*norm, *attention, *norm, *feed_forward]
    return ((50_257, width), (1024, width), *(12 * block), *norm)


def _resnet50_shapes() -> tuple[Shape, ...]:
    """The 161 parameters of ResNet-50, 25.6 million elements, as torchvision has them."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            outputs = 4 * width
            convolutions = [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            if block == 0:
                convolutions.append((outputs, inputs, 1, 1))
            for convolution in convolutions:
                shapes += [convolution, convolution[:1], convolution[:1]]  # and its normalization
            inputs = outputs
    return (*shapes, (1000, 2048), (1000,))


def _many(count: int) -> Work:
    return Work(((100,),) * count, (1,), ("adamw",), usual=count == 1000)


def _lone(elements: int) -> Work:
    return Work(((elements,),), (2,), ("adamw",), usual=False)


WORKS: dict[str, Work] = {
    "10": Work(((10,),), (1,), ("adamw", "sgd")),
    "4K": Work(((4096,),), (1,), ("adamw",)),
    "64K": Work(((65_536,),), (1,), ("adamw", "sgd_momentum", "rmsprop")),
    **{f"{count}x100": _many(count) for count in (10, 100, 1000, 10_000)},
    "1M": Work(((1_048_576,),), (1, 2), ("adamw", "sgd_momentum", "rmsprop")),
    "16M": Work(((16_777_216,),), (2,), ("adamw",)),
    "64M": _lone(67_108_864),
    "gpt2": Work(_gpt2_shapes(), (2,), ("adamw",), usual=False),
    "resnet50": Work(_resnet50_shapes(), (2,), ("adamw",), usual=False),
    # What is missing above of the cost as arrays grow.
    "1": _lone(1),
    "100": _lone(100),
    "1K": _lone(1024),
    "16K": _lone(16_384),
    "256K": _lone(262_144),
    "4M": _lone(4_194_304),
}

_SQUARE = ((1024, 1024),)
LAYOUT_WORKS = {
    f"1M {layout}": Work(_SQUARE, (1, 2), ("adamw", "sgd_momentum"), layout=layout)
    for layout in ("strided", "F")
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


def _tasks(works: dict[str, Work]) -> dict[tuple[str, str], StepTask]:
    return {
        (kind, name): StepTask(optimizer, work)
        for name, work in works.items()
        for kind, optimizer in OPTIMIZERS.items()
    }


STEPS = _tasks(WORKS)
LAYOUTS = _tasks(LAYOUT_WORKS)
_REPEATED = 1_048_576  # elements of random data that large arrays repeat: to make 64M takes seconds


def normal(shapes: Any, seed: Any, scale: float = 1.0) -> list[Array]:
    """Seeded float32 arrays of that spread."""
    rng = np.random.default_rng(seed)
    arrays = []
    for shape in shapes:
        size = math.prod(shape)
        some = rng.standard_normal(min(size, _REPEATED), dtype=np.float32)
        some *= np.float32(scale)
        arrays.append((np.resize(some, size) if size > _REPEATED else some).reshape(shape))
    return arrays


def parameters(shapes: Any) -> list[Array]:
    """Seeded float32 weights of the usual spread, 0.02."""
    return normal(shapes, 1, 0.02)


def gradients(shapes: Any, step: int) -> list[Array]:
    """Seeded float32 gradients of one step."""
    return normal(shapes, [2, step])


def laid_out(array: Array, layout: str) -> Array:
    """A copy in that layout: every second element of a larger array, or in Fortran order, `of long
    rows`: the first of 512, so that neighbours in a row are far apart."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "F of long rows":
        taller = np.zeros((512, *array.shape[1:]), array.dtype, order="F")
        taller[: len(array)] = array
        return taller[: len(array)]
    larger = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    larger[..., ::2] = array
    return larger[..., ::2]


def gradient_steps(shapes: Any, steps: int) -> Iterator[list[Array]]:
    """The gradients of each step, one step in memory at a time."""
    return (gradients(shapes, step) for step in range(steps))


# ---- losses ------------------------------------------------------------------------------------


def _regression(rng: np.random.Generator, shape: Shape) -> Data:
    """Predictions and targets around them."""
    pred, target = rng.standard_normal((2, *shape), dtype=np.float32)
    return pred, target


def _counts(rng: np.random.Generator, shape: Shape) -> Data:
    """Logarithms of rates, and counts."""
    pred = rng.standard_normal(shape, dtype=np.float32)
    return pred, rng.poisson(2.0, shape).astype(np.float32)


def _decisions(rng: np.random.Generator, shape: Shape) -> Data:
    """Logits, and 0 or 1."""
    pred = rng.standard_normal(shape, dtype=np.float32)
    return pred, rng.integers(0, 2, shape).astype(np.float32)


def _signs(rng: np.random.Generator, shape: Shape) -> Data:
    """Decision values, and -1 or 1."""
    pred, target = _decisions(rng, shape)
    return pred, 2 * target - 1


def _probabilities(rng: np.random.Generator, shape: Shape) -> Data:
    """Probabilities, and 0 or 1."""
    _, target = _decisions(rng, shape)
    return _inner(rng, shape), target


def _distributions(rng: np.random.Generator, shape: Shape) -> Data:
    """Logarithms of probabilities, and probabilities."""
    return np.log(_inner(rng, shape)), _inner(rng, shape)


def _inner(rng: np.random.Generator, shape: Shape) -> Array:
    """Probabilities that are neither 0 nor 1."""
    return np.clip(rng.random(shape, dtype=np.float32), 0.01, 0.99)


def _logits(rng: np.random.Generator, shape: Shape) -> Data:
    """Rows of logits, and a label for each row."""
    return rng.standard_normal(shape, dtype=np.float32), rng.integers(0, shape[1], shape[0])


def _class_probabilities(rng: np.random.Generator, shape: Shape) -> Data:
    """Rows of class probabilities, and a label for each row."""
    logits, labels = _logits(rng, shape)
    pred = np.exp(logits)
    return pred / np.sum(pred, axis=1, keepdims=True), labels


class Loss(NamedTuple):
    """How a loss is raced: on what data, in which shapes."""

    make: Callable[[np.random.Generator, Shape], Data]
    shapes: dict[str, Shape]
    per_row: bool = False  # one value for each entry of the first axis, not for each element
    labels: bool = False  # the target is one label per row
    more: dict[str, Shape] = {}  # noqa: RUF012 - raced only where asked for


def _shapes(*names: str) -> dict[str, Shape]:
    return {name: tuple(int(length) for length in name.split("x")) for name in names}


_1M = {"1M": (1_048_576,)}
_OTHERS = {"1K": (1024,), "64K": (65_536,), "8M": (8_388_608,)}
_SIZES = {"1K": (1024,), "64K": (65_536,), **_1M, "8M": (8_388_608,)}
_CLASSES = _shapes("64x10", "1024x10", "256x1000", "1024x32000")
_IMAGES = _shapes("4x1x512x512")
_OTHER_IMAGES = _shapes("4x1x16x16", "4x1x128x128", "32x1x512x512")

# One row per loss; of the options, all have their defaults.
LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(_logits, _CLASSES, per_row=True, labels=True),
    "binary_cross_entropy_with_logits": Loss(_decisions, _SIZES),
    "mse": Loss(_regression, _SIZES),
    "dice": Loss(_probabilities, _IMAGES, per_row=True, more=_OTHER_IMAGES),
    "iou": Loss(_probabilities, _IMAGES, per_row=True, more=_OTHER_IMAGES),
    "tversky": Loss(_probabilities, _IMAGES, per_row=True, more=_OTHER_IMAGES),
    "mae": Loss(_regression, _1M, more=_OTHERS),
    "huber": Loss(_regression, _1M, more=_OTHERS),
    "smooth_l1": Loss(_regression, _1M, more=_OTHERS),
    "log_cosh": Loss(_regression, _1M, more=_OTHERS),
    "quantile": Loss(_regression, _1M, more=_OTHERS),
    "poisson_nll": Loss(_counts, _1M, more=_OTHERS),
    "binary_cross_entropy": Loss(_probabilities, _1M, more=_OTHERS),
    "focal": Loss(_decisions, _1M, more=_OTHERS),
    "hinge": Loss(_signs, _1M, more=_OTHERS),
    "kl_div": Loss(_distributions, _1M, more=_OTHERS),
    "categorical_cross_entropy": Loss(
        _class_probabilities,
        _shapes("1024x1000"),
        per_row=True,
        labels=True,
        more=_shapes("64x10", "256x1000", "8192x1000"),
    ),
}


class LossTask(NamedTuple):
    """Value and gradient of one loss for float32 predictions of one shape."""

    kind: str
    shape: Shape

    @property
    def loss(self) -> Loss:
        return LOSSES[self.kind]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def values(self) -> int:
        """What the mean divides by."""
        return self.shape[0] if self.loss.per_row else self.elements

    @property
    def traffic(self) -> int:
        """Bytes that must move: prediction and target are read, the gradient is written."""
        return 4 * self.elements * (2 if self.loss.labels else 3)

    @property
    def memory(self) -> int:
        """Bytes that a contender needs: what moves, of the data once more, and some to verify."""
        return 2 * self.traffic

    def data(self, seed: int = 1) -> Data:
        """Seeded predictions and targets."""
        return self.loss.make(np.random.default_rng(seed), self.shape)


LOSS_TASKS = {
    (kind, name): LossTask(kind, shape)
    for kind, loss in LOSSES.items()
    for name, shape in (loss.shapes | loss.more).items()
}


def load_reference() -> ModuleType:
    """The float64 twins of tests/reference.py, which is not in a package."""
    folder = str(ROOT / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("reference")
