"""Schedules: hyperparameters that change with the step.

A schedule is an immutable value and a pure function of the 0-based step: ``s(0)`` is what the
first step uses, and nothing is counted inside, so a schedule can be shared, plotted, pickled,
written as JSON and resumed anywhere. After its end a schedule holds its last value. Any
hyperparameter of an optimizer may be a schedule, not only the learning rate; lengths are in
optimizer steps, and ``s.per_epoch(n)`` counts epochs of ``n`` steps instead. `ReduceOnPlateau`
alone changes, when it is shown a metric.
"""

from instep.schedules._base import Schedule as Schedule
from instep.schedules.compose import Interpolate as Interpolate
from instep.schedules.compose import Lambda as Lambda
from instep.schedules.compose import PerEpoch as PerEpoch
from instep.schedules.compose import Product as Product
from instep.schedules.compose import Sequence as Sequence
from instep.schedules.cosine import CosineAnnealing as CosineAnnealing
from instep.schedules.cosine import CosineRestarts as CosineRestarts
from instep.schedules.cosine import OneCycle as OneCycle
from instep.schedules.decay import Constant as Constant
from instep.schedules.decay import ExponentialDecay as ExponentialDecay
from instep.schedules.decay import LinearDecay as LinearDecay
from instep.schedules.decay import MultiStepDecay as MultiStepDecay
from instep.schedules.decay import PolynomialDecay as PolynomialDecay
from instep.schedules.decay import StepDecay as StepDecay
from instep.schedules.plateau import PlateauState as PlateauState
from instep.schedules.plateau import ReduceOnPlateau as ReduceOnPlateau
from instep.schedules.warmup import InverseSqrt as InverseSqrt
from instep.schedules.warmup import Warmup as Warmup
from instep.schedules.warmup import WarmupStableDecay as WarmupStableDecay

__all__ = [
    "Constant",
    "CosineAnnealing",
    "CosineRestarts",
    "ExponentialDecay",
    "Interpolate",
    "InverseSqrt",
    "Lambda",
    "LinearDecay",
    "MultiStepDecay",
    "OneCycle",
    "PerEpoch",
    "PolynomialDecay",
    "Product",
    "ReduceOnPlateau",
    "Schedule",
    "Sequence",
    "StepDecay",
    "Warmup",
    "WarmupStableDecay",
]
