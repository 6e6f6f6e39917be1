"""Losses that return their value and their gradient in one pass.

All take ``(pred, target, *, reduction, weight, out)`` and return ``LossGrad(value, grad)``. `grad`
has pred's shape and dtype; ``out=`` receives it and may be `pred` itself. Values are accumulated
in float64 in a fixed order: the same bits on every thread count and instruction set.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from instep import _check, _core, config
from instep._check import Array

__all__ = ["LossGrad", "cross_entropy", "mse"]

Reduction = Literal["mean", "sum", "none"]
_NUMBER = _core.losses()


class LossGrad(NamedTuple):
    """A loss and its gradient.

    Attributes
    ----------
    value : float or numpy.ndarray
        A float; with ``reduction="none"`` an array of pred's dtype.
    grad : numpy.ndarray
        Derivative of the value (with "none": of its sum) with respect to pred.
    """

    value: Any
    grad: Array


def mse(
    pred: Any,
    target: Any,
    *,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Mean squared error.

    .. math::
        L = \frac{\sum_i w_i (x_i - t_i)^2}{\sum_i w_i}, \qquad
        \frac{\partial L}{\partial x_i} = \frac{2 w_i (x_i - t_i)}{\sum_i w_i}

    with :math:`w_i = 1` unless given: the divisor is then the number of elements. The formula is
    that of ``torch.nn.functional.mse_loss``; there is no factor 1/2.

    Parameters
    ----------
    pred : array of float32 or float64, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in pred's dtype.
    reduction : {"mean", "sum", "none"}
        "sum" leaves out the divisor; "none" returns the array of :math:`w_i (x_i - t_i)^2`.
    weight : array of floats, pred's shape, optional
        Use ``numpy.broadcast_to`` for one weight per sample.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        Value and gradient are 0 for empty input or weights that sum to 0 (PyTorch: NaN).

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, overlapping `out`. Nothing has been written.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.mse(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    LossGrad(value=0.5, grad=array([1., 0.]))
    """
    _check.choice("reduction", reduction, ("mean", "sum", "none"))
    pred = _check.prediction(pred)
    target = _check.real_target(target, pred)
    threads = config.get_num_threads()
    divisor = 1.0
    if weight is not None:
        weight = _check.elementwise_weight(weight, pred)
    if reduction == "mean":
        divisor = float(pred.size) if weight is None else _core.array_sum(weight, threads)
    grad = _check.output(out, pred, {"target": target, "weight": weight})
    values = np.empty_like(pred) if reduction == "none" else None
    if divisor == 0:
        grad.fill(0)
        return LossGrad(0.0, grad)
    scale = 1.0 / divisor
    total = _core.elementwise(_NUMBER["mse"], pred, target, weight, grad, values, scale, threads)
    return LossGrad(total * scale if values is None else values, grad)


def cross_entropy(
    pred: Any,
    target: Any,
    *,
    reduction: Reduction = "mean",
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> LossGrad:
    r"""Softmax cross-entropy from logits, with class labels or soft targets.

    .. math::
        t_k &= w_k \left((1 - s)\, q_k + s / C\right) \\
        L &= \sum_k t_k \left(\log \sum_j e^{x_j} - x_k\right), \qquad
        \frac{\partial L}{\partial x_j} = \Bigl(\sum_k t_k\Bigr) \mathrm{softmax}(x)_j - t_j

    per row of C logits, where q is the soft target or 1 at the label. The mean divides by
    :math:`\sum w_{label}` over the rows that count, with soft targets by the number of rows, as
    ``torch.nn.functional.cross_entropy`` does.

    Parameters
    ----------
    pred : array of float32 or float64
        Logits of shape (C,), (N, C) or (N, C, d1, ...); any strides.
    target : array
        Labels of any integer type in [0, C), shaped like pred without the class axis; or soft
        targets of pred's shape, any float dtype, which need not sum to 1.
    reduction : {"mean", "sum", "none"}
        "none" returns one value per row, and the gradient of their sum.
    weight : array of C floats, optional
        One weight per class; zero and negative ones are taken.
    ignore_index : int, default -100
        Rows with this label have value 0 and gradient 0. Labels only.
    label_smoothing : float in [0, 1], default 0.0
        s above.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        Value and gradient are 0 where no row counts (PyTorch: NaN). A logit of -inf with target 0
        adds nothing (PyTorch: NaN with soft targets).

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a label out of range, overlapping `out`. Nothing has been written.

    References
    ----------
    Label smoothing: Szegedy et al., arXiv:1512.00567.

    Examples
    --------
    >>> import numpy as np, instep
    >>> value, grad = instep.losses.cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> round(value, 6), grad
    (1.386294, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    _check.choice("reduction", reduction, ("mean", "sum", "none"))
    smoothing = _check.share("label_smoothing", label_smoothing)
    ignore = _check.label("ignore_index", ignore_index)
    pred = _check.logits(pred)
    target = _check.class_target(target, pred, ignore)
    labels = target.dtype.kind != "f" and _core.is_integer(target)
    axis = min(1, pred.ndim - 1)
    classes = pred.shape[axis]
    if weight is not None:
        weight = _check.class_weight(weight, classes, pred.dtype)
    divisor = 1.0
    if labels:
        divisor = _label_weight(target, classes, ignore, weight)
    elif pred.size:
        divisor = pred.size / classes
    grad = _check.output(out, pred, {"target": target, "weight": weight})
    if reduction != "mean":
        divisor = 1.0
    rows = pred.shape[:axis] + pred.shape[axis + 1 :]
    values = np.empty(rows, pred.dtype) if reduction == "none" else None
    if divisor == 0:
        grad.fill(0)
        return LossGrad(0.0, grad)
    scale = 1.0 / divisor
    total = _core.cross_entropy(
        _classes_last(pred),
        target if labels else _classes_last(target),
        weight,
        _classes_last(grad),
        values,
        ignore,
        smoothing,
        scale,
        config.get_num_threads(),
    )
    return LossGrad(total * scale if values is None else values, grad)


def _classes_last(array: Array) -> Array:
    return array if array.ndim <= 2 else array.transpose(0, *range(2, array.ndim), 1)


def _label_weight(target: Array, classes: int, ignore: int, weight: Array | None) -> float:
    """Sum of weight[label] over the rows that count; refuses labels out of range."""
    position, total = _core.check_labels(target, classes, ignore, weight)
    if position >= 0:
        where = tuple(int(i) for i in np.unravel_index(position, target.shape))
        raise ValueError(
            f"target{list(where) if where else ''} is {target[where]}, but labels must be in "
            f"[0, {classes}) or ignore_index={ignore}"
        )
    return total
