"""Careful NumPy: no temporaries, and the fewest and fastest passes that were found.

Each function below makes, for a mean over `n` values, a function of a block of predictions and
targets, the gradient's place, three scratch buffers and ones: it writes the gradient and returns
the block's share of the value.

What was measured to be fastest: constants as 0-d arrays rather than floats, `out` by position, sums
as dot products with ones, clip instead of maximum, comparisons instead of sign.
"""

from collections.abc import Callable
from itertools import repeat
from math import log

import numpy as np
from numpy import absolute, add, clip, divide, exp, greater, less, multiply, subtract, tanh

from benchmarks.contenders.base import LossContender
from benchmarks.works import Array, LossTask

_FEW_CLASSES = 64  # up to here, rows are too short for NumPy's loops: classes go first

Body = Callable[[Array, Array, Array, tuple[Array, ...]], float]


def _constant(value: float) -> Array:
    return np.array(value, np.float32)


_INFINITY = _constant(np.inf)


def _mse(n: int) -> Body:
    scale, double = 1 / n, _constant(2 / n)

    def body(p, t, g, scratch):
        subtract(p, t, g)
        total = g.dot(g)
        multiply(g, double, g)
        return total * scale

    return body


def _absolute_error(n: int, factor: float) -> Body:
    scale, zero = _constant(factor / n), _constant(0)
    signs = np.empty((2, n), np.int8)

    def body(p, t, g, scratch):
        s, (positive, negative) = scratch[0], signs[:, : p.size]
        subtract(p, t, s)
        greater(s, zero, positive.view(bool))
        less(s, zero, negative.view(bool))
        subtract(positive, negative, positive)
        np.copyto(g, positive)
        multiply(g, scale, g)
        return g.dot(s)

    return body


def _mae(n: int) -> Body:
    return _absolute_error(n, 1.0)


def _quantile(n: int) -> Body:
    """Of q = 1/2."""
    return _absolute_error(n, 0.5)


def _huber(n: int) -> Body:
    """With c = clip(e, -1, 1) for the gradient, the value is c e - c^2 / 2."""
    scale, factor, low, high = 1 / n, _constant(1 / n), _constant(-1), _constant(1)

    def body(p, t, g, scratch):
        s = scratch[0]
        subtract(p, t, s)
        clip(s, low, high, g)
        total = g.dot(s) - 0.5 * g.dot(g)
        multiply(g, factor, g)
        return total * scale

    return body


def _log_cosh(n: int) -> Body:
    """log cosh e = |e| + log(1 + exp(-2 |e|)) - log 2."""
    scale, factor, minus_two = 1 / n, _constant(1 / n), _constant(-2)

    def body(p, t, g, scratch):
        s, _, _, ones = scratch
        subtract(p, t, g)
        absolute(g, s)
        total = s.dot(ones)
        multiply(s, minus_two, s)
        exp(s, s)
        np.log1p(s, s)
        total += s.dot(ones) - s.size * log(2)
        tanh(g, g)
        multiply(g, factor, g)
        return total * scale

    return body


def _poisson_nll(n: int) -> Body:
    scale, factor = 1 / n, _constant(1 / n)

    def body(p, t, g, scratch):
        ones = scratch[3]
        exp(p, g)
        total = g.dot(ones) - p.dot(t)
        subtract(g, t, g)
        multiply(g, factor, g)
        return total * scale

    return body


def _binary_cross_entropy_with_logits(n: int) -> Body:
    """With h = tanh(x/2): the value is x (1/2 - t) + |x| / 2 - log(1/2 + |h| / 2),

    the gradient h / 2 + 1/2 - t. Right for all x; exp and its branches take three times as long.
    """
    scale, factor, half = 1 / n, _constant(1 / n), _constant(0.5)

    def body(p, t, g, scratch):
        s, _, _, ones = scratch
        multiply(p, half, g)
        tanh(g, g)
        absolute(g, s)
        np.log1p(s, s)
        total = p.size * log(2) - s.dot(ones)
        absolute(p, s)
        total += 0.5 * s.dot(ones)
        subtract(half, t, s)
        total += p.dot(s)
        multiply(g, half, g)
        add(g, s, g)
        multiply(g, factor, g)
        return total * scale

    return body


def _focal(n: int) -> Body:
    """For targets 0 and 1, gamma 2: with z = (1 - 2 t) x, S = sigmoid(z), B = log(1 + exp(z)),

    the value is S^2 B and the gradient (1 - 2 t) S^2 (S + 2 B (1 - S)).
    """
    scale, factor, half, zero = 1 / n, _constant(1 / n), _constant(0.5), _constant(0)
    one, two = _constant(1), _constant(2)

    def body(p, t, g, scratch):
        s, r, q, _ = scratch
        multiply(t, two, r)
        subtract(one, r, r)
        multiply(p, r, g)
        clip(g, zero, _INFINITY, s)
        multiply(g, half, g)
        tanh(g, g)
        multiply(g, half, g)
        multiply(r, factor, r)
        absolute(g, q)
        add(q, half, q)
        np.log(q, q)
        subtract(s, q, s)  # B
        add(g, half, g)  # S
        multiply(g, g, q)
        multiply(r, q, r)
        total = q.dot(s)
        subtract(one, g, q)
        multiply(q, s, q)
        multiply(q, two, q)
        add(g, q, g)
        multiply(g, r, g)
        return total * scale

    return body


def _binary_cross_entropy(n: int) -> Body:
    scale, factor, one = 1 / n, _constant(1 / n), _constant(1)
    least, smallest = _constant(-100), _constant(1e-12)

    def body(p, t, g, scratch):
        s, r, _, ones = scratch
        subtract(one, p, g)
        np.log(g, s)
        clip(s, least, _INFINITY, s)
        np.log(p, r)
        clip(r, least, _INFINITY, r)
        total = s.dot(ones) - t.dot(s) + t.dot(r)
        multiply(g, p, g)
        clip(g, smallest, _INFINITY, g)
        subtract(p, t, s)
        divide(s, g, g)
        multiply(g, factor, g)
        return -total * scale

    return body


def _hinge(n: int) -> Body:
    scale, factor, one = 1 / n, _constant(-1 / n), _constant(1)
    active = np.empty(n, bool)

    def body(p, t, g, scratch):
        s, _, _, ones = scratch
        multiply(p, t, s)
        np.copyto(g, less(s, one, active[: p.size]))
        total = g.dot(ones) - g.dot(s)
        multiply(g, t, g)
        multiply(g, factor, g)
        return total * scale

    return body


def _kl_div(n: int) -> Body:
    scale, factor, tiny = 1 / n, _constant(-1 / n), _constant(1e-38)

    def body(p, t, g, scratch):
        s = scratch[0]
        clip(t, tiny, _INFINITY, s)
        np.log(s, s)
        subtract(s, p, s)
        multiply(t, factor, g)
        return t.dot(s) * scale

    return body


def _cross_entropy(n: int, classes: int) -> Body:
    if classes <= _FEW_CLASSES:
        return _cross_entropy_of_few(n, classes)
    scale, ones, firsts = 1 / n, np.ones(classes, np.float32), np.arange(n) * classes

    def body(p, t, g, scratch):
        at = firsts[: len(p)] + t
        largest = np.maximum.reduce(p, 1)
        subtract(p, largest[:, None], g)
        exp(g, g)
        sums = g.dot(ones)
        multiply(g, (scale / sums)[:, None], g)
        g.reshape(-1)[at] -= scale
        return scale * (np.log(sums).sum() + largest.sum() - p.take(at).sum())

    return body


def _cross_entropy_of_few(n: int, classes: int) -> Body:
    scale, firsts = 1 / n, np.arange(n) * classes

    def body(p, t, g, scratch):
        s = scratch[0]
        at = firsts[: len(p)] + t
        x = s.reshape(classes, len(p))
        np.copyto(x, p.T)
        largest = np.maximum.reduce(x, 0)
        subtract(x, largest, x)
        exp(x, x)
        sums = add.reduce(x, 0)
        multiply(x, scale / sums, x)
        np.copyto(g, x.T)
        g.reshape(-1)[at] -= scale
        return scale * (np.log(sums).sum() + largest.sum() - p.take(at).sum())

    return body


def _categorical_cross_entropy(n: int, classes: int) -> Body:
    scale, firsts = 1 / n, np.arange(n) * classes

    def body(p, t, g, scratch):
        at = firsts[: len(p)] + t
        picked = p.take(at)
        g.fill(0)
        g.reshape(-1)[at] = -scale / picked
        return -scale * np.log(picked).sum()

    return body


def _region(gain: float, overlap: float, sizes: float) -> Callable[[int], Body]:
    """1 - N / D, N = gain I + 1, D = overlap I + sizes (P + T) + 1; a block is one sample."""

    def make(n: int) -> Body:
        def body(p, t, g, scratch):
            p, t, g, ones = (array.reshape(-1) for array in (p, t, g, scratch[3]))
            common = p.dot(t)
            upper = gain * common + 1
            lower = overlap * common + sizes * (p.dot(ones) + t.dot(ones)) + 1
            share = upper / lower
            multiply(t, _constant((share * overlap - gain) / (lower * n)), g)
            add(g, _constant(share * sizes / (lower * n)), g)
            return (1 - share) / n

        return body

    return make


LOSSES: dict[str, Callable[..., Body]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy_with_logits": _binary_cross_entropy_with_logits,
    "mse": _mse,
    "dice": _region(2.0, 0.0, 1.0),
    "iou": _region(1.0, -1.0, 1.0),
    "tversky": _region(1.0, 0.0, 0.5),
    "mae": _mae,
    "huber": _huber,
    "smooth_l1": _huber,  # with beta = delta = 1
    "log_cosh": _log_cosh,
    "quantile": _quantile,
    "poisson_nll": _poisson_nll,
    "binary_cross_entropy": _binary_cross_entropy,
    "focal": _focal,
    "hinge": _hinge,
    "kl_div": _kl_div,
    "categorical_cross_entropy": _categorical_cross_entropy,
}


class NumpyInPlace(LossContender):
    """Each operation on all elements at once; of regions, on one sample."""

    losses = LOSSES
    block: int | None = None  # elements

    def compile(self) -> None:
        task = self.task
        classes = task.shape[1:2] if task.loss.labels else ()
        self.body = LOSSES[task.kind](task.values, *classes)
        self.rows = task.shape[0]  # of one block
        if self.block is not None:
            self.rows = max(1, self.block * self.rows // task.elements)
        if task.loss.per_row and not task.loss.labels:
            self.rows = 1

    def allocate(self, pred: Array, target: Array) -> None:
        self.pred, self.target = pred.copy(), target.copy()
        self.grad = np.empty_like(pred)
        scratch = np.empty((4, *pred[: self.rows].shape), np.float32)
        scratch[3] = 1
        self.blocks = []
        for start in range(0, len(pred), self.rows):
            part = slice(start, start + self.rows)
            block = (self.pred[part], self.target[part], self.grad[part])
            self.blocks.append((*block, tuple(scratch[:, : len(block[0])])))

    def run(self, times: int) -> None:
        body, blocks = self.body, self.blocks
        if len(blocks) == 1:
            for _ in repeat(None, times):
                value = body(*blocks[0])
        else:
            for _ in repeat(None, times):
                value = sum([body(*block) for block in blocks])
        self.value = float(value)

    def result(self) -> tuple[float, Array]:
        return self.value, self.grad


class NumpyInBlocks(NumpyInPlace):
    """The same over blocks that the caches hold from one operation to the next."""

    block = 262_144

    @classmethod
    def unsupported(cls, task: LossTask) -> str | None:
        regions = task.loss.per_row and not task.loss.labels
        if task.elements <= cls.block or regions:
            return "the same as in place"
        return super().unsupported(task)
