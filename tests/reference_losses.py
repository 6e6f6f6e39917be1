"""The losses of the oracle: short, in float64, written from the formulas and papers.

Each twin returns (value, gradient with respect to pred). Nothing here imports the package under
test. Where the plain formula loses digits (log(cosh) near 0, saturated sigmoids) an equivalent one
stands in its place, so that a comparison to 1e-12 means something. Targets and weights of 0 hide
infinities; nothing hides a NaN prediction, whose value and gradient are NaN.
"""

import numpy as np


def _f64(array):
    """A float64 copy."""
    return np.array(array, dtype=np.float64)


# ---- reductions ------------------------------------------------------------------------------


def _reduce(values, grad, divisor, reduction):
    """As they are ("none"), the values summed ("sum"), or that sum and grad / divisor ("mean").

    A divisor of 0 makes value and gradient 0. PyTorch's mean is NaN there (empty input, every row
    ignored).
    """
    if reduction == "none":
        return values, grad
    if reduction == "sum":
        return float(np.sum(values)), grad
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if divisor == 0:
        return 0.0, np.zeros_like(grad)
    return float(np.sum(values) / divisor), grad / divisor


def _over_weights(values, slopes, weight, reduction):
    """Element losses and their slopes, weighted; the mean is over the sum of the weights."""
    weight = np.ones_like(values) if weight is None else _f64(weight)
    return _reduce(weight * values, weight * slopes, np.sum(weight), reduction)


def _over_elements(values, slopes, weight, reduction):
    """The same with PyTorch's mean: over the number of elements, also with weights."""
    weight = np.ones_like(values) if weight is None else _f64(weight)
    return _reduce(weight * values, weight * slopes, values.size, reduction)


# ---- functions -------------------------------------------------------------------------------


def _times(factor, array):
    """factor * array, where a factor of 0 hides infinities."""
    return np.where((factor == 0) & ~np.isnan(array), 0.0, factor * array)


def _sigmoid(x):
    """1 / (1 + exp(-x)) to full relative precision on both sides."""
    return np.where(x >= 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x)))


def _softplus(x):
    """log(1 + exp(x))"""
    return np.logaddexp(0.0, x)


# ---- regression: e = pred - target -----------------------------------------------------------


@np.errstate(all="ignore")
def mse(pred, target, *, reduction="mean", weight=None):
    """Mean squared error: e = pred - target, values w * e^2, gradient 2 * w * e.

    mean: both over sum(w), which is the number of elements without weights.
    """
    error = _f64(pred) - _f64(target)
    return _over_weights(error**2, 2 * error, weight, reduction)


@np.errstate(all="ignore")
def mae(pred, target, *, reduction="mean", weight=None):
    """Mean absolute error: |e|, sign(e), which is 0 at 0 and NaN for NaN.

    PyTorch's gradient of a NaN is 0.
    """
    error = _f64(pred) - _f64(target)
    return _over_weights(np.abs(error), np.sign(error), weight, reduction)


@np.errstate(all="ignore")
def huber(pred, target, *, delta=1.0, reduction="mean", weight=None):
    """Huber (1964): e^2 / 2 for |e| <= delta, else delta * (|e| - delta / 2); e clipped to +-delta.

    PyTorch's weighted mean divides by the number of elements.
    """
    error = _f64(pred) - _f64(target)
    size = np.abs(error)
    values = np.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))
    return _over_weights(values, np.clip(error, -delta, delta), weight, reduction)


@np.errstate(all="ignore")
def smooth_l1(pred, target, *, beta=1.0, reduction="mean", weight=None):
    """Girshick (2015): e^2 / (2 beta) for |e| < beta, else |e| - beta / 2; e / beta, or sign(e)."""
    error = _f64(pred) - _f64(target)
    size = np.abs(error)
    near = size < beta
    values = np.where(near, 0.5 * error**2 / beta, size - 0.5 * beta)
    return _over_weights(values, np.where(near, error / beta, np.sign(error)), weight, reduction)


@np.errstate(all="ignore")
def log_cosh(pred, target, *, reduction="mean", weight=None):
    """log(cosh(e)), tanh(e).

    cosh(e) - 1 = 2 sinh(e / 2)^2 keeps the digits near 0; cosh(e) = e^|e| (1 + e^(-2 |e|)) / 2
    does not overflow.
    """
    error = _f64(pred) - _f64(target)
    size = np.abs(error)
    near = np.log1p(2 * np.sinh(np.minimum(size, 1.0) / 2) ** 2)
    far = size + np.log1p(np.exp(-2 * size)) - np.log(2.0)
    return _over_weights(np.where(size < 1, near, far), np.tanh(error), weight, reduction)


@np.errstate(all="ignore")
def quantile(pred, target, *, q=0.5, reduction="mean", weight=None):
    """Koenker and Bassett (1978): q * (-e) for e <= 0, (1 - q) * e for e > 0; 0 slope at 0."""
    error = _f64(pred) - _f64(target)
    values = np.maximum(-q * error, (1 - q) * error)
    slopes = np.where(error > 0, 1 - q, np.where(error < 0, -q, error))
    return _over_weights(values, slopes, weight, reduction)


@np.errstate(all="ignore")
def poisson_nll(pred, target, *, log_input=True, full=False, eps=1e-8, reduction="mean",
                weight=None):  # fmt: skip
    """Poisson: exp(x) - t x, or x - t log(x + eps) of a rate x; log(t!) left out.

    full adds Stirling's t log t - t + log(2 pi t) / 2 where t > 1.
    """
    x, t = _f64(pred), _f64(target)
    if log_input:
        values, slopes = np.exp(x) - t * x, np.exp(x) - t
    else:
        values, slopes = x - t * np.log(x + eps), 1 - t / (x + eps)
    if full:
        stirling = t * np.log(t) - t + 0.5 * np.log(2 * np.pi * t)
        values = values + np.where(t > 1, stirling, 0.0)
    return _over_weights(values, slopes, weight, reduction)


# ---- yes or no -------------------------------------------------------------------------------


@np.errstate(all="ignore")
def binary_cross_entropy(pred, target, *, reduction="mean", weight=None):
    """-(t log x + (1 - t) log(1 - x)), logarithms held above -100; (x - t) / max(x (1 - x), 1e-12).

    The limits are PyTorch's.
    """
    x, t = _f64(pred), _f64(target)
    yes, no = np.maximum(np.log(x), -100.0), np.maximum(np.log1p(-x), -100.0)
    slopes = (x - t) / np.maximum(x * (1 - x), 1e-12)
    return _over_elements(-(t * yes + (1 - t) * no), slopes, weight, reduction)


@np.errstate(all="ignore")
def binary_cross_entropy_with_logits(pred, target, *, pos_weight=None, label_smoothing=0.0,
                                     reduction="mean", weight=None):  # fmt: skip
    """t' = (1 - s) t + s / 2;  (1 - t') softplus(x) + p t' softplus(-x);
    (1 - t') sigmoid(x) - p t' sigmoid(-x)."""
    x, t = _f64(pred), _f64(target)
    # 1 - t' = (1 - s) (1 - t) + s / 2 exactly; written so, small s keep their digits.
    no = (1 - label_smoothing) * (1 - t) + label_smoothing / 2
    yes = (1 - label_smoothing) * t + label_smoothing / 2
    yes = yes if pos_weight is None else yes * _f64(pos_weight)
    values = _times(no, _softplus(x)) + _times(yes, _softplus(-x))
    slopes = no * _sigmoid(x) - yes * _sigmoid(-x)
    return _over_elements(values, slopes, weight, reduction)


@np.errstate(all="ignore")
def focal(pred, target, *, gamma=2.0, alpha=None, reduction="mean", weight=None):
    """Lin et al. (arXiv:1708.02002), also for soft targets: a m^gamma BCE(x, t).

    m = (1 - t) sigmoid(x) + t sigmoid(-x) is the probability of being wrong,
    a = alpha t + (1 - alpha) (1 - t), 1 without alpha
    gradient = a (m^gamma (sigmoid(x) - t) + gamma m^(gamma - 1) m' BCE),
    m' = (1 - 2 t) sigmoid(x) sigmoid(-x);  0 where m = 0, and without the second term where
    m' = 0: its limit for large logits
    """
    x, t = _f64(pred), _f64(target)
    p, q = _sigmoid(x), _sigmoid(-x)
    entropy = _times(1 - t, _softplus(x)) + _times(t, _softplus(-x))
    m = (1 - t) * p + t * q
    a = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    turn = np.where(m == 0, 0.0, (1 - 2 * t) * p * q / m)
    values = _times(a * m**gamma, entropy)
    turn = np.where(p * q == 0, 0.0, gamma * entropy * turn)
    slopes = a * m**gamma * ((1 - t) * p - t * q + turn)
    slopes = np.where(m**gamma == 0, 0.0, slopes)
    return _over_elements(values, slopes, weight, reduction)


@np.errstate(all="ignore")
def hinge(pred, target, *, reduction="mean", weight=None):
    """Cortes and Vapnik (1995): max(0, 1 - t x), t = -1 or 1; -t where 1 - t x > 0, else 0."""
    x, t = _f64(pred), _f64(target)
    margin = 1 - t * x
    slopes = np.where(margin > 0, -t, np.where(margin <= 0, 0.0, margin))
    return _over_weights(np.maximum(0.0, margin), slopes, weight, reduction)


# ---- over classes ----------------------------------------------------------------------------


@np.errstate(all="ignore")
def kl_div(pred, target, *, log_target=False, reduction="mean", weight=None):
    """Kullback and Leibler (1951), x log-probabilities: t (log t - x), -t; 0 where t = 0.

    batchmean: over the length of the first axis. PyTorch's weighted form does not exist; its
    gradient of a NaN is -t.
    """
    x, t = _f64(pred), _f64(target)
    share, log = (np.exp(t), t) if log_target else (t, np.log(t))
    nothing = np.where(np.isnan(x), np.nan, 0.0)
    values = np.where(share == 0, 0.0, share * (log - x)) + nothing
    if reduction != "batchmean":
        return _over_weights(values, nothing - share, weight, reduction)
    weight = np.ones_like(values) if weight is None else _f64(weight)
    rows = values.shape[0] if values.ndim else 1
    return _reduce(weight * values, weight * (nothing - share), rows, "mean")


def _class_targets(pred, target, weight, ignore_index, label_smoothing):
    """(x, t, used, divisor), the class axis last.

    y = onehot(label), or the soft target if it has pred's shape;  C classes, smoothing s
    t_k = w_k * ((1 - s) * y_k + s / C),  t = 0 in a row whose label is ignore_index
    divisor: the sum of w[label] of the used rows; for soft targets the number of rows.
    """
    pred, target, label_smoothing = _f64(pred), np.asarray(target), float(label_smoothing)
    axis = min(1, pred.ndim - 1)
    x = np.moveaxis(pred, axis, -1)
    classes = x.shape[-1]
    w = np.ones(classes) if weight is None else _f64(weight)
    if target.shape == pred.shape:
        y = np.moveaxis(_f64(target), axis, -1)
        used = np.ones(x.shape[:-1], dtype=bool)
        divisor = used.size
    else:
        used = target != ignore_index
        y = (target[..., None] == np.arange(classes)) & used[..., None]
        divisor = np.sum(w * y)
    t = w * ((1 - label_smoothing) * y + label_smoothing / max(classes, 1)) * used[..., None]
    return x, t, used, divisor


def _reduce_rows(values, grad, used, divisor, reduction):
    """An ignored row is 0 whatever its predictions are, also NaN (PyTorch's gradient is NaN)."""
    values = np.where(used, values, 0.0)
    grad = np.moveaxis(np.where(used[..., None], grad, 0.0), -1, min(1, grad.ndim - 1))
    return _reduce(values, grad, divisor, reduction)


@np.errstate(all="ignore")
def cross_entropy(pred, target, *, weight=None, ignore_index=-100, label_smoothing=0.0,
                  reduction="mean"):  # fmt: skip
    """Softmax cross-entropy of logits; classes on axis 0 of a 1-D pred, else on axis 1.

    value of a row = sum_k t_k * (logsumexp(x) - x_k),  a term with t_k = 0 being 0
    gradient = sum(t) * softmax(x) - t
    """
    x, t, used, divisor = _class_targets(pred, target, weight, ignore_index, label_smoothing)
    z = x - np.max(x, axis=-1, keepdims=True, initial=-np.inf)
    total = np.sum(np.exp(z), axis=-1, keepdims=True)
    values = np.sum(np.where(t == 0, 0.0, t * (np.log(total) - z)), axis=-1)
    # Weights of 0 hide infinite terms, not a NaN.
    values = np.where(np.isnan(x).any(axis=-1), np.nan, values)
    grad = np.sum(t, axis=-1, keepdims=True) * (np.exp(z) / total) - t
    return _reduce_rows(values, grad, used, divisor, reduction)


@np.errstate(all="ignore")
def categorical_cross_entropy(pred, target, *, weight=None, ignore_index=-100,
                              label_smoothing=0.0, reduction="mean"):  # fmt: skip
    """Cross-entropy of probabilities: -sum_k t_k max(log x_k, -100), -t_k / max(x_k, 1e-12)."""
    x, t, used, divisor = _class_targets(pred, target, weight, ignore_index, label_smoothing)
    values = -np.sum(t * np.maximum(np.log(x), -100.0), axis=-1)
    return _reduce_rows(values, -t / np.maximum(x, 1e-12), used, divisor, reduction)


# ---- regions ---------------------------------------------------------------------------------


def _region(pred, target, score, *, axis=None, from_logits=False, reduction="mean", weight=None,
            mask=None, ignore_index=None):  # fmt: skip
    """1 - N / D of each group of elements, `axis` being summed (default: all but the first).

    score(p, t, I, P, T) -> N, dN/dp, D, dD/dp  with I = sum p t, P = sum p, T = sum t over the
    elements that count; p = sigmoid(x) from logits. D = 0: value and gradient are 0.
    """
    x, t = _f64(pred), _f64(target)
    if axis is None:
        axis = tuple(range(1, x.ndim)) if x.ndim > 1 else tuple(range(x.ndim))
    kept = np.ones(x.shape, bool) if mask is None else np.asarray(mask) != 0
    kept = kept if ignore_index is None else kept & (t != ignore_index)
    p, slope = (_sigmoid(x), _sigmoid(x) * _sigmoid(-x)) if from_logits else (x, np.ones_like(x))
    p, t = np.where(kept, p, 0.0), np.where(kept, t, 0.0)
    sums = [np.sum(a, axis=axis, keepdims=True) for a in (p * t, p, t)]
    above, d_above, below, d_below = score(p, t, *sums)
    values = np.where(below == 0, 0.0, 1 - above / below)
    grad = np.where(below == 0, 0.0, -(d_above * below - above * d_below) / below**2)
    grad = np.where(kept, grad * slope, 0.0)
    if weight is None:
        weight = np.ones_like(values)
    elif np.shape(weight) != np.squeeze(values, axis=axis).shape:  # one per class
        weight = _f64(weight).reshape(-1, *[1] * (x.ndim - 2)) + np.zeros_like(values)
    else:
        weight = _f64(weight).reshape(values.shape)
    shape = np.squeeze(values, axis=axis).shape
    return _reduce((weight * values).reshape(shape), weight * grad, np.sum(weight), reduction)


@np.errstate(all="ignore")
def dice(pred, target, *, smooth=1.0, **options):
    """Sudre et al. (arXiv:1707.03237): 1 - (2 I + s) / (P + T + s)."""

    def score(p, t, inter, p_sum, t_sum):
        return 2 * inter + smooth, 2 * t, p_sum + t_sum + smooth, 1.0

    return _region(pred, target, score, **options)


@np.errstate(all="ignore")
def iou(pred, target, *, smooth=1.0, **options):
    """Rahman and Wang (2016): 1 - (I + s) / (P + T - I + s)."""

    def score(p, t, inter, p_sum, t_sum):
        return inter + smooth, t, p_sum + t_sum - inter + smooth, 1 - t

    return _region(pred, target, score, **options)


@np.errstate(all="ignore")
def tversky(pred, target, *, alpha=0.5, beta=0.5, smooth=1.0, **options):
    """Salehi et al. (arXiv:1706.05721): 1 - (I + s) / (I + alpha FP + beta FN + s).

    FP = sum p (1 - t), FN = sum (1 - p) t
    """

    def score(p, t, inter, p_sum, t_sum):
        below = inter + alpha * (p_sum - inter) + beta * (t_sum - inter) + smooth
        return inter + smooth, t, below, t + alpha * (1 - t) - beta * t

    return _region(pred, target, score, **options)


LOSSES = {
    "mse": mse,
    "mae": mae,
    "huber": huber,
    "smooth_l1": smooth_l1,
    "log_cosh": log_cosh,
    "quantile": quantile,
    "poisson_nll": poisson_nll,
    "binary_cross_entropy": binary_cross_entropy,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "focal": focal,
    "hinge": hinge,
    "kl_div": kl_div,
    "cross_entropy": cross_entropy,
    "categorical_cross_entropy": categorical_cross_entropy,
    "dice": dice,
    "iou": iou,
    "tversky": tversky,
}
