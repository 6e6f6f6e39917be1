"""Losses against torch.nn.functional: random cases with every option; what deliberately differs."""

import itertools

import numpy as np
import pytest
from losses_common import (
    ALL_DTYPES,
    CASES,
    F32,
    F64,
    NARROW,
    REDUCTIONS,
    all_of,
    assert_within_one_ulp,
    logits_problem,
    name_of,
)
from numpy.testing import assert_allclose, assert_array_equal

from instep import losses

torch = pytest.importorskip("torch")
F = torch.nn.functional
# kl_div's advice on its reduction "mean"
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")

# What differs on purpose, with its reason; a test below for each.
DIFFERENCES = {
    "nothing to average": "PyTorch's mean over nothing is NaN; a batch may be empty: 0, gradient 0",
    "weighted mean": "huber_loss's divides by the number of elements; as mse_loss's, ours divides "
    "by the sum of the weights",
    "NaN in the error": "l1_loss and smooth_l1_loss with beta 0 lose a NaN in backward; it shows",
    "NaN in log-probabilities": "kl_div's gradient is -t whatever is predicted; a NaN shows",
    "-inf with target 0": "0 * -inf is NaN in PyTorch; a class that cannot be and is not costs 0",
    "sum of log_target -inf": "exp(-inf) * -inf is NaN in PyTorch; a share of 0 costs 0",
    "ignored rows of NaN": "PyTorch's gradient of an ignored row of NaN is NaN; it is 0",
}
TORCH = {
    losses.mse: F.mse_loss,
    losses.mae: F.l1_loss,
    losses.huber: F.huber_loss,
    losses.smooth_l1: F.smooth_l1_loss,
    losses.binary_cross_entropy: F.binary_cross_entropy,
    losses.binary_cross_entropy_with_logits: F.binary_cross_entropy_with_logits,
    losses.kl_div: F.kl_div,
    losses.poisson_nll: F.poisson_nll_loss,
}
WITH_WEIGHT = [
    losses.mse, losses.binary_cross_entropy, losses.binary_cross_entropy_with_logits,
]  # fmt: skip


def tensor(array):
    """ml_dtypes' bfloat16 goes by its bits."""
    array = np.array(array, order="C")
    if array.dtype in NARROW[1:]:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def torch_loss(function, pred, target, **options):
    """(value, gradient of its sum), as float64."""
    x = tensor(pred).requires_grad_()
    options = {k: tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    value = function(x, tensor(target), **options)
    value.sum().backward()
    return value.detach().double().numpy(), x.grad.double().numpy()


def assert_like_torch(ours, theirs, dtype, size=1.0):
    """`size`: of what cancels. PyTorch sums float32 in float32, and rounds more often."""
    rtol = {F32: 1e-5, F64: 1e-12}[dtype]
    assert np.shape(ours.value) == theirs[0].shape
    floor = rtol * size * np.abs(theirs[0]).max(initial=0)
    assert_allclose(ours.value, theirs[0], rtol=rtol, atol=floor)
    floor = rtol * size * np.abs(theirs[1]).max(initial=0)
    assert_allclose(ours.grad, theirs[1], rtol=rtol, atol=floor)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.loss in TORCH and "label_smoothing" not in c.options],
    ids=name_of,
)
def test_elements(case, dtype, rng):
    compare_elements(case, dtype, rng)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.loss in TORCH and c.options.get("label_smoothing") == 0],
    ids=name_of,
)
def test_binary_cross_entropy_with_logits(case, dtype, rng):
    compare_elements(case, dtype, rng)


def compare_elements(case, dtype, rng):
    function = TORCH[case.loss]
    for shape in [(), (7,), (12, 7), (3, 4, 5)]:
        if not shape and callable(case.options.get("pos_weight")):
            continue
        pred, target, options = case.problem(rng, shape, dtype)
        options.pop("label_smoothing", None)
        options = {k: v for k, v in options.items() if v is not None}
        given = dict(options)
        if "pos_weight" in options:
            given["pos_weight"] = np.asarray(options["pos_weight"], dtype)
            options["pos_weight"] = given["pos_weight"]
        weights = [None, np.asarray(rng.uniform(0.5, 3.0, shape)).astype(dtype)]
        for reduction in all_of(case.loss):
            for weight in weights[: 1 + (case.loss in WITH_WEIGHT)]:
                more = {} if weight is None else {"weight": weight}
                theirs = torch_loss(function, pred, target, reduction=reduction, **given, **more)
                ours = case.loss(pred, target, reduction=reduction, **options, **more)
                assert_like_torch(ours, theirs, dtype)


@pytest.mark.parametrize("stored", NARROW, ids=str)
@pytest.mark.parametrize("loss", [losses.mse, losses.mae, losses.huber, losses.smooth_l1])
def test_narrow_elements(loss, stored, rng):
    """float16 and bfloat16: PyTorch rounds the value too, so it is compared loosely."""
    for reduction in REDUCTIONS:
        pred, target = rng.normal(size=(2, 6, 5)).astype(stored)
        theirs = torch_loss(TORCH[loss], pred, target, reduction=reduction)
        ours = loss(pred, target, reduction=reduction)
        assert_allclose(np.asarray(ours.value).astype(float), theirs[0], rtol=2e-2, atol=1e-3)
        # The error itself is rounded to 16 bits there.
        assert_allclose(ours.grad.astype(float), theirs[1], rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(6,), (9, 5), (3, 600), (4, 5, 3), (2, 4, 3, 2), (2, 100, 3)])
def test_cross_entropy(shape, smoothing, weighted, reduction, dtype, rng):
    pred, labels, soft, weight = logits_problem(rng, shape, dtype)
    weight = weight if weighted else None
    ignores = [-100] if labels.size == 1 else [-100, int(labels.flat[0])]  # a mean of none is NaN
    for target, ignore in [(soft, -100), *((labels, ignore) for ignore in ignores)]:
        options = {"label_smoothing": smoothing, "ignore_index": ignore, "weight": weight}
        options["reduction"] = reduction
        theirs = torch_loss(F.cross_entropy, pred, target, **options)
        assert_like_torch(losses.cross_entropy(pred, target, **options), theirs, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_signed_and_zero_class_weights(reduction, dtype, rng):
    pred, labels, soft, weight = logits_problem(rng, (30, 5), dtype)
    weight = weight * np.array([-1, 0, 1, 2, 3], dtype)
    for target, smoothing in itertools.product([labels, soft], [0.0, 0.2]):
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        theirs = torch_loss(F.cross_entropy, pred, target, **options)
        ours = losses.cross_entropy(pred, target, **options)
        assert_like_torch(ours, theirs, dtype, size=10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_categorical_cross_entropy_is_nll_of_the_logarithm(reduction, dtype, rng):
    pred, labels, _, weight = logits_problem(rng, (20, 6), dtype)
    pred = rng.uniform(0.05, 1.0, pred.shape).astype(dtype)
    options = {"weight": weight, "ignore_index": int(labels[0]), "reduction": reduction}
    theirs = torch_loss(lambda x, t, **o: F.nll_loss(x.log(), t, **o), pred, labels, **options)
    ours = losses.categorical_cross_entropy(pred, labels, **options)
    assert_like_torch(ours, theirs, dtype)


def test_hinge_and_quantile_as_composed(dtype, rng):
    """torch has no such loss; its autograd has the gradient."""
    pred, target = rng.normal(size=(2, 40)).astype(dtype)
    sign = np.sign(target)

    def pinball(x, t):
        return torch.maximum(0.3 * (t - x), -0.7 * (t - x)).mean()

    theirs = torch_loss(pinball, pred, target)
    assert_like_torch(losses.quantile(pred, target, q=0.3), theirs, dtype)
    theirs = torch_loss(lambda x, t: torch.relu(1 - t * x).mean(), pred, sign)
    assert_like_torch(losses.hinge(pred, sign), theirs, dtype)
    theirs = torch_loss(lambda x, t: torch.log(torch.cosh(x - t)).mean(), pred, target)
    assert_like_torch(losses.log_cosh(pred, target), theirs, dtype)


@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_focal_as_torchvision_has_it(alpha, gamma, dtype, rng):
    """sigmoid_focal_loss, composed; also for soft targets."""
    pred = rng.normal(size=60).astype(dtype)
    target = np.where(rng.uniform(size=60) < 0.5, rng.uniform(size=60), rng.integers(0, 2, 60))
    target = target.astype(dtype)

    def focal(x, t):
        p = torch.sigmoid(x)
        ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        loss = ce * (1 - (p * t + (1 - p) * (1 - t))) ** gamma
        return (loss if alpha is None else (alpha * t + (1 - alpha) * (1 - t)) * loss).mean()

    theirs = torch_loss(focal, pred, target)
    assert_like_torch(losses.focal(pred, target, gamma=gamma, alpha=alpha), theirs, dtype)


# ---- the same at hard points -----------------------------------------------------------------


def test_hard_points_that_agree(dtype):
    pred = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1e-13, 1e-30], dtype)
    target = np.array([1, 0, 0.5, 0.5, 0, 1, 1, 1], dtype)
    theirs = torch_loss(F.binary_cross_entropy, pred, target, reduction="none")
    ours = losses.binary_cross_entropy(pred, target, reduction="none")
    assert_allclose(ours.value, theirs[0], rtol=1e-6)
    assert_allclose(ours.grad, theirs[1], rtol=1e-6)
    for size in (200.0, 1e4):
        x = np.array([size, -size, size, -size], dtype)
        labels = np.array([1, 0, 0, 1], dtype)
        theirs = torch_loss(F.binary_cross_entropy_with_logits, x, labels, reduction="none")
        ours = losses.binary_cross_entropy_with_logits(x, labels, reduction="none")
        assert_allclose(ours.value, theirs[0], rtol=1e-6, atol=1e-80)
        assert_allclose(ours.grad, theirs[1], rtol=1e-6, atol=1e-80)
    x, zero = np.array([1.0, -1.0, 0.5, 0.0, 3.0], dtype), np.zeros(5, dtype)
    for loss, function in [(losses.huber, F.huber_loss), (losses.smooth_l1, F.smooth_l1_loss)]:
        theirs = torch_loss(function, x, zero, reduction="none")
        assert_array_equal(loss(x, zero, reduction="none").value, theirs[0])
        assert_array_equal(loss(x, zero, reduction="none").grad, theirs[1])


@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
def test_gradients_round_like_torch(stored):
    """mse of exact errors: the same rounding to any dtype."""
    pred, target = np.array([1.0, 2.5, -3.0], stored), np.array([0.5, 0.5, 0.5], stored)
    theirs = torch_loss(F.mse_loss, pred, target)
    ours = losses.mse(pred, target).grad
    if stored in NARROW:
        assert_within_one_ulp(ours, theirs[1])
    else:
        assert_allclose(ours, theirs[1], rtol=1e-6 if stored == F32 else 1e-15)


# ---- deliberate differences ------------------------------------------------------------------


def test_nothing_to_average():
    assert "nothing to average" in DIFFERENCES
    empty = np.zeros((0, 3))
    for loss, function in TORCH.items():
        assert np.isnan(torch_loss(function, empty, empty)[0])
        assert loss(empty, empty).value == 0.0
    x, labels = np.ones((2, 3)), np.array([-100, -100])
    assert np.isnan(torch_loss(F.cross_entropy, x, labels)[0])
    value, grad = losses.cross_entropy(x, labels)
    assert value == 0.0 and not grad.any()


def test_weighted_mean(rng):
    assert "weighted mean" in DIFFERENCES
    pred, target = rng.normal(size=(2, 20))
    weight = rng.uniform(0.5, 2.0, 20)
    theirs = torch_loss(F.huber_loss, pred, target, weight=weight)
    ours = losses.huber(pred, target, weight=weight)
    assert_allclose(ours.value * np.sum(weight), theirs[0] * 20, rtol=1e-12)
    assert_allclose(ours.grad * np.sum(weight), theirs[1] * 20, rtol=1e-12)


def test_nan_predictions():
    assert {"NaN in the error", "NaN in log-probabilities"} <= DIFFERENCES.keys()
    pred, target = np.array([np.nan, -1.0]), np.array([0.5, 0.5])
    assert torch_loss(F.l1_loss, pred, target, reduction="sum")[1][0] == 0
    assert torch_loss(F.kl_div, pred, target, reduction="sum")[1][0] == -0.5
    for loss in (losses.mae, losses.huber, losses.smooth_l1, losses.kl_div):
        assert_array_equal(np.isnan(loss(pred, target).grad), [True, False])


def test_zero_times_infinity():
    assert {"-inf with target 0", "sum of log_target -inf"} <= DIFFERENCES.keys()
    pred, target = np.array([[0.0, -np.inf, 1.0]]), np.array([[0.5, 0.0, 0.5]])
    assert np.isnan(torch_loss(F.cross_entropy, pred, target)[0])
    value, grad = losses.cross_entropy(pred, target)
    assert np.isfinite(value) and grad[0, 1] == 0
    x, t = np.array([-1.0]), np.array([-np.inf])
    assert np.isnan(torch_loss(F.kl_div, x, t, reduction="sum", log_target=True)[0])
    assert losses.kl_div(x, t, reduction="sum", log_target=True).value == 0.0


def test_ignored_rows_of_nan():
    assert "ignored rows of NaN" in DIFFERENCES
    pred, labels = np.array([[np.nan, 1.0], [0.5, 0.5]]), np.array([-100, 1])
    theirs = torch_loss(F.cross_entropy, pred, labels)
    ours = losses.cross_entropy(pred, labels)
    assert_allclose(ours.value, theirs[0])
    assert np.isnan(theirs[1][0]).all()
    assert_allclose(ours.grad, [[0.0, 0.0], theirs[1][1]])
