"""Losses of regression: mse, mae, huber, smooth_l1, log_cosh, quantile, poisson_nll."""

from typing import Any

from instep._check import Array, flag
from instep.losses._call import NUMBER, LossGrad, Reduction, elementwise
from instep.losses._check import inner_share, non_negative, positive

__all__ = ["huber", "log_cosh", "mae", "mse", "poisson_nll", "quantile", "smooth_l1"]


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
        L_i = w_i (x_i - t_i)^2, \qquad
        \frac{\partial L_i}{\partial x_i} = 2 w_i (x_i - t_i)

    ``torch.nn.functional.mse_loss``; there is no factor 1/2.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in the precision of `pred`.
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
    return elementwise(NUMBER["mse"], pred, target, reduction, weight, out)


def mae(
    pred: Any,
    target: Any,
    *,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Mean absolute error.

    .. math::
        L_i = w_i |x_i - t_i|, \qquad
        \frac{\partial L_i}{\partial x_i} = w_i \, \mathrm{sign}(x_i - t_i)

    ``torch.nn.functional.l1_loss``. The gradient is 0 where the error is 0, and NaN where it is NaN
    (PyTorch: 0).


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in the precision of `pred`.
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
        Wrong dtype or shape, overlapping `out`. Nothing has been written.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.mae(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    LossGrad(value=0.5, grad=array([0.5, 0. ]))
    """
    return elementwise(NUMBER["mae"], pred, target, reduction, weight, out)


def huber(
    pred: Any,
    target: Any,
    *,
    delta: float = 1.0,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Huber's loss: squared for small errors, absolute for large ones.

    .. math::
        L_i = w_i \begin{cases} \tfrac12 e_i^2 & |e_i| \le \delta \\
        \delta (|e_i| - \tfrac12 \delta) & \text{else} \end{cases}, \qquad
        \frac{\partial L_i}{\partial x_i} = w_i \min(\max(e_i, -\delta), \delta), \qquad e = x - t

    ``torch.nn.functional.huber_loss``, whose weighted mean divides by the number of elements.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in the precision of `pred`.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights, without weights by the number of elements.
        "none" returns the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    delta : float > 0, default 1.0
        Where the two parts meet, in units of the error.
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
        Wrong dtype or shape, a delta that is not positive, overlapping `out`. Nothing has been
        written.

    References
    ----------
    Huber, Annals of Mathematical Statistics 35 (1964) 73-101.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.huber(np.array([0.5, 3.0]), np.zeros(2), reduction="sum")
    LossGrad(value=2.625, grad=array([0.5, 1. ]))
    """
    threshold = (positive("delta", delta),)
    return elementwise(NUMBER["huber"], pred, target, reduction, weight, out, threshold)


def smooth_l1(
    pred: Any,
    target: Any,
    *,
    beta: float = 1.0,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Smooth L1 loss: Huber's loss divided by its threshold.

    .. math::
        L_i = w_i \begin{cases} e_i^2 / (2 \beta) & |e_i| < \beta \\
        |e_i| - \tfrac12 \beta & \text{else} \end{cases}, \qquad
        \frac{\partial L_i}{\partial x_i} = w_i \min(\max(e_i / \beta, -1), 1), \qquad e = x - t

    ``torch.nn.functional.smooth_l1_loss``; with beta 0 it is `mae`.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in the precision of `pred`.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights, without weights by the number of elements.
        "none" returns the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    beta : float >= 0, default 1.0
        Where the two parts meet, in units of the error.
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
        Wrong dtype or shape, a negative beta, overlapping `out`. Nothing has been written.

    References
    ----------
    Girshick, Fast R-CNN, arXiv:1504.08083.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.smooth_l1(np.array([1.0, 3.0]), np.zeros(2), beta=2.0, reduction="sum")
    LossGrad(value=2.25, grad=array([0.5, 1. ]))
    """
    threshold = non_negative("beta", beta)
    if threshold == 0:
        return mae(pred, target, reduction=reduction, weight=weight, out=out)
    return elementwise(NUMBER["smooth_l1"], pred, target, reduction, weight, out, (threshold,))


def log_cosh(
    pred: Any,
    target: Any,
    *,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Logarithm of the hyperbolic cosine: a smooth `mae`.

    .. math::
        L_i = w_i \log \cosh(x_i - t_i), \qquad
        \frac{\partial L_i}{\partial x_i} = w_i \tanh(x_i - t_i)

    Computed without overflow for large errors and without cancellation for small ones.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in the precision of `pred`.
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
        Wrong dtype or shape, overlapping `out`. Nothing has been written.

    Examples
    --------
    >>> import numpy as np, instep
    >>> value, grad = instep.losses.log_cosh(np.array([1000.0, 0.0]), np.zeros(2), reduction="sum")
    >>> round(value, 4), grad
    (999.3069, array([1., 0.]))
    """
    return elementwise(NUMBER["log_cosh"], pred, target, reduction, weight, out)


def quantile(
    pred: Any,
    target: Any,
    *,
    q: float = 0.5,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Pinball loss, minimised by the q-quantile of the target.

    .. math::
        L_i = w_i \max(q (t_i - x_i), (q - 1)(t_i - x_i)), \qquad
        \frac{\partial L_i}{\partial x_i} = w_i \begin{cases} 1 - q & x_i > t_i \\ 0 & x_i = t_i \\
        -q & x_i < t_i \end{cases}

    With q = 1/2 it is half of `mae`.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in the precision of `pred`.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights, without weights by the number of elements.
        "none" returns the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    q : float in (0, 1), default 0.5
        The quantile to be predicted.
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
        Wrong dtype or shape, a q that is not between 0 and 1, overlapping `out`. Nothing has been
        written.

    References
    ----------
    Koenker and Bassett, Econometrica 46 (1978) 33-50.

    Examples
    --------
    >>> import numpy as np, instep
    >>> instep.losses.quantile(np.array([1.0, -1.0]), np.zeros(2), q=0.75, reduction="sum")
    LossGrad(value=1.0, grad=array([ 0.25, -0.75]))
    """
    return elementwise(
        NUMBER["quantile"], pred, target, reduction, weight, out, (inner_share("q", q),)
    )


def poisson_nll(
    pred: Any,
    target: Any,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: Reduction = "mean",
    weight: Any = None,
    out: Array | None = None,
) -> LossGrad:
    r"""Negative log-likelihood of counts under a Poisson distribution.

    .. math::
        L_i = w_i (e^{x_i} - t_i x_i), \qquad
        \frac{\partial L_i}{\partial x_i} = w_i (e^{x_i} - t_i)

    and with ``log_input=False``

    .. math::
        L_i = w_i (x_i - t_i \log(x_i + \epsilon)), \qquad
        \frac{\partial L_i}{\partial x_i} = w_i (1 - t_i / (x_i + \epsilon))

    ``torch.nn.functional.poisson_nll_loss``.


    Parameters
    ----------
    pred : array of float32, float64, float16 or bfloat16, any shape and strides
    target : array of real numbers, pred's shape
        Never broadcast. Computed with in the precision of `pred`.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights, without weights by the number of elements.
        "none" returns the value of each element, and the gradient of their sum.
    weight : array of real numbers, pred's shape, optional
        One factor per element; use ``numpy.broadcast_to`` for one per sample.
    log_input : bool, default True
        Whether `pred` is the logarithm of the rate, or the rate itself.
    full : bool, default False
        Whether to add Stirling's :math:`t \log t - t + \frac12 \log(2 \pi t)` where t > 1. It
        changes the value only.
    eps : float > 0, default 1e-8
        Keeps the logarithm finite at rate 0; used with ``log_input=False`` only.
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
    >>> instep.losses.poisson_nll(np.zeros(2), np.array([1, 3]), reduction="sum")
    LossGrad(value=2.0, grad=array([ 0., -2.]))
    """
    options = (
        float(flag("log_input", log_input)),
        float(flag("full", full)),
        positive("eps", eps),
    )
    return elementwise(NUMBER["poisson_nll"], pred, target, reduction, weight, out, options)
