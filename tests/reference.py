"""The oracle: every update rule and loss once more, short, in float64, written from the papers.

Nothing here imports the package under test, and nothing here is fast: a formula that stands in
a docstring is the formula below it. Inputs are never changed. Conventions are PyTorch's; each
place that departs from PyTorch says so.

``RULES[name]`` and ``LOSSES[name]`` find a twin by name; ``run`` drives a rule over many steps.
"""

import numpy as np


def _f64(array):
    """A float64 copy."""
    return np.array(array, dtype=np.float64)


# ---- update rules: one array, one step -------------------------------------------------------
#
# rule(param, grad, state, *, step, ...) -> (param, state). `state` is a dict by PyTorch's names,
# {} before the first step; `step` counts the gradients this leaf has had, from 1.


def sgd(param, grad, state, *, step, lr, momentum=0.0, dampening=0.0, weight_decay=0.0,
        nesterov=False, maximize=False):  # fmt: skip
    """Stochastic gradient descent (Polyak 1964; Nesterov form of Sutskever et al. 2013).

    g = -grad if maximize else grad;  g += weight_decay * p
    buf = g on the first step (undamped), then momentum * buf + (1 - dampening) * g
    d = g + momentum * buf if nesterov else buf;  p -= lr * d
    """
    param, grad, state = _f64(param), _f64(grad), dict(state)
    grad = -grad if maximize else grad
    if weight_decay != 0:  # 0 * inf is not 0
        grad = grad + weight_decay * param
    if momentum != 0:
        if "momentum_buffer" in state:
            buf = momentum * state["momentum_buffer"] + (1 - dampening) * grad
        else:
            buf = grad.copy()
        state["momentum_buffer"] = buf
        grad = grad + momentum * buf if nesterov else buf
    return param - lr * grad, state


def rmsprop(param, grad, state, *, step, lr, alpha=0.99, eps=1e-8, weight_decay=0.0,
            momentum=0.0, centered=False, maximize=False):  # fmt: skip
    """RMSprop (Tieleman and Hinton 2012; centred: Graves, arXiv:1308.0850).

    g = -grad if maximize else grad;  g += weight_decay * p
    v = alpha * v + (1 - alpha) * g^2;  a = alpha * a + (1 - alpha) * g  (centred only)
    denom = sqrt(max(v - a^2, 0) if centred else v) + eps
    momentum > 0:  buf = momentum * buf + g / denom;  p -= lr * buf,  else  p -= lr * g / denom

    PyTorch does not clamp v - a^2 at 0: under a constant gradient rounding makes it NaN there.
    """
    param, grad, state = _f64(param), _f64(grad), dict(state)
    grad = -grad if maximize else grad
    if weight_decay != 0:  # 0 * inf is not 0
        grad = grad + weight_decay * param
    variance = alpha * state.get("square_avg", 0.0) + (1 - alpha) * grad**2
    state["square_avg"] = variance
    if centered:
        mean = alpha * state.get("grad_avg", 0.0) + (1 - alpha) * grad
        state["grad_avg"] = mean
        variance = np.maximum(variance - mean**2, 0.0)
    update = grad / (np.sqrt(variance) + eps)
    if momentum > 0:
        update = momentum * state.get("momentum_buffer", 0.0) + update
        state["momentum_buffer"] = update
    return param - lr * update, state


def adam(param, grad, state, *, step, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
         amsgrad=False, maximize=False):  # fmt: skip
    """Adam (Kingma and Ba, arXiv:1412.6980) with L2; AMSGrad (Reddi et al., arXiv:1904.09237).

    g = -grad if maximize else grad;  g += weight_decay * p
    m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
    vmax = max(vmax, v)  (amsgrad: over the raw v; it then takes the place of v)
    p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
    """
    param, grad, state = _f64(param), _f64(grad), dict(state)
    beta1, beta2 = betas
    grad = -grad if maximize else grad
    if weight_decay != 0:  # 0 * inf is not 0
        grad = grad + weight_decay * param
    m = beta1 * state.get("exp_avg", 0.0) + (1 - beta1) * grad
    v = beta2 * state.get("exp_avg_sq", 0.0) + (1 - beta2) * grad**2
    state["exp_avg"], state["exp_avg_sq"] = m, v
    if amsgrad:
        v = np.maximum(state.get("max_exp_avg_sq", 0.0), v)
        state["max_exp_avg_sq"] = v
    denom = np.sqrt(v) / np.sqrt(1 - beta2**step) + eps
    return param - lr / (1 - beta1**step) * m / denom, state


def adamw(param, grad, state, *, step, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2,
          amsgrad=False, maximize=False):  # fmt: skip
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101).

    p *= 1 - lr * weight_decay;  then one Adam step without weight decay
    """
    param = _f64(param) * (1 - lr * weight_decay)
    return adam(
        param,
        grad,
        state,
        step=step,
        lr=lr,
        betas=betas,
        eps=eps,
        amsgrad=amsgrad,
        maximize=maximize,
    )


RULES = {"sgd": sgd, "rmsprop": rmsprop, "adam": adam, "adamw": adamw}


# ---- gradient preparation --------------------------------------------------------------------


def global_norm(grads):
    """sqrt(sum g^2) over all elements of all gradients; None counts as nothing.

    Scaled by a power of two (exact), so that squares neither overflow nor vanish.
    """
    flat = np.concatenate([np.zeros(0), *(_f64(g).ravel() for g in grads if g is not None)])
    peak = np.max(np.abs(flat), initial=0.0)
    if peak == 0 or not np.isfinite(peak):
        return float(peak)
    exponent = np.frexp(peak)[1]
    return float(np.ldexp(np.sqrt(np.sum(np.ldexp(flat, -exponent) ** 2)), exponent))


@np.errstate(all="ignore")
def prepare(grads, *, grad_scale=1.0, clip_norm=None, clip_value=None):
    """What happens to the gradients before the rule; returns them and the norm before clipping.

    g /= grad_scale;  norm = global_norm(g);  g *= clip_norm / norm if norm > clip_norm;
    g = clip(g, -clip_value, clip_value)

    PyTorch's clip_grad_norm_ divides by norm + 1e-6.
    """
    grads = [None if g is None else _f64(g) / grad_scale for g in grads]
    norm = global_norm(grads)
    if clip_norm is not None and norm > clip_norm:
        factor = clip_norm / norm
        grads = [None if g is None else g * factor for g in grads]
    if clip_value is not None:
        grads = [None if g is None else np.clip(g, -clip_value, clip_value) for g in grads]
    return grads, norm


def hyper_at(value, t):
    """A hyperparameter at the 0-based step t: a number, a callable, or a tuple of these."""
    if isinstance(value, tuple):
        return tuple(hyper_at(entry, t) for entry in value)
    return value(t) if callable(value) else value


@np.errstate(all="ignore")
def run(rule, params, grads_per_step, *, clip_norm=None, clip_value=None, grad_scale=1.0, **hyper):
    """Many steps of one rule over a list of leaves; returns (params, states, steps).

    A leaf whose gradient is None is left as it is and its own count does not advance.
    Hyperparameters may be callables of the 0-based global step, also inside ``betas``.
    """
    params = [_f64(p) for p in params]
    states = [{} for _ in params]
    steps = [0] * len(params)
    for t, grads in enumerate(grads_per_step):
        now = {name: hyper_at(value, t) for name, value in hyper.items()}
        ready, _ = prepare(
            grads,
            grad_scale=grad_scale,
            clip_norm=hyper_at(clip_norm, t),
            clip_value=hyper_at(clip_value, t),
        )
        for i, grad in enumerate(ready):
            if grad is not None:
                steps[i] += 1
                params[i], states[i] = rule(params[i], grad, states[i], step=steps[i], **now)
    return params, states, steps


# ---- losses: (value, gradient with respect to pred) ------------------------------------------


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


@np.errstate(all="ignore")
def mse(pred, target, *, reduction="mean", weight=None):
    """Mean squared error: e = pred - target, values w * e^2, gradient 2 * w * e.

    mean: both over sum(w), which is the number of elements without weights.
    """
    error = _f64(pred) - _f64(target)
    weight = np.ones_like(error) if weight is None else _f64(weight)
    return _reduce(weight * error**2, 2 * weight * error, np.sum(weight), reduction)


@np.errstate(all="ignore")
def cross_entropy(
    pred, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """Softmax cross-entropy of logits; classes on axis 0 of a 1-D pred, else on axis 1.

    y = onehot(label), or the soft target if it has pred's shape;  C classes, smoothing s
    t_k = w_k * ((1 - s) * y_k + s / C),  t = 0 in a row whose label is ignore_index
    value of a row = sum_k t_k * (logsumexp(x) - x_k),  a term with t_k = 0 being 0
    gradient = sum(t) * softmax(x) - t
    mean: over the sum of w[label] of the used rows; for soft targets over the number of rows.
    """
    logits, target = _f64(pred), np.asarray(target)
    axis = 0 if logits.ndim == 1 else 1
    soft = target.shape == logits.shape
    x = np.moveaxis(logits, axis, -1)
    classes = x.shape[-1]
    w = np.ones(classes) if weight is None else _f64(weight)
    if soft:
        y = np.moveaxis(_f64(target), axis, -1)
        used = np.ones(x.shape[:-1], dtype=bool)
        divisor = used.size
    else:
        used = target != ignore_index
        y = (target[..., None] == np.arange(classes)) & used[..., None]
        divisor = np.sum(w * y)
    t = w * ((1 - label_smoothing) * y + label_smoothing / max(classes, 1)) * used[..., None]

    z = x - np.max(x, axis=-1, keepdims=True, initial=-np.inf)
    total = np.sum(np.exp(z), axis=-1, keepdims=True)
    values = np.sum(np.where(t == 0, 0.0, t * (np.log(total) - z)), axis=-1)
    grad = np.sum(t, axis=-1, keepdims=True) * (np.exp(z) / total) - t
    # An ignored row is 0 whatever its logits are, also NaN (PyTorch's gradient is NaN then).
    grad = np.where(used[..., None], grad, 0.0)
    return _reduce(values, np.moveaxis(grad, -1, axis), divisor, reduction)


LOSSES = {"mse": mse, "cross_entropy": cross_entropy}


def numerical_gradient(f, x, h=1e-3):
    """Fourth-order central differences of a scalar function of an array.

    (f(x - 2h) - 8 f(x - h) + 8 f(x + h) - f(x + 2h)) / (12 h), element by element.
    The default h balances truncation (h^4) and rounding (1e-16 / h) for values of order 1.
    """
    x = _f64(x)
    grad = np.empty_like(x)
    for index in np.ndindex(x.shape):
        at = x.copy()
        samples = []
        for k in (-2, -1, 1, 2):
            at[index] = x[index] + k * h
            samples.append(f(at.copy()))
        grad[index] = (samples[0] - 8 * samples[1] + 8 * samples[2] - samples[3]) / (12 * h)
    return grad
