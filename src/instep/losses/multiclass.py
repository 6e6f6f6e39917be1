"""Losses over classes: cross_entropy, categorical_cross_entropy, kl_div."""

from typing import Any, Literal

from instep._check import Array, flag
from instep.losses import _check
from instep.losses._call import NUMBER, REDUCTIONS, LossGrad, Reduction, classwise, elementwise

__all__ = ["categorical_cross_entropy", "cross_entropy", "kl_div"]


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

    per row of C logits, where q is the soft target or 1 at the label.
    ``torch.nn.functional.cross_entropy``.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16
        Logits of shape (C,), (N, C) or (N, C, d1, ...); any strides.
    target : array
        Labels of any integer type in [0, C), shaped like pred without the class axis; or soft
        targets (one-hot or not) of pred's shape, any float dtype, which need not sum to 1.
    reduction : {"mean", "sum", "none"}
        The mean divides by :math:`\sum w_{label}` over the rows that count, with soft targets by
        the number of rows. "none" returns one value per row, and the gradient of their sum.
    weight : array of C real numbers, optional
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
        Wrong dtype or shape, a label out of range, overlapping `out`. Nothing has been
        written.

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
    return classwise(
        NUMBER["cross_entropy"],
        pred,
        target,
        reduction,
        weight,
        ignore_index,
        label_smoothing,
        out,
    )


def categorical_cross_entropy(
    pred: Any,
    target: Any,
    *,
    reduction: Reduction = "mean",
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> LossGrad:
    r"""Cross-entropy of class probabilities, with class labels or soft targets.

    .. math::
        t_k &= w_k \left((1 - s)\, q_k + s / C\right) \\
        L &= -\sum_k t_k \max(\log x_k, -100), \qquad
        \frac{\partial L}{\partial x_k} = -\frac{t_k}{\max(x_k, 10^{-12})}

    per row of C probabilities, where q is the soft target or 1 at the label. They are not
    normalised: that they sum to 1 is the model's business. Where there are logits, use
    `cross_entropy`: it is exact where a probability is rounded to 0.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16
        Probabilities in [0, 1], of shape (C,), (N, C) or (N, C, d1, ...); any strides.
    target : array
        Labels of any integer type in [0, C), shaped like pred without the class axis; or soft
        targets (one-hot or not) of pred's shape, any float dtype, which need not sum to 1.
    reduction : {"mean", "sum", "none"}
        The mean divides by :math:`\sum w_{label}` over the rows that count, with soft targets by
        the number of rows. "none" returns one value per row, and the gradient of their sum.
    weight : array of C real numbers, optional
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
        Value and gradient are 0 where no row counts (PyTorch: NaN).

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a label out of range, a probability outside [0, 1], overlapping
        `out`. Nothing has been written.

    Examples
    --------
    >>> import numpy as np, instep
    >>> value, grad = instep.losses.categorical_cross_entropy(
    ...     np.array([[0.25, 0.5, 0.25]]), np.array([1])
    ... )
    >>> round(value, 6), grad
    (0.693147, array([[ 0., -2.,  0.]]))
    """
    pred = _check.classes(pred)
    _check.within("pred", pred, 0, 1, False, "a probability must be in [0, 1]")
    return classwise(
        NUMBER["categorical_cross_entropy"],
        pred,
        target,
        reduction,
        weight,
        ignore_index,
        label_smoothing,
        out,
    )


def kl_div(
    pred: Any,
    target: Any,
    *,
    log_target: bool = False,
    reduction: Literal["mean", "sum", "none", "batchmean"] = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Kullback-Leibler divergence of the target from predicted log-probabilities.

    .. math::
        L_i = w_i \, t_i (\log t_i - x_i), \qquad
        \frac{\partial L_i}{\partial x_i} = -w_i \, t_i

    and 0 where t is 0. ``torch.nn.functional.kl_div``. A NaN prediction has a NaN gradient
    (PyTorch: -t).


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Logarithms of probabilities.
    target : array of real numbers, pred's shape
        Probabilities, or their logarithms with ``log_target=True``.
    reduction : {"mean", "sum", "none", "batchmean"}
        "mean" divides by the sum of the weights, without weights by the number of elements, not of
        distributions; "batchmean" by the length of the first axis, which is the divergence's
        definition. "none" returns the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    log_target : bool, default False
        Whether `target` holds logarithms of probabilities.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        Value and gradient are 0 for empty input or weights that sum to 0.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a bad option, overlapping `out`. Nothing has been written.

    Examples
    --------
    >>> import numpy as np, instep
    >>> value, grad = instep.losses.kl_div(
    ...     np.log([[0.5, 0.5]]), np.array([[1.0, 0.0]]), reduction="batchmean"
    ... )
    >>> round(value, 6), grad
    (0.693147, array([[-1.,  0.]]))
    """
    return elementwise(
        NUMBER["kl_div"],
        pred,
        target,
        reduction,
        weight,
        out,
        (float(flag("log_target", log_target)),),
        last_reduction=REDUCTIONS["batchmean"],
    )
