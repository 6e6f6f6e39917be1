"""The oracle: every update rule and loss once more, short, in float64, written from the papers.

Nothing here imports the package under test, and nothing here is fast: a formula that stands in
a docstring is the formula below it. Inputs are never changed. Conventions are PyTorch's; each
place that departs from PyTorch says so.

``RULES[name]``, ``LOSSES[name]`` and ``SCHEDULES[name]`` find a twin by name; losses and schedules
stand in reference_losses.py and reference_schedules.py.
``run`` drives a rule over many steps.
"""

import numpy as np
from reference_losses import LOSSES as LOSSES
from reference_losses import cross_entropy as cross_entropy
from reference_losses import mse as mse
from reference_schedules import SCHEDULES as SCHEDULES
from reference_schedules import reduce_on_plateau as reduce_on_plateau


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
def run(rule, params, grads_per_step, *, clip_norm=None, clip_value=None, grad_scale=1.0,
        trace=None, **hyper):  # fmt: skip
    """Many steps of one rule over a list of leaves; returns (params, states, steps).

    A leaf whose gradient is None is left as it is and its own count does not advance.
    Hyperparameters may be callables of the 0-based global step, also inside ``betas``.
    ``trace``, a list, gets the parameters as they are after each step.
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
        if trace is not None:
            trace.append(list(params))
    return params, states, steps


# ---- what a step does besides ----------------------------------------------------------------


def ema(starts, trace, *, decay, warmup=False):
    """Moving averages over the steps whose parameters `trace` holds (see `run`).

    a = the parameter at the start;  then per 0-based step t, with or without a gradient,
    d = decay, or min(decay, (1 + t) / (10 + t)) with warmup;  a += (1 - d) * (p - a)
    """
    averages = [_f64(p) for p in starts]
    for t, params in enumerate(trace):
        d = hyper_at(decay, t)
        d = min(d, (1 + t) / (10 + t)) if warmup else d
        averages = [a + (1 - d) * (_f64(p) - a) for a, p in zip(averages, params, strict=True)]
    return averages


def statistics(before, after, grads, *, grad_scale=1.0, clip_norm=None, clip_value=None):
    """(grad_norm, update_norm, param_norm, clipped) of a step, of the leaves with a gradient.

    Norms in float64; that of the gradients after unscaling. clipped: how large a share of them,
    scaled and clipped by norm, is beyond clip_value.
    """
    taken = [i for i, grad in enumerate(grads) if grad is not None]
    ready, norm = prepare(grads, grad_scale=grad_scale, clip_norm=clip_norm)
    beyond = [0 if clip_value is None else np.sum(np.abs(ready[i]) > clip_value) for i in taken]
    elements = sum(ready[i].size for i in taken)
    return (
        norm,
        global_norm([_f64(after[i]) - _f64(before[i]) for i in taken]),
        global_norm([after[i] for i in taken]),
        sum(beyond) / elements if elements else 0.0,
    )


# ---- differences -------------------------------------------------------------------------------


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
