"""Losses that return their value and their gradient in one pass.

All take ``(pred, target, *, reduction, weight, out)`` and return ``LossGrad(value, grad)``. `grad`
has pred's shape and dtype; ``out=`` receives it and may be `pred` itself. float32, float64, float16
and bfloat16 predictions of any strides; computed in float64 for float64, else in float32; values
are accumulated in float64 in a fixed order: the same bits on every thread count and instruction
set. Where nothing counts (empty input, every row ignored), value and gradient are 0.
"""

from instep.losses._call import LossGrad
from instep.losses.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    focal,
    hinge,
)
from instep.losses.multiclass import categorical_cross_entropy, cross_entropy, kl_div
from instep.losses.regression import (
    huber,
    log_cosh,
    mae,
    mse,
    poisson_nll,
    quantile,
    smooth_l1,
)
from instep.losses.segmentation import dice, iou, tversky

__all__ = [
    "LossGrad",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "dice",
    "focal",
    "hinge",
    "huber",
    "iou",
    "kl_div",
    "log_cosh",
    "mae",
    "mse",
    "poisson_nll",
    "quantile",
    "smooth_l1",
    "tversky",
]
