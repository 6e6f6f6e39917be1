"""Whether a contender computes what the float64 twin computes. Nothing is timed that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.works import Array, gradient_steps, load_reference, parameters

if TYPE_CHECKING:
    from benchmarks.contenders.base import LossContender, StepContender

STEPS = 5
# Largest error of a parameter, relative to the largest distance travelled. Rounding in float32
# stays under 1e-5 here, a wrong coefficient or a place of eps does not stay under 1e-2.
# A value or gradient of a loss is relative to the largest there is: likewise.
BOUND = 1e-4
_SAMPLE = 4096
_BLOCK = 1_048_576  # elements that the twin of a loss gets at a time


def positions(size: int) -> Array:
    """All elements of a small array; of a large one both ends and an even spread.

    Every rule treats elements alone, so the twin of a sample is the sample of the twin.
    """
    if size <= 2 * _SAMPLE:
        return np.arange(size)
    ends = np.arange(_SAMPLE // 2)
    # An odd stride meets every offset within a vector and a cache line.
    spread = np.arange(0, size, (size // _SAMPLE) | 1)
    return np.unique(np.concatenate([ends, spread, size - 1 - ends]))


def sample(arrays: list[Array], at: list[Array]) -> list[Array]:
    """The elements at these positions of each array, in float64."""
    pairs = zip(arrays, at, strict=True)
    return [np.asarray(array).reshape(-1)[where].astype(np.float64) for array, where in pairs]


def step_error(contender: StepContender) -> float:
    """Take steps with new gradients each; how far the parameters are from the twin's."""
    shapes = contender.task.work.shapes
    start = parameters(shapes)
    contender.allocate(start)
    at = [positions(array.size) for array in start]
    sampled_start = sample(start, at)
    sampled_gradients = []
    for gradients in gradient_steps(shapes, STEPS):
        sampled_gradients.append(sample(gradients, at))
        contender.set_gradients(gradients)
        contender.run(1)

    reference = load_reference()
    twin, _, _ = reference.run(
        contender.twin(reference), sampled_start, sampled_gradients, **contender.hyper
    )
    expected, before = np.concatenate(twin), np.concatenate(sampled_start)
    error = np.abs(np.concatenate(sample(contender.values(), at)) - expected)
    # np.max keeps NaN, so that it fails every comparison with the bound.
    return float(np.max(error) / np.max(np.abs(expected - before)))


def loss_error(contender: LossContender) -> float:
    """Compute twice, as buffers are used again; how far value and gradient are from the twin's."""
    task = contender.task
    pred, target = contender.data
    contender.allocate(pred, target)
    contender.run(2)
    value, grad = contender.result()
    twin = contender.twin(load_reference())
    rows = max(1, len(pred) * _BLOCK // task.elements)
    expected, errors, sizes = 0.0, [], []
    for start in range(0, len(pred), rows):
        part = slice(start, start + rows)
        total, grads = twin(pred[part], target[part], reduction="sum")
        expected += total / task.values
        errors.append(np.max(np.abs(grad[part] - grads / task.values)))
        sizes.append(np.max(np.abs(grads)) / task.values)
    value_error = abs(value - expected) / abs(expected) if expected else abs(value)
    return float(np.max([np.max(errors) / np.max(sizes), value_error]))
