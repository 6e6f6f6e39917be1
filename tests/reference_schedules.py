"""The schedules once more, in float64, as plain as their papers; nothing here imports instep.

``SCHEDULES[name](t, ...)`` is the value at the 0-based step t, with the fields of the class of that
name as keywords. What a schedule is made of comes as functions of t. Where there is a choice of
forms, the one here is not the one of the package: counting instead of dividing, running sums
instead of bisection. `reduce_on_plateau` has no step: it returns the value after each metric.
"""

import numpy as np


def constant(t, *, lr):
    return lr


def step_decay(t, *, lr, step_size, gamma=0.1):
    """PyTorch's StepLR: times gamma whenever a multiple of step_size is reached."""
    for step in range(1, t + 1):
        if step % step_size == 0:
            lr = lr * gamma
    return lr


def multi_step_decay(t, *, lr, milestones, gamma=0.1):
    """PyTorch's MultiStepLR: times gamma for every milestone that is reached."""
    return lr * gamma ** sum(t >= milestone for milestone in milestones)


def exponential_decay(t, *, lr, gamma):
    return lr * np.exp(t * np.log(gamma))


def linear_decay(t, *, lr, total_steps, end=0.0):
    return lr + (end - lr) * min(t, total_steps) / total_steps


def polynomial_decay(t, *, lr, total_steps, power=1.0, end=0.0):
    left = total_steps - min(t, total_steps)
    return end + (lr - end) * np.power(left / total_steps, power)


def cosine_annealing(t, *, lr, total_steps, min_lr=0.0):
    """Equation 5 of SGDR (arXiv:1608.03983), with 1 + cos 2x = 2 cos^2 x."""
    if t >= total_steps:
        return min_lr
    return min_lr + (lr - min_lr) * np.cos(np.pi * t / total_steps / 2) ** 2


def cosine_restarts(t, *, lr, period, period_mult=1, min_lr=0.0):
    """SGDR with T_0 = period and T_mult: one step after another."""
    since = 0
    for _ in range(t):
        since += 1
        if since == period:
            since, period = 0, period * period_mult
    return min_lr + 0.5 * (lr - min_lr) * (1 + np.cos(np.pi * since / period))


def one_cycle(t, *, max_lr, total_steps, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
    """PyTorch's OneCycleLR with cosines, holding its last value."""
    first = max_lr / div_factor
    final = max_lr / (div_factor * final_div_factor)
    top, last = pct_start * total_steps - 1, total_steps - 1
    if t >= last:
        return final
    if t <= top and top > 0:
        return first + (max_lr - first) * np.sin(0.5 * np.pi * t / top) ** 2
    return final + (max_lr - final) * np.cos(0.5 * np.pi * (t - top) / (last - top)) ** 2


def inverse_sqrt(t, *, lr, warmup_steps):
    """Section 5.3 of arXiv:1706.03762, scaled so that the peak is lr; its steps count from 1."""
    n = t + 1
    return lr * warmup_steps**0.5 * min(n**-0.5, n * warmup_steps**-1.5)


def warmup_stable_decay(t, *, lr, warmup_steps, stable_steps, decay_steps, shape="linear"):
    """Equation 1 of arXiv:2405.18392, warm-up counted from 1."""
    if t < warmup_steps:
        return lr * (t + 1) / warmup_steps
    over = np.clip((t - warmup_steps - stable_steps) / decay_steps, 0, 1)
    left = {"linear": 1 - over, "cosine": np.cos(np.pi * over / 2) ** 2, "1-sqrt": 1 - over**0.5}
    return lr * left[shape] if over < 1 else 0.0


def warmup(t, *, after, steps):
    return after(0) * (t + 1) / steps if t < steps else after(t - steps)


def sequence(t, *, schedules, boundaries):
    starts = [0, *boundaries]
    reached = [k for k, start in enumerate(starts) if start <= t]
    return schedules[reached[-1]](t - starts[reached[-1]])


def interpolate(t, *, points):
    steps, values = zip(*points, strict=True)
    return float(np.interp(t, steps, values))


def product(t, *, first, second):
    return first(t) * second(t)


def per_epoch(t, *, by_epoch, steps_per_epoch):
    epoch = 0
    while (epoch + 1) * steps_per_epoch <= t:
        epoch += 1
    return by_epoch(epoch)


def user_function(t, *, function):
    return function(t)


def reduce_on_plateau(metrics, *, lr, mode="min", factor=0.1, patience=10, threshold=1e-4,
                      threshold_mode="rel", cooldown=0, min_lr=0.0, eps=1e-8):  # fmt: skip
    """The value after each metric, by the rules of PyTorch's ReduceLROnPlateau.

    Mode "max" is mode "min" of the negated metric, with the threshold on the same side."""
    sign = 1 if mode == "min" else -1
    best, bad, wait, values = np.inf, 0, 0, []
    for metric in metrics:
        margin = threshold * (sign * best if threshold_mode == "rel" else 1.0)
        if best == np.inf:
            better = sign * metric < np.inf
        else:
            better = sign * metric < best - margin
        if better:
            best, bad = sign * metric, 0
        else:
            bad += 1
        if wait:
            wait, bad = wait - 1, 0
        if bad > patience:
            lower = max(lr * factor, min_lr)
            if lr - lower > eps:
                lr = lower
            bad, wait = 0, cooldown
        values.append(lr)
    return values


SCHEDULES = {
    "Constant": constant,
    "StepDecay": step_decay,
    "MultiStepDecay": multi_step_decay,
    "ExponentialDecay": exponential_decay,
    "LinearDecay": linear_decay,
    "PolynomialDecay": polynomial_decay,
    "CosineAnnealing": cosine_annealing,
    "CosineRestarts": cosine_restarts,
    "OneCycle": one_cycle,
    "InverseSqrt": inverse_sqrt,
    "WarmupStableDecay": warmup_stable_decay,
    "Warmup": warmup,
    "Sequence": sequence,
    "Interpolate": interpolate,
    "Product": product,
    "PerEpoch": per_epoch,
    "Lambda": user_function,
    "ReduceOnPlateau": reduce_on_plateau,
}
