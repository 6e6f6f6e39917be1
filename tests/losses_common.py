"""What the tests of losses share: the comparison with the twin, and problems for every loss.

``CASES`` lists the losses that treat each element alone, with every option off its default and in
combination; ``REGIONS`` those of regions. Losses over classes have their own grid, `check_options`.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import reference
from numpy.testing import assert_allclose

from instep import losses

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
try:
    import ml_dtypes
except ImportError:
    NARROW = [F16]
else:
    NARROW = [F16, np.dtype(ml_dtypes.bfloat16)]
ALL_DTYPES = [F32, F64, *NARROW]
RTOL = {F32: 1e-6, F64: 1e-12}
REDUCTIONS = ["mean", "sum", "none"]
INTEGERS = [np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)]
FLOATS = [*ALL_DTYPES, np.dtype(np.longdouble)]
CLASS_LOSSES = [losses.cross_entropy, losses.categorical_cross_entropy]
REGION_LOSSES = [losses.dice, losses.iou, losses.tversky]


def computed(dtype):
    """The type that predictions of `dtype` are computed in."""
    return F64 if dtype == F64 else F32


def all_of(loss):
    """The reductions that a loss knows."""
    return [*REDUCTIONS, "batchmean"] if loss is losses.kl_div else REDUCTIONS


# ---- the comparison --------------------------------------------------------------------------


def in_order(array):
    """Integers that count the floats of a 16-bit type in order; NaN apart."""
    number = np.asarray(array).reshape(-1).view(np.int16).astype(np.int64)
    return np.where(number < 0, -(number & 0x7FFF), number)


def assert_within_one_ulp(found, expected, floor=0.0):
    """`found`, of a 16-bit type, is `expected` rounded to it, or a neighbour of that."""
    expected = np.asarray(expected, np.float64)
    with np.errstate(over="ignore"):
        rounded = expected.astype(found.dtype)
    missing = np.isnan(expected)
    assert (np.isnan(found) == missing).all()
    apart = np.abs(in_order(found) - in_order(rounded)).reshape(found.shape)
    with np.errstate(invalid="ignore"):
        near = np.abs(found.astype(np.float64) - expected) <= floor
    wrong = np.flatnonzero(~missing & (apart > 1) & ~near)
    assert wrong.size == 0, (wrong[:5], found.flat[wrong[:5]], expected.flat[wrong[:5]])


def assert_array_close(found, expected, rtol, atol):
    if found.dtype in RTOL:
        assert_allclose(found, expected, rtol=rtol, atol=atol)
    else:
        assert_within_one_ulp(found, expected, atol)


def seen_by(loss, array, pred):
    """What an elementwise loss or a region computes with: the array in the type of computation."""
    if array is None or loss in CLASS_LOSSES:
        return array
    return np.asarray(array).astype(computed(pred.dtype))


def check(loss, pred, target, *, atol=0.0, value_atol=1e-3, **options):
    """Compare one call with the twin; returns it.

    `atol` is for gradients that cancel, `value_atol` for values, both in units of the tolerance.
    """
    pred, target = np.asarray(pred), np.asarray(target)
    inputs = [pred, target, *(options.get(name) for name in ("weight", "mask", "pos_weight"))]
    inputs = [a for a in inputs if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in inputs]
    result = loss(pred, target, **options)
    assert [a.tobytes() for a in inputs] == before
    twin = reference.LOSSES[loss.__name__]
    given = {k: seen_by(loss, v, pred) if k == "pos_weight" else v for k, v in options.items()}
    given.pop("out", None)
    expected = twin(pred, seen_by(loss, target, pred), **given)
    assert_is_loss_grad(result, pred, expected, options.get("reduction"))
    rtol = RTOL[computed(pred.dtype)]
    value = np.asarray(result.value)
    assert_array_close(value, expected[0], rtol, rtol * value_atol)
    assert_array_close(result.grad, expected[1], rtol, rtol * atol)
    return result


def assert_is_loss_grad(result, pred, expected, reduction):
    """Types, shapes and dtypes of a result."""
    value, grad = result
    assert isinstance(result, losses.LossGrad)
    assert isinstance(grad, np.ndarray) and grad.shape == pred.shape and grad.dtype == pred.dtype
    if reduction == "none":
        assert isinstance(value, np.ndarray)
        assert value.shape == expected[0].shape and value.dtype == pred.dtype
    else:
        assert type(value) is float


def assert_zero(result, shape):
    assert type(result.value) is float and result.value == 0.0
    assert result.grad.shape == shape
    assert not result.grad.any()  # also false for NaN


def assert_same_bits(found, expected):
    """Equal numbers with equal signs, also of zeros; of NaN that it is one."""
    np.testing.assert_array_equal(found, expected)
    found, expected = np.asarray(found), np.asarray(expected)
    numbers = ~np.isnan(found)
    np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(expected)[numbers])


def assert_same(found, expected):
    """Two results of equal bits."""
    assert_same_bits(found.value, expected.value)
    assert_same_bits(found.grad, expected.grad)


def result_bytes(result):
    return np.asarray(result.value).tobytes(), result.grad.tobytes()


# ---- problems of losses that treat each element alone ----------------------------------------


def regression(rng, shape, options):
    return 1.5 * rng.normal(size=shape), rng.normal(size=shape)


def counts(rng, shape, options):
    """Rates of Poisson distributions, and what was counted; some counts are no whole numbers."""
    target = rng.poisson(2.0, shape) + 0.5 * (rng.uniform(size=shape) < 0.2)
    if options.get("log_input", True):
        return rng.normal(size=shape), target
    return rng.uniform(0.1, 4.0, shape), target


def yes_or_no(rng, shape):
    """Targets of 0, 1, and some between."""
    hard = rng.integers(0, 2, shape).astype(np.float64)
    return np.where(rng.uniform(size=shape) < 0.3, rng.uniform(size=shape), hard)


def probabilities(rng, shape, options):
    return rng.uniform(0.1, 0.9, shape), yes_or_no(rng, shape)


def logits(rng, shape, options):
    return 3.0 * rng.normal(size=shape), yes_or_no(rng, shape)


def signs(rng, shape, options):
    return rng.normal(size=shape), rng.choice([-1.0, 1.0], shape)


def distributions(rng, shape, options):
    pred, target = -3 * rng.uniform(0.1, 1.0, shape), rng.uniform(0.1, 1.0, shape)
    if options.get("log_target"):
        return pred, np.log(target)
    return pred, np.where(rng.uniform(size=shape) < 0.2, 0.0, target)


class Case(NamedTuple):
    """A loss, its options, and how to make data for it.

    `unit` is the size of what cancels in the gradient, `value_unit` in the value of one element
    (in a sum only where values are of both signs). An option may be a function of (rng, shape).
    """

    loss: Callable[..., Any]
    options: dict[str, Any]
    make: Callable[..., Any]
    unit: float = 0.0
    value_unit: float = 1e-3

    def problem(self, rng, shape, dtype):
        """(pred, target, options)"""
        pred, target = self.make(rng, shape, self.options)
        options = {k: v(rng, shape) if callable(v) else v for k, v in self.options.items()}
        pred, target = np.asarray(pred), np.asarray(target)
        return pred.astype(dtype), target.astype(dtype), options

    def check(self, pred, target, *, weight=None, reduction="mean", **options):
        """Compare one call with the twin, to the tolerance of this loss."""
        divisor = 1.0
        if reduction == "mean":
            by_weight = weight is not None and self.loss in WEIGHTED_MEANS
            divisor = np.sum(weight, dtype=np.float64) if by_weight else pred.size
        elif reduction == "batchmean":
            divisor = pred.shape[0] if pred.ndim else 1
        options |= {"weight": weight, "reduction": reduction}
        unit, value_unit = self.unit / max(abs(divisor), 1e-300), self.value_unit
        if reduction != "none" and self.loss not in SIGNED:
            value_unit = 1e-3
        return check(self.loss, pred, target, atol=unit, value_atol=value_unit, **options)


def grid(loss, make, unit=0.0, value_unit=1e-3, **choices):
    """A case per combination of the choices."""
    return [
        Case(loss, dict(zip(choices, values, strict=True)), make, unit, value_unit)
        for values in itertools.product(*choices.values())
    ]


def per_class(rng, shape):
    return rng.uniform(0.2, 4.0, shape[-1:])


def per_element(rng, shape):
    return rng.uniform(0.2, 4.0, shape)


# These divide a mean by the sum of the weights; the others, as PyTorch, by the number of elements.
WEIGHTED_MEANS = [
    losses.mse, losses.mae, losses.huber, losses.smooth_l1, losses.log_cosh, losses.quantile,
    losses.poisson_nll, losses.hinge, losses.kl_div,
]  # fmt: skip
SIGNED = [losses.poisson_nll, losses.kl_div]  # these have values below 0
CASES = [
    *grid(losses.mse, regression),
    *grid(losses.mae, regression),
    *grid(losses.huber, regression, delta=[1.0, 0.3, 2.5, 1]),
    *grid(losses.smooth_l1, regression, beta=[1.0, 0.4, 2.5, 0.0, 1e-3]),
    *grid(losses.log_cosh, regression),
    *grid(losses.quantile, regression, q=[0.5, 0.1, 0.95]),
    *grid(losses.poisson_nll, counts, 20, 20, log_input=[True, False], full=[False, True],
          eps=[1e-8, 0.1]),
    *grid(losses.binary_cross_entropy, probabilities, value_unit=1),
    *grid(losses.binary_cross_entropy_with_logits, logits, 4, 1, label_smoothing=[0.0, 0.15],
          pos_weight=[None, 2.5, per_class, per_element]),
    *grid(losses.focal, logits, 4, 1, gamma=[2.0, 0.0, 0.5, 1.0, 3.5], alpha=[None, 0.25]),
    *grid(losses.hinge, signs, value_unit=1),
    *grid(losses.kl_div, distributions, value_unit=3, log_target=[False, True]),
]  # fmt: skip


def name_of(value):
    """A readable id of a case."""
    if isinstance(value, Case):
        options = (f"{k}={getattr(v, '__name__', v)}" for k, v in value.options.items())
        return ",".join([value.loss.__name__, *options])
    return getattr(value, "__name__", None) or str(value)


# ---- regions ---------------------------------------------------------------------------------


def region_problem(rng, shape, dtype, *, from_logits=False, ignore_index=None):
    """Predictions, and targets of 0 and 1, where ignore_index says so with what is ignored."""
    pred = 3 * rng.normal(size=shape) if from_logits else rng.uniform(0.0, 1.0, shape)
    target = rng.integers(0, 2, shape).astype(np.float64)
    if ignore_index is not None:
        target = np.where(rng.uniform(size=shape) < 0.25, float(ignore_index), target)
    else:
        target = np.where(rng.uniform(size=shape) < 0.2, rng.uniform(size=shape), target)
    return np.asarray(pred).astype(dtype), np.asarray(target).astype(dtype)


REGIONS = [
    *grid(losses.dice, None, smooth=[1.0, 0.0, 7]),
    *grid(losses.iou, None, smooth=[1.0, 0.0, 0.25]),
    *grid(losses.tversky, None, smooth=[1.0, 0.5], alpha=[0.5, 0.3], beta=[0.5, 1.7]),
]


# ---- classes ---------------------------------------------------------------------------------


def logits_problem(rng, shape, dtype, spread=3.0):
    """Logits with labels, soft targets and class weights."""
    axis = min(1, len(shape) - 1)
    classes = shape[axis]
    pred = (spread * rng.normal(size=shape)).astype(dtype)
    labels = rng.integers(0, classes, shape[:axis] + shape[axis + 1 :])
    soft = rng.uniform(0.0, 1.0, shape).astype(dtype)
    weight = rng.uniform(0.5, 2.0, classes).astype(dtype)
    return pred, labels, soft, weight


def class_problem(loss, rng, shape, dtype):
    """The same for any loss over classes; probabilities need not sum to 1."""
    pred, *others = logits_problem(rng, shape, dtype)
    if loss is losses.categorical_cross_entropy:
        pred = np.asarray(rng.uniform(0.1, 1.0, shape)).astype(dtype)
    return pred, *others


def check_options(loss, rng, shape, dtype):
    """A loss over classes with every option off its default, in every combination."""
    pred, labels, soft, weight = class_problem(loss, rng, shape, dtype)
    ignored = int(np.ravel(labels)[0]) if labels.size else 0
    choices = [None, weight], [0.0, 0.15], REDUCTIONS, [-100, ignored, None]
    for chosen, smoothing, reduction, ignore in itertools.product(*choices):
        options = {"weight": chosen, "label_smoothing": smoothing, "reduction": reduction}
        rows = max(1, labels.size)
        if ignore is None:  # soft targets
            unit = shape[min(1, len(shape) - 1)] / (rows if reduction == "mean" else 1)
            check(loss, pred, soft, atol=unit, **options)
        else:
            used = max(1, np.count_nonzero(labels != ignore))
            unit = 4 / (used if reduction == "mean" else 1)
            check(loss, pred, labels, atol=unit, ignore_index=ignore, **options)
