"""Losses of yes or no: binary_cross_entropy (from probabilities or logits), focal, hinge."""

from typing import Any

import numpy as np

from instep._check import Array
from instep.losses import _check
from instep.losses._call import NUMBER, LossGrad, Reduction, elementwise

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "focal", "hinge"]


def binary_cross_entropy(
    pred: Any,
    target: Any,
    *,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Binary cross-entropy of probabilities.

    .. math::
        L_i &= -w_i (t_i \max(\log x_i, -100) + (1 - t_i) \max(\log(1 - x_i), -100)) \\
        \frac{\partial L_i}{\partial x_i} &= w_i \frac{x_i - t_i}{\max(x_i (1 - x_i), 10^{-12})}

    ``torch.nn.functional.binary_cross_entropy``. Where there are logits, use
    `binary_cross_entropy_with_logits`: it is exact where a probability is rounded to 0 or 1.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Probabilities, in [0, 1].
    target : array of real numbers, pred's shape
        Usually 0 and 1; anything between is a soft target.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements, with weights too, as in PyTorch. "none" returns
        the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        Value and gradient are 0 for empty input.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a probability outside [0, 1], overlapping `out`. Nothing has been
        written.

    Examples
    --------
    >>> import numpy as np, instep
    >>> value, grad = instep.losses.binary_cross_entropy(np.array([0.5, 0.9]), np.array([1, 1]))
    >>> round(value, 6), grad.round(4)
    (0.399254, array([-1.    , -0.5556]))
    """
    pred = _check.prediction(pred)
    _check.within("pred", pred, 0, 1, False, "a probability must be in [0, 1]")
    return elementwise(
        NUMBER["binary_cross_entropy"], pred, target, reduction, weight, out, mean_of_weights=False
    )


def binary_cross_entropy_with_logits(
    pred: Any,
    target: Any,
    *,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Binary cross-entropy of logits.

    .. math::
        L_i &= w_i \left((1 - t_i) \log(1 + e^{x_i}) + p_i t_i \log(1 + e^{-x_i})\right) \\
        \frac{\partial L_i}{\partial x_i} &= w_i \left((1 - t_i) \sigma(x_i)
        - p_i t_i \sigma(-x_i)\right)

    with p = `pos_weight`. ``torch.nn.functional.binary_cross_entropy_with_logits``.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Logits.
    target : array of real numbers, pred's shape
        Usually 0 and 1; anything between is a soft target.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements, with weights too, as in PyTorch. "none" returns
        the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    pos_weight : float or array that can be broadcast to pred's shape, optional
        Weighs the positive part: n > 1 counts a missed positive n times. One per class: shape (C,)
        where the last axis is the classes.
    label_smoothing : float in [0, 1], default 0.0
        s moves the targets to :math:`(1 - s) t + s / 2`.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        Value and gradient are 0 for empty input.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a bad option, overlapping `out`. Nothing has been written.

    Examples
    --------
    >>> import numpy as np, instep
    >>> value, grad = instep.losses.binary_cross_entropy_with_logits(
    ...     np.array([0.0, -200.0]), np.array([1, 1]), reduction="sum"
    ... )
    >>> round(value, 6), grad
    (200.693147, array([-0.5, -1. ]))
    """
    positive, extra = 1.0, None
    if pos_weight is not None and np.ndim(pos_weight) > 0:
        pred = _check.prediction(pred)
        extra = _check.broadcast("pos_weight", pos_weight, pred)
    elif pos_weight is not None:
        positive = _check.number("pos_weight", np.asarray(pos_weight).item())
    smoothing = label_smoothing
    if type(smoothing) is not float or smoothing != 0.0:
        smoothing = _check.share("label_smoothing", smoothing)
    return elementwise(
        NUMBER["binary_cross_entropy_with_logits"],
        pred,
        target,
        reduction,
        weight,
        out,
        (positive, smoothing),
        extra=extra,
        mean_of_weights=False,
    )


def focal(
    pred: Any,
    target: Any,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Focal loss of logits: cross-entropy that fades where the prediction is right.

    .. math::
        L_i &= w_i \, a_i \, m_i^\gamma \, \mathrm{BCE}(x_i, t_i), \qquad
        m = (1 - t) \sigma(x) + t \sigma(-x), \quad a = \alpha t + (1 - \alpha)(1 - t) \\
        \frac{\partial L_i}{\partial x_i} &= w_i \, a_i \, m_i^\gamma \left(\sigma(x_i) - t_i
        + \gamma \, \mathrm{BCE}(x_i, t_i) (1 - 2 t_i) \sigma(x_i) \sigma(-x_i) / m_i\right)

    m is the probability of being wrong. With gamma 0 and no alpha it is
    `binary_cross_entropy_with_logits`.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Logits.
    target : array of real numbers, pred's shape
        Usually 0 and 1; anything between is a soft target.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements, with weights too, as in PyTorch. "none" returns
        the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    gamma : float >= 0, default 2.0
        How fast the loss fades.
    alpha : float in [0, 1], optional
        Weighs the positives; the negatives are weighed by 1 - alpha. None: both by 1.
    out : array, optional
        Receives the gradient: pred's shape and dtype; `pred` itself, or memory apart from all
        inputs.

    Returns
    -------
    LossGrad
        Value and gradient are 0 for empty input.

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, a bad option, overlapping `out`. Nothing has been written.

    References
    ----------
    Lin et al., arXiv:1708.02002, whose alpha is 0.25.

    Examples
    --------
    >>> import numpy as np, instep
    >>> value, grad = instep.losses.focal(np.array([0.0]), np.array([1]))
    >>> round(value, 6), grad.round(6)
    (0.173287, array([-0.298287]))
    """
    alphas = (1.0, 1.0)
    if alpha is not None:
        share = _check.share("alpha", alpha)
        alphas = (share, 1.0 - share)
    return elementwise(
        NUMBER["focal"],
        pred,
        target,
        reduction,
        weight,
        out,
        (_check.non_negative("gamma", gamma), *alphas),
        mean_of_weights=False,
    )


def hinge(
    pred: Any,
    target: Any,
    *,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Hinge loss, the margin loss of support vector machines.

    .. math::
        L_i = w_i \max(0, 1 - t_i x_i), \qquad
        \frac{\partial L_i}{\partial x_i} = \begin{cases} -w_i t_i & t_i x_i < 1 \\
        0 & \text{else} \end{cases}


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
        Decision values; their sign is the decision.
    target : array of real numbers, pred's shape
        -1 and 1.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights, without weights by the number of elements.
        "none" returns the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
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
        Wrong dtype or shape, a target other than -1 and 1, overlapping `out`. Nothing has been
        written.

    References
    ----------
    Cortes and Vapnik, Machine Learning 20 (1995) 273-297.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.hinge(np.array([0.5, 2.0]), np.array([1, 1]), reduction="sum")
    LossGrad(value=0.5, grad=array([-1.,  0.]))
    """
    pred = _check.prediction(pred)
    target = _check.elements("target", target, pred)
    hint = "targets must be -1 or 1; of 0 and 1 make them with 2 * target - 1"
    _check.within("target", target, 1, 1, True, hint)
    return elementwise(NUMBER["hinge"], pred, target, reduction, weight, out)
