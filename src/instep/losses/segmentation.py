"""Losses of segmentation: dice, iou, tversky. One kernel, whose coefficients they are."""

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from instep import _core
from instep._check import Array, choice, flag
from instep.losses import _check
from instep.losses._call import LossGrad, Reduction

__all__ = ["dice", "iou", "tversky"]

Axis = int | tuple[int, ...] | None


class Options(NamedTuple):
    """The options that the three share, as the user gave them."""

    smooth: Any
    axis: Any
    from_logits: Any
    reduction: Any
    weight: Any
    mask: Any
    ignore_index: Any
    out: Any


def dice(
    pred: Any,
    target: Any,
    *,
    smooth: float = 1.0,
    axis: Axis = None,
    from_logits: bool = False,
    reduction: Reduction = "mean",
    weight: Any = None,
    mask: Any = None,
    ignore_index: int | None = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Dice loss: 1 minus the overlap of two regions, relative to their sizes.

    .. math::
        L = 1 - \frac{2 I + s}{P + T + s}, \qquad I = \sum_i p_i t_i, \quad P = \sum_i p_i,
        \quad T = \sum_i t_i

    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Probabilities, or logits with ``from_logits=True``.
    target : array of real numbers, pred's shape
        Usually 0 and 1. Never broadcast.
    smooth : float >= 0, default 1.0
        s above. It keeps small regions from dominating, and is in units of elements.
    axis : int or tuple of ints, optional
        The axes summed into one score. Default: all but the first, one score per sample (all, if
        there is one only). For one score per class of pred (N, C, H, W) sum over (0, 2, 3); for one
        per sample and class over (2, 3).
    from_logits : bool, default False
        Whether to take the sigmoid of `pred` first; the gradient is with respect to the logits.
    reduction : {"mean", "sum", "none"}
        How the scores become one number; the mean divides by their number or by the sum of their
        weights. "none" returns the scores, and the gradient of their sum.
    weight : array of real numbers, optional
        One per score; or one per class, of shape (C,), where axis 1 is not summed.
    mask : array of bool or real numbers, pred's shape, optional
        Elements where it is 0 do not count.
    ignore_index : int, optional
        Elements with this target do not count.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        A score whose divisor is 0 (with smooth 0: nothing predicted and nothing there) is 0, and so
        is its gradient. Elements that do not count have gradient 0.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a bad option, overlapping `out`. Nothing has been written.

    References
    ----------
    Milletari et al., arXiv:1606.04797, with sums of squares in the divisor; the form above is
    that of Sudre et al., arXiv:1707.03237.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.dice(np.array([[1.0, 0.0, 1.0]]), np.array([[1, 0, 0]])).value
    0.25
    """
    options = Options(smooth, axis, from_logits, reduction, weight, mask, ignore_index, out)
    return _region(pred, target, (2.0, 0.0, 1.0, 1.0), options)


def iou(
    pred: Any,
    target: Any,
    *,
    smooth: float = 1.0,
    axis: Axis = None,
    from_logits: bool = False,
    reduction: Reduction = "mean",
    weight: Any = None,
    mask: Any = None,
    ignore_index: int | None = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Jaccard loss: 1 minus intersection over union.

    .. math::
        L = 1 - \frac{I + s}{P + T - I + s}, \qquad I = \sum_i p_i t_i, \quad P = \sum_i p_i,
        \quad T = \sum_i t_i

    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Probabilities, or logits with ``from_logits=True``.
    target : array of real numbers, pred's shape
        Usually 0 and 1. Never broadcast.
    smooth : float >= 0, default 1.0
        s above. It keeps small regions from dominating, and is in units of elements.
    axis : int or tuple of ints, optional
        The axes summed into one score. Default: all but the first, one score per sample (all, if
        there is one only). For one score per class of pred (N, C, H, W) sum over (0, 2, 3); for one
        per sample and class over (2, 3).
    from_logits : bool, default False
        Whether to take the sigmoid of `pred` first; the gradient is with respect to the logits.
    reduction : {"mean", "sum", "none"}
        How the scores become one number; the mean divides by their number or by the sum of their
        weights. "none" returns the scores, and the gradient of their sum.
    weight : array of real numbers, optional
        One per score; or one per class, of shape (C,), where axis 1 is not summed.
    mask : array of bool or real numbers, pred's shape, optional
        Elements where it is 0 do not count.
    ignore_index : int, optional
        Elements with this target do not count.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        A score whose divisor is 0 (with smooth 0: nothing predicted and nothing there) is 0, and so
        is its gradient. Elements that do not count have gradient 0.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a bad option, overlapping `out`. Nothing has been written.

    References
    ----------
    Rahman and Wang, ISVC 2016, doi:10.1007/978-3-319-50835-1_22.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.iou(np.array([[1.0, 0.0, 1.0, 1.0]]), np.array([[1, 0, 0, 1]])).value
    0.25
    """
    options = Options(smooth, axis, from_logits, reduction, weight, mask, ignore_index, out)
    return _region(pred, target, (1.0, -1.0, 1.0, 1.0), options)


def tversky(
    pred: Any,
    target: Any,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    axis: Axis = None,
    from_logits: bool = False,
    reduction: Reduction = "mean",
    weight: Any = None,
    mask: Any = None,
    ignore_index: int | None = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Tversky loss: false positives and false negatives weighed apart.

    .. math::
        L = 1 - \frac{I + s}{I + \alpha (P - I) + \beta (T - I) + s}, \qquad I = \sum_i p_i t_i,
        \quad P = \sum_i p_i, \quad T = \sum_i t_i

    With alpha = beta = 1/2 it is `dice` with twice the smoothing, with 1 and 1 it is `iou`.

    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Probabilities, or logits with ``from_logits=True``.
    target : array of real numbers, pred's shape
        Usually 0 and 1. Never broadcast.
    alpha : float >= 0, default 0.5
        Weighs the false positives P - I.
    beta : float >= 0, default 0.5
        Weighs the false negatives T - I.
    smooth : float >= 0, default 1.0
        s above. It keeps small regions from dominating, and is in units of elements.
    axis : int or tuple of ints, optional
        The axes summed into one score. Default: all but the first, one score per sample (all, if
        there is one only). For one score per class of pred (N, C, H, W) sum over (0, 2, 3); for one
        per sample and class over (2, 3).
    from_logits : bool, default False
        Whether to take the sigmoid of `pred` first; the gradient is with respect to the logits.
    reduction : {"mean", "sum", "none"}
        How the scores become one number; the mean divides by their number or by the sum of their
        weights. "none" returns the scores, and the gradient of their sum.
    weight : array of real numbers, optional
        One per score; or one per class, of shape (C,), where axis 1 is not summed.
    mask : array of bool or real numbers, pred's shape, optional
        Elements where it is 0 do not count.
    ignore_index : int, optional
        Elements with this target do not count.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        A score whose divisor is 0 (with smooth 0: nothing predicted and nothing there) is 0, and so
        is its gradient. Elements that do not count have gradient 0.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a bad option, overlapping `out`. Nothing has been written.

    References
    ----------
    Salehi et al., arXiv:1706.05721.

    Examples
    --------
    >>> import numpy as np, instep
    >>> pred, target = np.array([[1.0, 0.0, 1.0]]), np.array([[1, 0, 0]])
    >>> instep.losses.tversky(pred, target, alpha=2.0, beta=0.5).value
    0.5
    """
    positives, negatives = _check.non_negative("alpha", alpha), _check.non_negative("beta", beta)
    options = Options(smooth, axis, from_logits, reduction, weight, mask, ignore_index, out)
    return _region(pred, target, (1.0, 1.0 - positives - negatives, positives, negatives), options)


def _region(
    pred: Any, target: Any, coefficients: tuple[float, float, float, float], options: Options
) -> LossGrad:
    """`coefficients`: of I in the numerator; of I, P, T in the divisor."""
    choice("reduction", options.reduction, ("mean", "sum", "none"))
    numbers = (
        *coefficients,
        _check.non_negative("smooth", options.smooth),
        float(flag("from_logits", options.from_logits)),
        _ignored(options.ignore_index),
    )
    pred = _check.prediction(pred)
    target = _check.elements("target", target, pred)
    mask = None if options.mask is None else _check.elements("mask", options.mask, pred)
    summed = _summed(options.axis, pred.ndim)
    kept = tuple(k for k in range(pred.ndim) if k not in summed)
    shape = tuple(pred.shape[k] for k in kept)
    weights = None if options.weight is None else _weights(options.weight, shape, kept)
    divisor = 1.0
    if options.reduction == "mean":
        divisor = float(math.prod(shape)) if weights is None else _core.array_sum(weights)
    if options.out is None:
        grad = np.empty_like(pred, subok=False)
    elif options.weight is None and _core.is_output(options.out, pred, target, mask):
        grad = options.out
    else:
        others = {"target": target, "mask": mask, "weight": options.weight}
        others = {name: array for name, array in others.items() if isinstance(array, np.ndarray)}
        grad = _check.output(options.out, pred, others)
    if divisor == 0 or pred.size == 0:
        grad.fill(0)
        nothing = np.zeros(shape, pred.dtype)
        return LossGrad(nothing if options.reduction == "none" else 0.0, grad)
    scores, factor = np.empty(shape), np.empty(shape)
    np.divide(1.0 if weights is None else weights, divisor, out=factor)
    given: list[Any] = [None if a is None else np.asarray(a) for a in (pred, target, mask, grad)]
    if kept + summed != tuple(range(pred.ndim)):
        given = [None if a is None else a.transpose(kept + summed) for a in given]
    pred, target, mask, gradient = given
    _core.regionwise(pred, target, mask, gradient, len(kept), factor, scores, numbers)
    if weights is not None:
        scores *= weights
    if options.reduction == "none":
        return LossGrad(scores.astype(pred.dtype), grad)
    return LossGrad(_core.array_sum(scores) / divisor, grad)


def _ignored(value: Any) -> float:
    """The target that does not count; NaN, which equals nothing, for none."""
    return float("nan") if value is None else float(_check.integer("ignore_index", value))


def _summed(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes that are summed, in order."""
    if axis is None:
        return tuple(range(min(1, ndim - 1), ndim)) if ndim else ()
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    try:
        numbers = [operator.index(k) for k in axes]
    except TypeError:
        raise TypeError(f"axis must be an int or a tuple of ints, got {axis!r}") from None
    for k in numbers:
        if not -ndim <= k < ndim:
            raise ValueError(f"axis has {k}, but pred has {ndim} axes")
    found = sorted({k % ndim for k in numbers})
    if len(found) < len(numbers):
        raise ValueError(f"axis names an axis twice: {axis!r}")
    return tuple(found)


def _weights(weight: Any, shape: tuple[int, ...], kept: tuple[int, ...]) -> Array:
    """One float64 per score, from one per score or per class."""
    array = _check.real_array("weight", weight).astype(np.float64, order="C")
    if array.shape == shape:
        return array
    if 1 in kept and array.shape == (shape[kept.index(1)],):
        per_class = [1] * len(shape)
        per_class[kept.index(1)] = array.size
        return np.broadcast_to(array.reshape(per_class), shape).copy()
    raise ValueError(
        f"weight has shape {array.shape}, but there are scores of shape {shape}; give one per "
        "score, or one per class where `axis` leaves axis 1 out"
    )
