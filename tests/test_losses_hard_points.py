"""Hard points of losses of elements: kinks, saturation, NaN, infinities, odd weights, nothing."""

import itertools

import numpy as np
import pytest
from losses_common import (
    ALL_DTYPES,
    CASES,
    F16,
    F32,
    F64,
    REDUCTIONS,
    REGION_LOSSES,
    WEIGHTED_MEANS,
    all_of,
    assert_same,
    assert_zero,
    check,
    name_of,
)
from numpy.testing import assert_allclose, assert_array_equal

import instep
from instep import losses
from instep.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    focal,
    hinge,
    huber,
    kl_div,
    log_cosh,
    mae,
    mse,
    poisson_nll,
    quantile,
    smooth_l1,
)

every_case = pytest.mark.parametrize("case", CASES, ids=name_of)


# ---- kinks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.25, 1.0, 3.0])
def test_huber_at_the_kink(delta, dtype):
    pred = np.array([delta, -delta, 0.0, -0.0, 2 * delta], dtype)
    value, grad = check(huber, pred, np.zeros(5), delta=delta, reduction="none")
    assert_array_equal(value[:3], [delta**2 / 2, delta**2 / 2, 0.0])
    assert_array_equal(grad, [delta, -delta, 0.0, 0.0, delta])
    beside = np.nextafter(pred[:2], pred[:2] * 2)
    value, grad = check(huber, beside, np.zeros(2), delta=delta, reduction="none")
    assert_array_equal(grad, [delta, -delta])


@pytest.mark.parametrize("beta", [0.25, 1.0, 3.0])
def test_smooth_l1_at_the_kink(beta, dtype):
    pred = np.array([beta, -beta, 0.0, 2 * beta], dtype)
    value, grad = check(smooth_l1, pred, np.zeros(4), beta=beta, reduction="none")
    assert_array_equal(value, [beta / 2, beta / 2, 0.0, 1.5 * beta])
    assert_array_equal(grad, [1.0, -1.0, 0.0, 1.0])


def test_smooth_l1_and_huber_differ_by_their_threshold():
    """From the peers' table: beta 2, error 1."""
    assert smooth_l1(1.0, 0.0, beta=2.0) == (0.25, 0.5)
    assert huber(1.0, 0.0, delta=2.0) == (0.5, 1.0)


def test_smooth_l1_of_beta_0_is_mae(dtype, rng):
    pred, target = rng.normal(size=(2, 50)).astype(dtype)
    pred[:3] = target[:3]
    for reduction in REDUCTIONS:
        found = smooth_l1(pred, target, beta=0, reduction=reduction, weight=abs(target))
        assert_same(found, mae(pred, target, reduction=reduction, weight=abs(target)))


def test_slopes_where_the_error_is_0(dtype):
    pred = np.array([2.0, 3.0, 1.0], dtype)
    target = np.full(3, 2.0)
    assert_array_equal(mae(pred, target, reduction="sum").grad, [0.0, 1.0, -1.0])
    found = quantile(pred, target, q=0.25, reduction="none")
    assert_array_equal(found.grad, [0.0, 0.75, -0.25])
    assert_array_equal(found.value, [0.0, 0.75, 0.25])
    found = hinge(np.array([1.0, -1.0, 0.5, 1.5], dtype), [1, -1, 1, 1], reduction="none")
    assert_array_equal(found.grad, [0.0, 0.0, -1.0, 0.0])
    assert_array_equal(found.value, [0.0, 0.0, 0.5, 0.0])


# ---- NaN and infinities ----------------------------------------------------------------------


def nan_problems(case, rng, dtype):
    """Problems with every target that an option can make count for nothing."""
    pred, target, options = case.problem(rng, (50,), dtype)
    yield pred, target, options
    name = case.loss.__name__
    if name == "hinge":
        return
    for constant in (0.0, 1.0, -np.inf if options.get("log_target") else 1.0):
        yield pred, np.full_like(target, constant), options
    if name == "focal":
        for alpha, constant in itertools.product((0.0, 1.0), repeat=2):
            yield pred, np.full_like(target, constant), {**options, "alpha": alpha}


@every_case
@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
def test_nan_prediction_shows(case, stored, rng):
    """In value and gradient of every loss, under every option; and nowhere else."""
    for pred, target, options in nan_problems(case, rng, stored):
        pred = pred.copy()
        pred[[0, 20, 49]] = np.nan
        missing = np.isnan(pred)
        for reduction, weight in itertools.product(all_of(case.loss), [None, np.ones(50)]):
            value, grad = case.loss(pred, target, weight=weight, reduction=reduction, **options)
            assert_array_equal(np.isnan(grad), missing)
            assert_array_equal(np.isnan(value), missing if reduction == "none" else True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_nan_prediction_shows_whatever_pos_weight_hides(smoothing, dtype):
    """pos_weight 0 and target 1: the loss of any number is 0, of a NaN it is NaN."""
    pred, options = np.array([0.5, np.nan, -np.inf], dtype), {"label_smoothing": smoothing}
    for target, pos_weight in itertools.product([0, 1], [0.0, np.zeros(3), 1.0]):
        value, grad = binary_cross_entropy_with_logits(
            pred, np.full(3, target), pos_weight=pos_weight, reduction="none", **options
        )
        assert np.isnan(grad[1]) and np.isfinite(grad[::2]).all()
        assert np.isnan(value[1]) and not np.isnan(value[::2]).any()


@every_case
def test_nan_prediction_of_weight_0_shows(case, dtype, rng):
    pred, target, options = case.problem(rng, (50,), dtype)
    pred[7], weight = np.nan, np.ones(50)
    weight[7] = 0.0
    value, grad = case.loss(pred, target, weight=weight, **options)
    assert np.isnan(value)
    assert_array_equal(np.isnan(grad), np.isnan(pred))


@every_case
def test_nan_target_and_weight_show(case, dtype, rng):
    pred, target, options = case.problem(rng, (50,), dtype)
    worse = target.copy()
    worse[7] = np.nan
    value, grad = case.loss(pred, worse, **options)
    assert np.isnan(value) and np.isnan(grad[7]) and np.isfinite(grad[:7]).all()
    weight = np.ones(50)
    weight[7] = np.nan
    value, grad = case.loss(pred, target, weight=weight, reduction="sum", **options)
    assert np.isnan(value) and np.isnan(grad[7]) and np.isfinite(grad[:7]).all()


def test_infinities_as_the_twin(dtype):
    rows = np.array(list(itertools.product([np.nan, np.inf, -np.inf, 0.5], repeat=2)))
    pred, target = np.ascontiguousarray(rows.T.astype(dtype))
    for loss in (mse, mae, huber, smooth_l1, quantile):
        check(loss, pred, target, reduction="none")
    finite = np.full_like(pred, 0.25)
    for loss in (log_cosh, kl_div, focal, binary_cross_entropy_with_logits):
        check(loss, pred, finite, reduction="none", value_atol=1.0)
    check(hinge, pred, np.ones_like(pred), reduction="none")
    check(poisson_nll, pred, np.zeros_like(pred), reduction="none")
    rates = np.where(pred < 0, np.inf, pred)
    check(poisson_nll, rates, finite, log_input=False, reduction="none", value_atol=1.0)


def test_focal_of_a_wrong_infinite_logit(dtype):
    """The limit: where the answer is all wrong, nothing fades."""
    huge = 0.9 * np.finfo(dtype).max
    pred, target = np.array([-np.inf, -huge, np.inf, huge], dtype), np.array([1, 1, 0, 0])
    assert_array_equal(focal(pred, target, reduction="sum").grad, [-1, -1, 1, 1])


def test_infinite_errors(dtype):
    """Value infinite, gradient as far as it goes."""
    pred = np.array([np.inf, -np.inf], dtype)
    for loss, slope in [(mae, 1), (huber, 1), (smooth_l1, 1), (log_cosh, 1), (quantile, 0.5)]:
        value, grad = loss(pred, np.zeros(2), reduction="none")
        assert_array_equal(value, [np.inf, np.inf])
        assert_array_equal(grad, [slope, -slope])


# ---- saturation ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [200.0, 1e4, np.inf])
def test_saturated_logits(size, dtype):
    pred, target = np.array([size, -size, size, -size], dtype), np.array([1, 0, 0, 1])
    for options in [{}, {"pos_weight": 3.0}, {"pos_weight": np.array([3.0, 3.0, 3.0, 3.0])}]:
        found = binary_cross_entropy_with_logits(pred, target, reduction="none", **options)
        weight = 3.0 if options else 1.0
        assert_allclose(found.value, [0.0, 0.0, size, weight * size], atol=1e-80)
        assert_allclose(found.grad, [0.0, 0.0, 1.0, -weight], atol=1e-80)
    for gamma, alpha in itertools.product([0.0, 0.5, 2.0], [None, 0.25]):
        if size == np.inf:
            continue  # its slope is 1 + gamma * inf * 0: NaN
        found = focal(pred, target, gamma=gamma, alpha=alpha, reduction="none")
        one, other = (1.0, 1.0) if alpha is None else (0.75, 0.25)
        assert_allclose(found.value, [0.0, 0.0, one * size, other * size], atol=1e-40)
        assert_allclose(found.grad, [0.0, 0.0, one, -other], atol=1e-40)


@pytest.mark.parametrize("size", [30.0, 200.0, 1e4])
def test_saturated_soft_targets_as_the_twin(size, dtype, rng):
    pred = (size * rng.choice([-1, 1], 200) + rng.normal(size=200)).astype(dtype)
    target = rng.uniform(size=200).astype(dtype)
    for smoothing, reduction in itertools.product([0.0, 0.1], REDUCTIONS):
        options = {"label_smoothing": smoothing, "reduction": reduction}
        check(binary_cross_entropy_with_logits, pred, target, atol=2.0, **options)
        check(focal, pred, target, atol=8.0, value_atol=1.0, reduction=reduction)


@pytest.mark.parametrize("smoothing", [0.1, 0.01, 1e-3, 1e-4])
def test_small_label_smoothing_keeps_its_digits(smoothing, dtype):
    """What smoothing leaves of the other side is s / 2, and costs s / 2 times a large logit."""
    pred = np.array([50.0, -50.0, 200.0, -200.0], dtype)
    options = {"label_smoothing": smoothing, "reduction": "none"}
    value = check(binary_cross_entropy_with_logits, pred, [1, 0, 1, 0], atol=1.0, **options).value
    assert_allclose(value, smoothing / 2 * np.abs(pred), rtol=1e-6)


def test_binary_cross_entropy_at_0_and_1(dtype):
    """PyTorch's limits: a wrong certainty costs 100, its gradient is 1e12."""
    pred, target = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype), [1, 0, 0.5, 0.5, 0, 1]
    value, grad = check(binary_cross_entropy, pred, target, reduction="none")
    assert_array_equal(value, [100.0, 100.0, 50.0, 50.0, 0.0, 0.0])
    expected = 1e12 * np.array([-1.0, 1.0, -0.5, 0.5, 0.0, 0.0])
    assert_allclose(grad, expected, rtol=1e-6)
    small = np.array([1e-3, 1e-7, 1e-13, 1e-30, 1e-44, 1e-46], dtype)
    for target in (0, 1, 0.5):
        check(binary_cross_entropy, small, np.full(6, target), reduction="none")
        check(binary_cross_entropy, 1 - small, np.full(6, target), reduction="none")


def test_log_cosh_near_0_and_far_out(dtype):
    error = np.array([0.0, 1e-30, 1e-18, 1e-9, 1e-4, 0.1, 0.5, 0.999, 1.0, 1.001, 5.0, 40.0, 1e4])
    error = np.concatenate([error, -error]).astype(dtype)
    value, grad = check(log_cosh, error, np.zeros(26), reduction="none", value_atol=1e-35)
    assert_allclose(value[2], 0.5 * float(error[2]) ** 2, rtol=1e-6)
    assert value[12] == dtype.type(1e4 - np.log(2))
    assert grad[12] == 1.0 and grad[25] == -1.0 and grad[0] == 0.0
    steps = np.linspace(-3, 3, 4001).astype(dtype)
    check(log_cosh, steps, np.zeros(4001), reduction="none", value_atol=1e-35)


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_large_errors_do_not_overflow(size):
    pred, target = np.array([size, -size, size], F32), np.array([0.0, 0.0, -size], F32)
    for loss in (mae, huber, smooth_l1, quantile, hinge):
        wanted = np.array([-1.0, 1.0, -1.0]) if loss is hinge else target
        for weight in (None, np.array([0.5, 1.5, 1.0])):
            value, grad = check(loss, pred, wanted, weight=weight, reduction="sum")
            assert np.isfinite(value) and np.isfinite(grad).all()
    check(log_cosh, pred[:2], target[:2], reduction="sum")


def test_huge_errors_do_not_overflow_in_the_value():
    for size in (3e19, 1e38, 3e-30):
        pred = np.array([size, 0.0], F32)
        value = check(mse, pred, np.zeros(2)).value
        assert_allclose(value, float(pred[0]) ** 2 / 2, rtol=1e-15)
        check(mse, pred, np.zeros(2), weight=np.array([0.5, 1.5]))
    check(mse, np.array([1e150, 1.0]), np.zeros(2))


def test_errors_at_the_end_of_the_range(dtype):
    """Value and gradient are finite where the formula is."""
    pred = np.full(8, 0.75 * np.finfo(dtype).max, dtype)
    assert_allclose(mse(pred, np.zeros(8)).grad, pred / 4, rtol=1e-6)
    value, grad = mse(np.full(8, 3e38, F32), np.full(8, -3e38, F32))
    assert_allclose(value, 3.6e77, rtol=1e-6)
    assert_allclose(grad, np.full(8, 1.5e38), rtol=1e-6)


def test_narrow_gradients_of_many_elements_do_not_vanish():
    """float16 means of 100,000 elements are as exact as float16 goes."""
    pred = np.full(100_000, 1.5, F16)
    value, grad = mse(pred, np.zeros(100_000))
    assert value == 2.25
    assert_array_equal(grad, F16.type(3.0 / 100_000))


# ---- targets of 0 ----------------------------------------------------------------------------


def test_kl_div_of_target_0(dtype):
    """A share of 0 costs nothing, whatever is predicted (PyTorch with log_target: NaN)."""
    pred = np.array([-1.0, -np.inf, 0.0, np.inf], dtype)
    for reduction in all_of(kl_div):
        found = kl_div(pred, np.zeros(4), reduction=reduction)
        assert not np.any(found.value) and not found.grad.any()
        found = kl_div(pred, np.full(4, -np.inf), log_target=True, reduction=reduction)
        assert not np.any(found.value) and not found.grad.any()
    value, grad = kl_div(np.array([-np.inf], dtype), [0.5], reduction="none")
    assert value == np.inf and grad == -0.5


def test_poisson_at_its_ends(dtype):
    pred = np.array([0.0, 0.0, 0.5], dtype)
    options = {"log_input": False, "reduction": "none"}
    for eps in (1e-8, 1e-3):
        check(poisson_nll, pred, [0.0, 2.0, 0.0], eps=eps, **options)
    stirling = poisson_nll(pred, [0.0, 1.0, 1.0], full=True, reduction="none")
    assert_same(stirling, poisson_nll(pred, [0.0, 1.0, 1.0], reduction="none"))
    check(poisson_nll, pred, [1.0, 1.0001, 60.0], full=True, reduction="none", value_atol=300)
    value, grad = poisson_nll(np.array([-np.inf], dtype), [0.0], reduction="none")
    assert np.isnan(value) or value == 0.0  # exp(-inf) - 0 * -inf: PyTorch's NaN, or 0
    assert grad == 0.0


# ---- weights ---------------------------------------------------------------------------------


@every_case
def test_zero_and_negative_weights(case, dtype, rng):
    pred, target, options = case.problem(rng, (60,), dtype)
    weight = rng.choice([-1.0, 0.0, 2.0, 0.5], 60)
    weight[:4] = 9.0  # the sum is not near 0
    for reduction in all_of(case.loss):
        loose = {"atol": 20.0, "value_atol": 20.0 * (60 if reduction == "sum" else 1)}
        found = check(
            case.loss, pred, target, weight=weight, reduction=reduction, **loose, **options
        )
        assert not found.grad[weight == 0].any()


@every_case
def test_weights_that_sum_to_zero(case, dtype, rng):
    """Where a mean divides by them, value and gradient are 0, whatever is predicted."""
    pred, target, options = case.problem(rng, (4,), dtype)
    for weight in ([1.0, -1.0, 2.0, -2.0], [0.0, 0.0, 0.0, 0.0]):
        weight = np.array(weight)
        found = case.loss(pred, target, weight=weight, **options)
        if case.loss in WEIGHTED_MEANS or not weight.any():
            assert_zero(found, (4,))
        else:
            check(case.loss, pred, target, weight=weight, atol=9.0, value_atol=9.0, **options)
        total = case.loss(pred, target, weight=weight, reduction="sum", **options)
        assert bool(total.grad.any()) == bool(weight.any()) or case.loss is hinge
        if case.loss in WEIGHTED_MEANS:
            assert_zero(
                case.loss(np.full(4, np.nan, dtype), target, weight=weight, **options), (4,)
            )


@pytest.mark.parametrize("size", [1e-44, 1e-39, 1e-36, 1e38])
def test_weights_at_the_ends_of_float32(size, rng):
    """A mean does not depend on the size of the weights."""
    pred = np.array([1.0, 3.0], F32)
    weight = np.full(2, size, F32)
    for scale in (F32.type(1.0), F32.type(1e-7)):
        grad = mse(scale * pred, np.zeros(2), weight=weight).grad
        assert_allclose(grad, scale * pred, rtol=1e-6)
    for case in CASES:
        if case.loss in WEIGHTED_MEANS:
            x, target, options = case.problem(rng, (6,), F32)
            found = case.loss(x, target, weight=np.full(6, size, F32), **options)
            plain = case.loss(x, target, **options)
            assert_allclose(found.value, plain.value, rtol=2e-6)
            assert_allclose(found.grad, plain.grad, rtol=2e-6)


# ---- nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@every_case
def test_nothing_to_average_is_zero(case, threads, dtype, rng, num_threads):
    """PyTorch's mean is NaN in each of these. No warning (warnings are errors here)."""
    num_threads(threads)
    for shape in [(0,), (0, 3), (3, 0), (2, 0, 4)]:
        empty, target, options = case.problem(rng, shape, dtype)
        for reduction in set(all_of(case.loss)) - {"none"}:
            options |= {"reduction": reduction}
            assert_zero(case.loss(empty, target, **options), shape)
            assert_zero(case.loss(empty, target, weight=empty, **options), shape)
            assert_zero(case.loss(empty, target, out=empty.copy(), **options), shape)
            assert_zero(case.loss(empty, target, out=empty, **options), shape)
        options |= {"reduction": "none"}
        value = case.loss(empty, target, **options).value
        assert value.shape == shape and value.dtype == dtype


def test_every_loss_takes_a_three_of_one_only_as_such(dtype):
    """(3, 1) against (3,): an error, never a silent broadcast; in every loss."""
    pred, other = np.full((3, 1), 0.5, dtype), np.ones(3)
    every = {case.loss for case in CASES} | set(REGION_LOSSES)
    every |= {losses.categorical_cross_entropy, losses.cross_entropy}
    assert {loss.__name__ for loss in every} == set(instep.losses.__all__) - {"LossGrad"}
    for loss in every:
        with pytest.raises(ValueError, match="broadcast"):
            loss(pred, other)
        with pytest.raises(ValueError, match=r"broadcast|labels must have shape"):
            loss(pred[:, 0], other[:, None])
        with pytest.raises(ValueError, match=r"broadcast|one entry per class|scores of shape"):
            loss(pred, np.ones((3, 1)), weight=other[:2])


def test_float64_is_computed_in_float64(rng):
    """No loss drops to float32: a change of the 40th bit shows."""
    for case in CASES:
        pred, target, options = case.problem(rng, (5,), F64)
        found = case.loss(pred, target, reduction="none", **options).value
        moved = case.loss(pred * (1 - 1e-12), target, reduction="none", **options).value
        assert (found != moved).any()
