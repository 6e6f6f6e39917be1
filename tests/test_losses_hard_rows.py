"""Hard points of losses over classes: saturation, NaN, infinities, odd weights, nothing left."""

import itertools

import numpy as np
import pytest
from losses_common import (
    ALL_DTYPES,
    CLASS_LOSSES,
    F32,
    REDUCTIONS,
    assert_same,
    assert_zero,
    check,
    class_problem,
    logits_problem,
    name_of,
)
from numpy.testing import assert_allclose, assert_array_equal

from instep.losses import categorical_cross_entropy, cross_entropy

both = pytest.mark.parametrize("loss", CLASS_LOSSES, ids=name_of)


# ---- saturation ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [200.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 17, 600])
def test_saturated_logits(size, classes, dtype, rng):
    pred = size * rng.choice([-1, 1], (40, classes)) + rng.normal(size=(40, classes))
    pred = pred.astype(dtype)
    labels = rng.integers(0, classes, 40)
    soft = rng.uniform(size=pred.shape)
    for reduction in REDUCTIONS:
        check(cross_entropy, pred, labels, atol=1, reduction=reduction)
        check(cross_entropy, pred, soft, atol=classes, label_smoothing=0.1, reduction=reduction)
    value, grad = cross_entropy(np.array([[size, -size]] * 2, dtype), [0, 1], reduction="none")
    assert_array_equal(value, [0.0, 2 * size])
    assert_array_equal(grad[1], [1.0, -1.0])
    assert_allclose(grad[0], [0.0, 0.0], atol=1e-170)


def test_logits_at_the_end_of_float32():
    value, grad = cross_entropy(np.array([[3e38, -3e38]], F32), [1])
    assert_allclose(value, 6e38, rtol=1e-6)  # a float64, so it fits
    assert_array_equal(grad, [[1.0, -1.0]])


def test_probabilities_of_0_and_1(dtype):
    """The limits of binary cross-entropy: a cost of 100, a slope of 1e12."""
    pred = np.array([[0.0, 1.0, 1e-30], [1.0, 0.0, 0.5]], dtype)
    value, grad = check(categorical_cross_entropy, pred, [0, 0], reduction="none")
    assert_array_equal(value, [100.0, 0.0])
    assert_allclose(grad, [[-1e12, 0, 0], [-1, 0, 0]], rtol=1e-6)
    soft = [[0.5, 0.5, 2.0], [0.0, 0.0, 0.5]]
    for smoothing in (0.0, 0.1):
        check(categorical_cross_entropy, pred, soft, label_smoothing=smoothing, reduction="none")


# ---- infinities and NaN ----------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 600])
def test_minus_infinite_logits(classes, dtype, rng):
    """A class that the logits exclude: free where its target is 0, infinite elsewhere."""
    pred, _, soft, _ = logits_problem(rng, (4, classes), dtype)
    for k in (0, 1, classes - 1):
        excluded, free = pred.copy(), soft.copy()
        excluded[:, k], free[:, k] = -np.inf, 0
        value, grad = check(cross_entropy, excluded, free, atol=classes)
        assert np.isfinite(value)
        assert not grad[:, k].any()
        value, grad = check(cross_entropy, excluded, [(k + 1) % classes] * 4, atol=1)
        assert np.isfinite(value)
        for target, smoothing in [([k] * 4, 0.0), ([k - 1] * 4, 0.1), (soft, 0.0)]:
            target = np.asarray(target) % classes if smoothing or target is not soft else soft
            options = {"label_smoothing": smoothing, "reduction": "none"}
            value, grad = check(cross_entropy, excluded, target, atol=classes, **options)
            assert (value == np.inf).all()
            assert np.isfinite(grad).all()


@pytest.mark.parametrize("classes", [2, 10, 64, 65, 600])
def test_minus_infinite_logits_among_images(classes, dtype, rng):
    """The same where the classes do not lie side by side."""
    pred, _, soft, _ = logits_problem(rng, (2, classes, 3, 3), dtype)
    pred[:, 0], soft[:, 0] = -np.inf, 0
    for layout in ("C", "F"):
        given = np.asarray(pred, order=layout)
        value, grad = check(cross_entropy, given, soft, atol=classes, reduction="none")
        assert np.isfinite(value).all() and not grad[:, 0].any()


def test_a_target_of_weight_zero_excludes_nothing(dtype):
    """Weight 0 hides even an infinite value, with labels as with soft targets."""
    pred = np.array([[0.5, -np.inf, 1.0], [0.5, 0.0, 1.0]], dtype)
    for target in ([1, 2], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]):
        for reduction in REDUCTIONS:
            options = {"weight": np.array([2.0, 0.0, 3.0]), "reduction": reduction}
            value, grad = check(cross_entropy, pred, target, atol=3, **options)
            assert np.isfinite(value).all()
            assert not grad[0].any()


def test_infinities_and_nan_as_the_twin(dtype):
    rows = list(itertools.product([np.nan, np.inf, -np.inf, 0.5], repeat=3))
    pred = np.array(rows, dtype)
    for target in (np.full(len(rows), 1), np.full(pred.shape, 0.25)):
        check(cross_entropy, pred, target, atol=1, reduction="none")


@both
@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 33, 64, 65, 1300])
def test_nan_prediction_shows(loss, classes, stored):
    """Through the softmax in its whole row, of probabilities in its own place."""
    for k in {0, 1, classes // 2, classes - 1}:
        pred = np.full((3, classes), 0.5, stored)
        pred[1, k] = np.nan
        wanted = np.isnan(pred) if loss is categorical_cross_entropy else [[False], [True], [False]]
        wanted = np.broadcast_to(wanted, pred.shape)
        for target in (np.zeros(3, int), np.full(pred.shape, 0.5), np.zeros(pred.shape)):
            for layout, reduction in itertools.product("CF", REDUCTIONS):
                given = np.asarray(pred, order=layout)
                value, grad = loss(given, target, reduction=reduction)
                missing = [False, True, False] if reduction == "none" else True
                assert_array_equal(np.isnan(value), missing)
                assert_array_equal(np.isnan(grad), wanted)


@both
def test_nan_prediction_of_weight_0_shows(loss, dtype):
    pred = np.full((2, 3), 0.5, dtype)
    pred[1, 1] = np.nan
    for target in ([0, 1], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]):
        value, grad = loss(pred, target, weight=[1.0, 0.0, 1.0], reduction="none")
        assert np.isnan(value[1]) and np.isnan(grad[1, 1]) and np.isfinite(value[0])


# ---- targets ---------------------------------------------------------------------------------


@both
def test_soft_targets_need_not_sum_to_1(loss, dtype, rng):
    """gradient sum(q) * softmax - q; sums of 0, 1/2, 3 and below 0."""
    pred, _, soft, weight = class_problem(loss, rng, (5, 7), dtype)
    soft = soft / soft.sum(axis=1, keepdims=True) * np.array([[0.0], [0.5], [1.0], [3.0], [-1.0]])
    for smoothing, chosen in itertools.product([0.0, 0.1], [None, weight]):
        for reduction in REDUCTIONS:
            options = {"label_smoothing": smoothing, "weight": chosen, "reduction": reduction}
            check(loss, pred, soft, atol=10, value_atol=20, **options)
    if loss is cross_entropy:
        grad = loss(pred, soft, reduction="sum").grad
        assert_allclose(grad.sum(axis=1), 0.0, atol=1e-5)
        p = np.exp(pred) / np.exp(pred).sum(axis=1, keepdims=True)
        expected = soft.sum(axis=1, keepdims=True) * p - soft
        assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)


@both
@pytest.mark.parametrize("smoothing", [0, 1, 0.0, 1.0, np.float64(0.25), np.float32(0.25)])
def test_ends_of_label_smoothing(loss, smoothing, dtype, rng):
    pred, labels, soft, weight = class_problem(loss, rng, (7, 5), dtype)
    for target in (labels, soft):
        check(loss, pred, target, atol=10, weight=weight, label_smoothing=smoothing)
    if smoothing == 1:  # labels do not matter any more
        grads = [loss(pred, t, label_smoothing=1).grad for t in (labels, (labels + 1) % 5)]
        assert_array_equal(*grads)


@both
@pytest.mark.parametrize("smoothing", [0.01, 1e-4, 1e-9])
def test_small_label_smoothing_keeps_its_digits(loss, smoothing, dtype, rng):
    pred = class_problem(loss, rng, (3, 4), dtype)[0]
    pred[:, 0] = 1.0 if loss is categorical_cross_entropy else 60.0
    for reduction in REDUCTIONS:
        options = {"label_smoothing": smoothing, "reduction": reduction}
        check(loss, pred, [0, 0, 0], atol=1.0, value_atol=1e-6, **options)


@both
@pytest.mark.parametrize(
    ("stored", "ignore"),
    [("i8", -100), ("i1", -1), ("i8", 2), ("u1", 255), ("u8", 2**40), ("i8", -(2**63))],
)
def test_ignored_rows_are_never_looked_at(loss, stored, ignore, dtype, rng):
    pred = rng.uniform(0.1, 1.0, size=(5, 3)).astype(dtype)
    labels = np.array([0, ignore, 1, ignore, 0], stored)
    pred[1] = np.nan
    pred[3] = np.inf if loss is cross_entropy else 0.0
    for reduction, smoothing in itertools.product(REDUCTIONS, [0.0, 0.2]):
        options = {"ignore_index": ignore, "reduction": reduction, "label_smoothing": smoothing}
        options["weight"] = [1.0, 2.0, 4.0]
        value, grad = loss(pred, labels, **options)
        used = labels != ignore
        expected = loss(pred[used], labels[used], **options)
        assert_array_equal(value[used] if reduction == "none" else value, expected.value)
        assert_array_equal(grad[used], expected.grad)
        assert not grad[~used].any()
        if reduction == "none":
            assert_array_equal(value[~used], 0)


# ---- weights ---------------------------------------------------------------------------------


@both
def test_weighted_mean_is_over_the_used_weights(loss, dtype, rng):
    """The sum of w[label] over the rows that count; not of the others, not the number of rows."""
    pred, labels, _, weight = class_problem(loss, rng, (40, 5), dtype)
    each = loss(pred, labels, weight=weight, ignore_index=2, reduction="none")
    total = np.sum(weight[labels[labels != 2]], dtype=np.float64)
    found = loss(pred, labels, weight=weight, ignore_index=2)
    assert_allclose(found.value, np.sum(each.value, dtype=np.float64) / total, rtol=1e-6)
    assert_allclose(found.grad, each.grad / total, rtol=1e-5, atol=1e-8)


@both
def test_zero_and_negative_weights(loss, dtype, rng):
    pred, labels, soft, weight = class_problem(loss, rng, (8, 6), dtype)
    weight[::2] *= -1
    with_zero = np.where(np.arange(6) == 1, 0, weight)
    for chosen in (weight, with_zero):
        for smoothing, reduction in itertools.product([0.0, 0.3], REDUCTIONS):
            options = {"weight": chosen, "label_smoothing": smoothing, "reduction": reduction}
            check(loss, pred, labels, atol=30, value_atol=30, **options)
            check(loss, pred, soft, atol=30, value_atol=30, **options)


@both
def test_weights_that_sum_to_zero(loss, dtype):
    x = np.array([[0.125, 0.25, 0.5, 1.0]] * 2, dtype)
    weight = np.array([1.0, -1.0, 2.0, -2.0])
    assert_zero(loss(x, [0, 1], weight=weight), (2, 4))
    assert_zero(loss(np.full((2, 4), np.nan, dtype), [0, 1], weight=weight), (2, 4))
    for reduction in ("mean", "sum"):
        assert_zero(loss(x, [0, 1], weight=np.zeros(4), reduction=reduction), (2, 4))
    if loss is cross_entropy:
        assert_zero(loss(np.full((2, 4), np.inf, dtype), [0, 1], weight=weight), (2, 4))


@pytest.mark.parametrize("size", [1e-44, 1e-39, 1e-36, 1e38])
def test_weights_at_the_ends_of_float32(size):
    """A mean does not depend on the size of the weights."""
    pred = np.array([[0.25, 0.75]], F32)
    for loss in CLASS_LOSSES:
        expected = loss(pred, [0])
        value, grad = loss(pred, [0], weight=np.full(2, size, F32))
        assert_allclose(value, expected.value, rtol=1e-6)
        assert_allclose(grad, expected.grad, rtol=1e-6)


# ---- nothing ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_to_average_is_zero(loss, reduction, threads, dtype, num_threads):
    """PyTorch's mean is NaN in each of these. No warning (warnings are errors here)."""
    num_threads(threads)
    option = {"reduction": reduction}
    for shape in [(0, 3), (2, 3, 0), (0, 3, 2), (0, 700)]:
        empty, labels = np.zeros(shape, dtype), np.zeros(shape[:1] + shape[2:], int)
        for target in (empty, labels):
            assert_zero(loss(empty, target, label_smoothing=0.1, **option), shape)
            assert_zero(loss(empty, target, out=np.zeros(shape, dtype), **option), shape)
    x = np.array([[1.0, 0.5, 0.25], [0.0, np.nan, 1.0]], dtype)
    weighted = {"weight": np.ones(3), "label_smoothing": 0.1}
    for more in [{}, weighted, {"out": x.copy()}, {"out": x}]:
        assert_zero(loss(x, [-100, -100], **more, **option), (2, 3))
    many = np.full((5000, 10), np.nan, dtype)
    assert_zero(loss(many, np.full(5000, -100), **option), many.shape)


@both
@pytest.mark.parametrize("classes", [3, 64, 65, 700])
def test_zeros_have_their_sign_on_every_path(loss, classes, dtype, rng):
    """Saturated rows, targets and weights of 0: zeros of the value and the gradient."""
    pred, labels, soft, weight = class_problem(loss, rng, (20, classes), dtype)
    pred[::2, 0], labels[::2] = (1.0 if loss is categorical_cross_entropy else 1e4), 0
    soft[::3], weight[1] = 0.0, 0.0
    for target, chosen, smoothing in itertools.product(
        [labels, soft, -soft], [None, weight, -weight], [0.0, 0.1]
    ):
        options = {"weight": chosen, "label_smoothing": smoothing, "reduction": "none"}
        plain = loss(pred, target, **options)
        assert_same(loss(np.asfortranarray(pred), target, **options), plain)
        assert_same(loss(pred.copy(), target, out=np.empty_like(pred, order="F"), **options), plain)


@both
def test_none_of_nothing(loss, dtype):
    for shape in [(0, 3), (2, 3, 0)]:
        value = loss(np.zeros(shape, dtype), np.zeros(shape), reduction="none").value
        assert value.shape == shape[:1] + shape[2:] and value.dtype == dtype
    value, grad = loss(np.full((2, 3), np.nan, dtype), [-100, -100], reduction="none")
    assert_array_equal(value, [0.0, 0.0])
    assert not grad.any()


@both
def test_class_weights_that_float32_does_not_hold(loss):
    """They are float64 whatever pred is: the mean of tiny or huge ones is that of ones."""
    pred = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    labels = np.array([1, 0])
    value, grad = loss(pred, labels)
    for size in (1e-60, 1e60):
        weighted = loss(pred, labels, weight=np.full(2, size))
        assert weighted.value == pytest.approx(value, rel=1e-12)
        assert_allclose(weighted.grad, grad, rtol=1e-6)
        one = loss(pred, labels, weight=[size, 0.0])
        assert_allclose(one.grad[1], 2 * grad[1], rtol=1e-6)
        assert not one.grad[0].any()
