"""What the tests of schedules share: a table of schedules and the twin of each."""

import dataclasses
import functools
import math

import reference

from instep.schedules import (
    Constant,
    CosineAnnealing,
    CosineRestarts,
    ExponentialDecay,
    Interpolate,
    InverseSqrt,
    Lambda,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    PolynomialDecay,
    ReduceOnPlateau,
    Schedule,
    Sequence,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)


def ripple(t):
    """A user's function, of a module so that it pickles."""
    return 0.3 + 0.2 * math.sin(t % 1000)


# Every class, every field off its default in some row, short enough that 60 steps pass the end.
SCHEDULES = [
    Constant(0.1),
    Constant(0),
    Constant(-2.5),
    StepDecay(0.3, 7),
    StepDecay(0.3, 1, gamma=0.9),
    StepDecay(0.3, 5, gamma=1),
    MultiStepDecay(0.3, [4, 5, 20]),
    MultiStepDecay(0.3, [1], gamma=0.25),
    MultiStepDecay(0.3, []),
    ExponentialDecay(0.3, 0.93),
    LinearDecay(0.3, 7),
    LinearDecay(0.3, 30, end=0.7),
    LinearDecay(1.0, 1),
    PolynomialDecay(0.3, 7),
    PolynomialDecay(0.3, 30, power=2.5, end=0.01),
    PolynomialDecay(0.3, 30, power=0.5),
    CosineAnnealing(0.3, 7),
    CosineAnnealing(3e-3, 1000, min_lr=1e-5),
    CosineAnnealing(1.0, 1),
    CosineAnnealing(0.1, 10, min_lr=0.9),
    CosineRestarts(0.3, 7),
    CosineRestarts(0.3, 3, period_mult=2, min_lr=0.01),
    CosineRestarts(0.3, 1, period_mult=3),
    OneCycle(0.3, 40),
    OneCycle(0.3, 33, pct_start=0.41, div_factor=10, final_div_factor=100),
    OneCycle(0.85, 40, div_factor=0.85 / 0.95, final_div_factor=1),
    OneCycle(0.3, 10, pct_start=0),
    OneCycle(0.3, 10, pct_start=0.1),
    OneCycle(0.3, 1),
    InverseSqrt(0.3, 10),
    InverseSqrt(0.3, 1),
    WarmupStableDecay(0.3, 5, 10, 20),
    WarmupStableDecay(0.3, 0, 0, 7, shape="cosine"),
    WarmupStableDecay(0.3, 1, 3, 13, shape="1-sqrt"),
    Warmup(0.1, 0),
    Warmup(0.3, 3),
    Warmup(CosineAnnealing(3e-3, 2000), 100),
    Warmup(Warmup(CosineAnnealing(0.7, 11, 0.1), 4), 3),
    Sequence([Warmup(0.3, 5), 0.3, CosineAnnealing(0.3, 20)], [5, 17]),
    Sequence([LinearDecay(0.3, 10)], []),
    Interpolate([(3, 0.1), (10, 0.5), (11, 0.2), (40, 0.0)]),
    Interpolate([(0, 0.25)]),
    0.1 * CosineAnnealing(0.3, 7),
    LinearDecay(0.3, 30) * Warmup(1, 10),
    StepDecay(0.3, 3, gamma=0.5).per_epoch(4),
    Warmup(CosineAnnealing(0.3, 5).per_epoch(7), 6),
    Lambda(ripple),
    2 * Sequence([Lambda(ripple), 0.1], [20]),
    ReduceOnPlateau(0.3),
    Warmup(0.5 * ReduceOnPlateau(0.3, "max", 0.5, 2, 0.01, "abs", 3, 1e-3, 1e-6), 10),
]


def has(schedule, kind):
    """Is a schedule of that kind in it, or it itself?"""
    if isinstance(schedule, tuple):
        return any(has(part, kind) for part in schedule)
    if not isinstance(schedule, Schedule):
        return False
    parts = tuple(getattr(schedule, field.name) for field in dataclasses.fields(schedule))
    return isinstance(schedule, kind) or has(parts, kind)


JSON_SCHEDULES = [schedule for schedule in SCHEDULES if not has(schedule, Lambda)]


def twin(value):
    """The function of the step that reference_schedules.py has for a schedule."""
    if isinstance(value, tuple):
        return tuple(twin(part) for part in value)
    if not isinstance(value, Schedule):
        return value
    if isinstance(value, ReduceOnPlateau):  # before it is shown a metric
        return lambda t: value.lr
    fields = {field.name: twin(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return functools.partial(reference.SCHEDULES[type(value).__name__], **fields)
