"""Losses against the float64 twin, finite differences and PyTorch; hard points; equal bits."""

import doctest
import itertools
import threading

import numpy as np
import pytest
import reference
from conftest import DTYPES, LAYOUTS, SIZES, Guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import instep
from instep import _core, losses
from instep.losses import cross_entropy, mse

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
RTOL = {F32: 1e-6, F64: 1e-12}
REDUCTIONS = ["mean", "sum", "none"]
INTEGERS = [np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)]
# Around the 16 lanes of a sum and the 512 elements of a tile.
CLASSES = [1, 2, 3, 10, 15, 16, 17, 511, 512, 513, 1000, 5000]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def float_dtypes():
    extra = [np.dtype(np.longdouble), np.dtype(np.float16)]
    try:
        import ml_dtypes
    except ImportError:
        return [F32, F64, *extra]
    return [F32, F64, *extra, np.dtype(ml_dtypes.bfloat16)]


# ---- the comparison --------------------------------------------------------------------------


def check(loss, pred, target, *, atol=0.0, **options):
    """Compare one call with the twin; returns it. `atol` is for gradients that cancel."""
    pred, target = np.asarray(pred), np.asarray(target)
    inputs = [pred, target, options.get("weight")]
    before = [None if a is None else np.array(a) for a in inputs]
    result = loss(pred, target, **options)
    value, grad = result
    for array, copy in zip(inputs, before, strict=True):
        assert array is None or np.array_equal(array, copy, equal_nan=array.dtype.kind in "fV")

    seen = target.astype(pred.dtype) if loss is mse else target  # computed with in pred's dtype
    expected = reference.LOSSES[loss.__name__](pred, seen, **options)
    rtol = RTOL[pred.dtype]
    assert isinstance(result, losses.LossGrad)
    assert isinstance(grad, np.ndarray) and grad.shape == pred.shape and grad.dtype == pred.dtype
    if options.get("reduction") == "none":
        assert isinstance(value, np.ndarray)
        assert value.shape == expected[0].shape and value.dtype == pred.dtype
    else:
        assert type(value) is float
    assert_allclose(value, expected[0], rtol=rtol, atol=rtol * 1e-3)
    assert_allclose(grad, expected[1], rtol=rtol, atol=rtol * atol)
    return result


def logits_problem(rng, shape, dtype, spread=3.0):
    """Logits with labels, soft targets and class weights."""
    axis = min(1, len(shape) - 1)
    classes = shape[axis]
    pred = (spread * rng.normal(size=shape)).astype(dtype)
    labels = rng.integers(0, classes, shape[:axis] + shape[axis + 1 :])
    soft = rng.uniform(0.0, 1.0, shape).astype(dtype)
    weight = rng.uniform(0.5, 2.0, classes).astype(dtype)
    return pred, labels, soft, weight


def check_options(rng, shape, dtype):
    """cross_entropy with every option off its default, in every combination."""
    pred, labels, soft, weight = logits_problem(rng, shape, dtype)
    ignored = int(np.ravel(labels)[0]) if labels.size else 0
    grid = itertools.product([None, weight], [0.0, 0.15], REDUCTIONS, [-100, ignored, None])
    for chosen, smoothing, reduction, ignore in grid:
        options = {"weight": chosen, "label_smoothing": smoothing, "reduction": reduction}
        rows = max(1, labels.size)
        if ignore is None:  # soft targets
            unit = shape[min(1, len(shape) - 1)] / (rows if reduction == "mean" else 1)
            check(cross_entropy, pred, soft, atol=unit, **options)
        else:
            used = max(1, np.count_nonzero(labels != ignore))
            unit = 4 / (used if reduction == "mean" else 1)
            check(cross_entropy, pred, labels, atol=unit, ignore_index=ignore, **options)


# ---- values and gradients against the twin ---------------------------------------------------


MSE_SHAPES = [(), (3, 5), (2, 3, 4), (0, 3), (3, 0, 2), *((n,) for n in [*SIZES, 511, 512, 513])]


@pytest.mark.parametrize("shape", MSE_SHAPES)
def test_mse_against_twin(shape, dtype, rng):
    pred, target = rng.normal(size=(2, *shape)).astype(dtype)
    weight = np.asarray(rng.uniform(0.0, 2.0, shape)).astype(dtype)
    for reduction, chosen in itertools.product(REDUCTIONS, [None, weight]):
        check(mse, pred, target, reduction=reduction, weight=chosen)


@pytest.mark.parametrize("classes", CLASSES)
def test_cross_entropy_options_against_twin(classes, dtype, rng):
    check_options(rng, (5, classes), dtype)


@pytest.mark.parametrize(
    "shape", [(1,), (7,), (600,), (1, 4), (9, 3), (4, 5, 6), (2, 3, 4, 5), (3, 600, 2), (2, 1, 3)]
)
def test_cross_entropy_shapes_against_twin(shape, dtype, rng):
    check_options(rng, shape, dtype)


def test_more_than_the_partial_sums_hold():
    """Blocks grow beyond their usual size, once or more often."""
    for size in (9_000_000, 40_000_000):
        assert _core.array_sum(np.broadcast_to(0.5, size), 3) == size / 2
    pred = np.broadcast_to(F32.type(0.75), 9_000_000)
    value, grad = mse(pred, np.broadcast_to(F32.type(0.25), pred.shape))
    assert value == 0.25
    assert_array_equal(grad, F32.type(1.0) * F32.type(1 / pred.size))
    row = np.array([0.5, -1.0, 2.0], F32)
    labels = np.broadcast_to(np.int8(1), 3_000_000)
    value, grad = cross_entropy(np.broadcast_to(row, (labels.size, 3)), labels, reduction="sum")
    expected = reference.cross_entropy(row, 1)
    assert_allclose(value, labels.size * expected[0], rtol=1e-6)
    assert_allclose(grad, np.broadcast_to(expected[1], grad.shape), rtol=2e-6)


def test_lists_and_scalars_are_arrays_of_float64():
    check(mse, [1.0, 2.0], [0, 4])
    check(mse, 2.0, 1)
    check(cross_entropy, [[1.0, 2.0], [0.5, 0.0]], [0, 1])
    check(cross_entropy, [1.0, 2.0], 1)


def test_docstring_examples():
    assert doctest.testmod(losses).failed == 0


# ---- gradients against differences of the values ---------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_mse_gradient_against_differences(reduction, weighted, rng):
    pred, target, weight = rng.normal(size=(3, 4, 5))
    options = {"reduction": reduction, "weight": weight if weighted else None}
    numeric = reference.numerical_gradient(lambda x: np.sum(mse(x, target, **options).value), pred)
    assert_allclose(mse(pred, target, **options).grad, numeric, atol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 4, 2)])
def test_cross_entropy_gradient_against_differences(shape, smoothing, weighted, reduction, rng):
    pred, labels, soft, weight = logits_problem(rng, shape, F64, spread=1.0)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    options["weight"] = weight if weighted else None
    for target, ignore in [(labels, -100), (labels, 1), (soft, -100)]:

        def value(x, t=target, i=ignore):
            return np.sum(cross_entropy(x, t, ignore_index=i, **options).value)

        grad = cross_entropy(pred, target, ignore_index=ignore, **options).grad
        assert_allclose(grad, reference.numerical_gradient(value, pred), atol=1e-6)


# ---- storage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1100,), (11, 130), (3, 4, 50)])
def test_mse_layouts(shape, layout, dtype, rng, guarded):
    pred, target, weight = rng.uniform(0.5, 2.0, size=(3, *shape)).astype(dtype)
    plain = mse(pred, target, weight=weight, reduction="none")
    stored = guarded.array(pred, layout=layout)
    for other in LAYOUTS:
        stored_target = guarded.array(target, layout=other)
        for stored_weight in (weight, guarded.array(weight, layout=other)):
            check(mse, stored, stored_target, weight=stored_weight)
            value, grad = mse(stored, stored_target, weight=stored_weight, reduction="none")
            assert_array_equal(value, plain.value)
            assert_array_equal(grad, plain.grad)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(13,), (6, 10), (3, 520), (3, 5, 4), (2, 515, 3)])
def test_cross_entropy_layouts_have_equal_bits(shape, layout, dtype, rng, guarded):
    """Rows are taken in C order whatever the memory order."""
    pred, labels, soft, weight = logits_problem(rng, shape, dtype)
    stored = guarded.array(pred, layout=layout)
    for target, reduction in itertools.product([labels, soft], REDUCTIONS):
        options = {"reduction": reduction, "label_smoothing": 0.1}
        plain = cross_entropy(pred, target, weight=weight, **options)
        for other in LAYOUTS:
            options["weight"] = guarded.array(weight, layout=other)
            value, grad = cross_entropy(stored, guarded.array(target, layout=other), **options)
            assert_array_equal(value, plain.value)
            assert_array_equal(grad, plain.grad)


def test_broadcast_inputs(dtype, rng):
    pred = rng.normal(size=(6, 40)).astype(dtype)
    rows = np.broadcast_to(rng.uniform(1, 2, (6, 1)).astype(dtype), pred.shape)
    columns = np.broadcast_to(pred[0] + 1, pred.shape)
    for options in [{}, {"weight": rows}, {"weight": columns}]:
        check(mse, pred, columns, **options)
        check(mse, columns, rows, **options)
        check(mse, pred, np.broadcast_to(dtype.type(0.5), pred.shape), **options)
    label = np.broadcast_to(np.int16(3), 6)
    check(cross_entropy, pred, label, atol=1)
    check(cross_entropy, columns, label, atol=1, weight=np.broadcast_to(dtype.type(2), 40))
    check(cross_entropy, pred, np.broadcast_to(pred[:1] ** 2, pred.shape), atol=40)


@pytest.mark.parametrize("other", float_dtypes(), ids=str)
def test_targets_and_weights_of_other_floats(other, dtype, rng, guarded):
    pred, target, weight = rng.uniform(0.5, 2.0, (3, 9, 130)).astype(dtype)
    for layout in LAYOUTS:
        soft = guarded.array(target, other, layout=layout)
        check(mse, pred, soft, weight=guarded.array(weight, other, layout=layout))
        check(mse, pred, soft, weight=weight)
        class_weight = guarded.array(weight[0], other, layout=layout)
        check(cross_entropy, pred, soft, atol=130, weight=class_weight)


@pytest.mark.parametrize("other", [*INTEGERS, np.dtype(bool)], ids=str)
def test_integer_targets_and_weights(other, dtype, rng):
    pred = rng.normal(size=(7, 5)).astype(dtype)
    whole = rng.integers(0, 100, (7, 5)).astype(other)
    check(mse, pred, whole)
    check(mse, pred, whole, weight=whole.T.copy().T)
    weight = np.array([1, 0, 1, 2, 5]).astype(other)
    check(cross_entropy, pred, [0, 1, 2, 3, 4, 0, 1], atol=5, weight=weight)


@pytest.mark.parametrize("other", INTEGERS, ids=str)
@pytest.mark.parametrize("shape", [(100,), (9, 100), (3, 100, 4), (2, 100, 3, 2)])
def test_label_dtypes(other, shape, dtype, rng, guarded):
    pred, labels, _, weight = logits_problem(rng, shape, dtype)
    plain = cross_entropy(pred, labels, weight=weight)
    for layout in LAYOUTS:
        stored = guarded.array(labels, other, layout=layout)
        value, grad = cross_entropy(pred, stored, weight=weight)
        assert value == plain.value
        assert_array_equal(grad, plain.grad)


# ---- out -------------------------------------------------------------------------------------


def calls(dtype, shape):
    """(loss, arguments, options) for `out` and for equal bits."""
    rng = np.random.default_rng(12)
    pred, labels, soft, weight = logits_problem(rng, shape, dtype)
    smooth = {"label_smoothing": 0.1, "weight": weight}
    return [
        (mse, (pred, soft), {}),
        (mse, (pred, soft), {"weight": np.abs(pred), "reduction": "none"}),
        (cross_entropy, (pred, labels), {}),
        (cross_entropy, (pred, labels.astype(np.uint16)), {**smooth, "ignore_index": 1}),
        (cross_entropy, (pred, soft), {**smooth, "reduction": "sum"}),
        (cross_entropy, (pred, soft.astype(np.float16)), {"reduction": "none"}),
    ]


@pytest.mark.parametrize("shape", [(6, 4), (3, 513), (2, 1030, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(shape, layout, dtype, guarded):
    for loss, (pred, target), options in calls(dtype, shape):
        plain = loss(pred, target, **options)
        out = guarded.empty(shape, dtype, layout)
        value, grad = loss(pred, target, out=out, **options)
        assert grad is out
        assert_array_equal(value, plain.value)
        assert_array_equal(out, plain.grad)


@pytest.mark.parametrize("shape", [(6, 4), (3, 513), (2, 1030, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_may_be_pred(shape, layout, dtype, guarded):
    for loss, (pred, target), options in calls(dtype, shape):
        place = guarded.array(pred, layout=layout)
        plain = loss(place, target, **options)
        value, grad = loss(place, target, out=place, **options)
        assert grad is place
        assert_array_equal(value, plain.value)
        assert_array_equal(place, plain.grad)


def test_out_may_be_another_view_of_pred(dtype):
    """Strides of axes of length 1 do not count, nor does the object's identity."""
    pred = np.ones((1, 4), dtype)
    assert_array_equal(mse(pred, pred - 1, out=pred[:]).grad, np.full((1, 4), 0.5))
    pred = np.ones((1, 4), dtype)
    assert_array_equal(mse(pred, pred - 1, out=pred[0][None]).grad, np.full((1, 4), 0.5))


# ---- hard points -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [200.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 17, 600])
def test_cross_entropy_saturated(size, classes, dtype, rng):
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
    check(mse, pred, np.broadcast_to(np.array([1.0, np.inf, np.nan]), pred.shape), reduction="none")


@pytest.mark.parametrize("classes", [2, 33, 1300])
def test_nan_prediction_shows(classes, dtype):
    for k in {0, 1, classes // 2, classes - 1}:
        pred = np.zeros((3, classes), dtype)
        pred[1, k] = np.nan
        for target in (np.zeros(3, int), np.full(pred.shape, 0.5)):
            value, grad = cross_entropy(pred, target)
            assert np.isnan(value)
            assert np.isnan(grad[1]).all()
            assert np.isfinite(grad[::2]).all()
        value, grad = mse(pred, np.ones_like(pred))
        assert np.isnan(value)
        assert_array_equal(np.isnan(grad), np.isnan(pred))


def assert_zero(result, shape):
    assert type(result.value) is float and result.value == 0.0
    assert result.grad.shape == shape
    assert not result.grad.any()  # also false for NaN


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_to_average_is_zero(reduction, threads, dtype, machine):
    """PyTorch's mean is NaN in each of these."""
    instep.set_num_threads(threads)
    option = {"reduction": reduction}
    x = np.array([[1.0, 2.0, 3.0], [0.0, np.nan, np.inf]], dtype)
    for shape in [(0,), (0, 3), (3, 0)]:
        empty = np.zeros(shape, dtype)
        assert_zero(mse(empty, empty, **option), shape)
        assert_zero(mse(empty, empty, weight=empty, **option), shape)
        assert_zero(mse(empty, empty, out=empty.copy(), **option), shape)
    for shape in [(0, 3), (2, 3, 0), (0, 3, 2), (0, 700)]:
        empty, labels = np.zeros(shape, dtype), np.zeros(shape[:1] + shape[2:], int)
        for target in (empty, labels):
            assert_zero(cross_entropy(empty, target, label_smoothing=0.1, **option), shape)
    for more in [{}, {"weight": np.ones(3), "label_smoothing": 0.1}, {"out": x.copy()}]:
        assert_zero(cross_entropy(x, [-100, -100], **more, **option), (2, 3))
    assert_zero(mse(x[:1], x[:1] + 1, weight=np.zeros((1, 3)), **option), (1, 3))
    assert_zero(cross_entropy(x[:1], [1], weight=np.zeros(3), **option), (1, 3))


def test_weights_that_sum_to_zero(dtype):
    x = np.array([[1.0, 2.0, 3.0, 4.0]], dtype)
    weight = np.array([[1.0, -1.0, 2.0, -2.0]], dtype)
    assert_zero(mse(x, x + 1, weight=weight), x.shape)
    assert_zero(cross_entropy(np.vstack([x, x]), [0, 1], weight=weight[0]), (2, 4))
    for bad in (np.nan, np.inf):
        assert_zero(cross_entropy(np.full((2, 4), bad, dtype), [0, 1], weight=weight[0]), (2, 4))
        assert_zero(mse(np.full((1, 4), bad, dtype), x, weight=weight), x.shape)


def test_none_of_nothing(dtype):
    assert mse(np.zeros((0, 2), dtype), np.zeros((0, 2)), reduction="none").value.shape == (0, 2)
    for shape in [(0, 3), (2, 3, 0)]:
        value = cross_entropy(np.zeros(shape, dtype), np.zeros(shape), reduction="none").value
        assert value.shape == shape[:1] + shape[2:] and value.dtype == dtype


def test_negative_weights(dtype, rng):
    pred, labels, soft, weight = logits_problem(rng, (8, 6), dtype)
    weight[::2] *= -1
    for reduction in REDUCTIONS:
        check(mse, pred, soft, weight=pred, reduction=reduction)
        for smoothing in (0.0, 0.3):
            options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
            check(cross_entropy, pred, labels, atol=10, **options)
            check(cross_entropy, pred, soft, atol=10, **options)


@pytest.mark.parametrize("smoothing", [0, 1, 0.0, 1.0, np.float64(0.25)])
def test_ends_of_label_smoothing(smoothing, dtype, rng):
    pred, labels, soft, weight = logits_problem(rng, (7, 5), dtype)
    for target in (labels, soft):
        check(cross_entropy, pred, target, atol=10, weight=weight, label_smoothing=smoothing)
    if smoothing == 1:  # labels do not matter any more
        grads = [cross_entropy(pred, t, label_smoothing=1).grad for t in (labels, (labels + 1) % 5)]
        assert_array_equal(*grads)


@pytest.mark.parametrize(
    ("stored", "ignore"),
    [("i8", -100), ("i1", -1), ("i8", 2), ("u1", 255), ("u8", 2**40), ("i8", -(2**63))],
)
def test_ignored_rows_are_never_looked_at(stored, ignore, dtype, rng):
    pred = rng.normal(size=(5, 3)).astype(dtype)
    labels = np.array([0, ignore, 1, ignore, 0], stored)
    pred[1], pred[3] = np.nan, np.inf
    for reduction, smoothing in itertools.product(REDUCTIONS, [0.0, 0.2]):
        options = {"ignore_index": ignore, "reduction": reduction, "label_smoothing": smoothing}
        value, grad = cross_entropy(pred, labels, weight=[1.0, 2.0, 4.0], **options)
        used = labels != ignore
        options["weight"] = [1.0, 2.0, 4.0]
        expected = cross_entropy(pred[used], labels[used], **options)
        assert_array_equal(value[used] if reduction == "none" else value, expected.value)
        assert_array_equal(grad[used], expected.grad)
        assert not grad[~used].any()
        if reduction == "none":
            assert_array_equal(value[~used], 0)


def test_huge_errors_do_not_overflow_in_the_value():
    for size in (3e19, 1e38, 3e-30):
        pred = np.array([size, 0.0], F32)
        value = check(mse, pred, np.zeros(2)).value
        assert_allclose(value, float(pred[0]) ** 2 / 2, rtol=1e-15)
        check(mse, pred, np.zeros(2), weight=np.array([0.5, 1.5]))
    check(mse, np.array([1e150, 1.0]), np.zeros(2))


@pytest.mark.parametrize("size", [1e-44, 1e-39, 1e-36, 1e38])
def test_weights_at_the_ends_of_float32(size):
    """A mean does not depend on the size of the weights."""
    pred = np.array([1.0, 3.0], F32)
    weight = np.full(2, size, F32)
    for scale in (F32.type(1.0), F32.type(1e-7)):
        grad = mse(scale * pred, np.zeros(2), weight=weight).grad
        assert_allclose(grad, scale * pred, rtol=1e-6)
    expected = cross_entropy(pred[None], [0])
    value, grad = cross_entropy(pred[None], [0], weight=weight)
    assert_allclose(value, expected.value, rtol=1e-6)
    assert_allclose(grad, expected.grad, rtol=1e-6)


def test_errors_at_the_end_of_the_range(dtype):
    """Value and gradient are finite where the formula is."""
    pred = np.full(8, 0.75 * np.finfo(dtype).max, dtype)
    assert_allclose(mse(pred, np.zeros(8)).grad, pred / 4, rtol=1e-6)
    value, grad = mse(np.full(8, 3e38, F32), np.full(8, -3e38, F32))
    assert_allclose(value, 3.6e77, rtol=1e-6)
    assert_allclose(grad, np.full(8, 1.5e38), rtol=1e-6)


def test_logits_at_the_end_of_float32():
    value, grad = cross_entropy(np.array([[3e38, -3e38]], F32), [1])
    assert_allclose(value, 6e38, rtol=1e-6)  # a float64, so it fits
    assert_array_equal(grad, [[1.0, -1.0]])


# ---- equal bits ------------------------------------------------------------------------------


@pytest.fixture
def machine():
    """Puts threads and instruction set back."""
    threads, isa = instep.get_num_threads(), instep.isa()
    yield
    instep.set_num_threads(threads)
    assert _core.select_isa(isa)


def assert_same_bits_everywhere(call):
    seen = {}
    for isa, threads in itertools.product(instep.available_isas(), [1, 2, 3, 7]):
        assert _core.select_isa(isa)
        instep.set_num_threads(threads)
        value, grad = call()
        bits = np.asarray(value).tobytes(), grad.tobytes()
        seen.setdefault(bits, (isa, threads))
    assert len(seen) == 1, f"differ first at {list(seen.values())}"


@pytest.mark.parametrize(
    "shape",
    [(4096, 100), (300, 700), (20, 5000), (40, 50, 21), (200_000, 1), (1, 200_000), (17, 3)],
)
def test_bits_are_the_same_everywhere(shape, dtype, machine):
    for loss, arguments, options in calls(dtype, shape):
        assert_same_bits_everywhere(lambda c=loss, a=arguments, o=options: c(*a, **o))


@pytest.mark.parametrize("size", [1000, 16384, 16385, 32768, 200_000])
def test_mse_bits_are_the_same_everywhere(size, dtype, machine, rng, guarded):
    pred, target = rng.normal(size=(2, size)).astype(dtype)
    weight = rng.uniform(size=size).astype(np.float16)
    for layout in ("C", "sliced", "reversed"):
        arrays = [guarded.array(values, layout=layout) for values in (pred, target)]
        assert_same_bits_everywhere(lambda a=arrays: mse(*a, weight=weight))


def test_two_python_threads_at_once(machine):
    instep.set_num_threads(2)
    cases = calls(F32, (2000, 60))
    expected = [loss(*arguments, **options) for loss, arguments, options in cases]
    wrong = []

    def work(order):
        for k in order * 5:
            loss, arguments, options = cases[k]
            value, grad = loss(*arguments, **options)
            same = np.array_equal(value, expected[k].value)
            if not same or not np.array_equal(grad, expected[k].grad):
                wrong.append(k)

    orders = [list(range(len(cases))), list(reversed(range(len(cases))))]
    workers = [threading.Thread(target=work, args=(order,)) for order in orders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# ---- PyTorch ---------------------------------------------------------------------------------


def torch_loss(torch, function, pred, target, weight, reduction, **options):
    x = torch.tensor(pred, requires_grad=True)
    if weight is not None:
        options["weight"] = torch.tensor(weight)
    value = function(x, torch.tensor(target), reduction=reduction, **options)
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def assert_like_torch(ours, theirs, dtype):
    rtol = {F32: 1e-5, F64: 1e-12}[dtype]  # PyTorch sums float32 in float32
    assert_allclose(ours.value, theirs[0], rtol=rtol)
    assert_allclose(ours.grad, theirs[1], rtol=rtol, atol=rtol * np.abs(theirs[1]).max())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_mse_against_torch(torch, reduction, weighted, dtype, rng):
    pred, target, weight = rng.uniform(0.5, 3, (3, 12, 7)).astype(dtype)
    weight = weight if weighted else None
    theirs = torch_loss(torch, torch.nn.functional.mse_loss, pred, target, weight, reduction)
    ours = mse(pred, target, weight=weight, reduction=reduction)
    assert_like_torch(ours, theirs, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(6,), (9, 5), (3, 600), (4, 5, 3), (2, 4, 3, 2)])
def test_cross_entropy_against_torch(torch, shape, smoothing, weighted, reduction, dtype, rng):
    pred, labels, soft, weight = logits_problem(rng, shape, dtype)
    function = torch.nn.functional.cross_entropy
    weight = weight if weighted else None
    ignores = [-100] if labels.size == 1 else [-100, int(labels.flat[0])]  # a mean of none is NaN
    for target, ignore in [(soft, -100), *((labels, ignore) for ignore in ignores)]:
        options = {"label_smoothing": smoothing, "ignore_index": ignore}
        theirs = torch_loss(torch, function, pred, target, weight, reduction, **options)
        ours = cross_entropy(pred, target, weight=weight, reduction=reduction, **options)
        assert_like_torch(ours, theirs, dtype)


# ---- anything --------------------------------------------------------------------------------

layouts = st.sampled_from(list(LAYOUTS))
seeds = st.integers(0, 2**32 - 1)
preds = st.sampled_from(DTYPES)
stored = st.sampled_from(float_dtypes())
reductions = st.sampled_from(REDUCTIONS)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(st.integers(0, 9), max_size=4), preds, reductions, seeds)
def test_mse_of_anything(data, shape, dtype, reduction, seed):
    rng, guarded = np.random.default_rng(seed), Guarded()

    def some(dtype):
        return guarded.array(rng.normal(size=shape), dtype, layout=data.draw(layouts))

    pred, target = some(dtype), some(data.draw(stored))
    weight = abs(some(data.draw(stored))) if data.draw(st.booleans()) else None
    options = {"reduction": reduction, "weight": weight}
    plain = check(mse, pred, target, **options)
    out = pred if data.draw(st.booleans()) else some(dtype)
    assert_array_equal(mse(pred, target, out=out, **options).grad, plain.grad)
    guarded.check()


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 40), st.lists(st.integers(0, 5), max_size=3), preds, seeds)
def test_cross_entropy_of_anything(data, classes, rows, dtype, seed):
    rng, guarded = np.random.default_rng(seed), Guarded()
    shape = (*rows[:1], classes, *rows[1:])
    pred, labels, soft, weight = logits_problem(rng, shape, dtype)

    def store(values, dtype=dtype):
        return guarded.array(values, dtype, layout=data.draw(layouts))

    options = {
        "reduction": data.draw(reductions),
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.125, 0.9, 1.0])),
        "weight": store(weight, data.draw(stored)) if data.draw(st.booleans()) else None,
    }
    if data.draw(st.booleans()):
        target = store(soft, data.draw(stored))
    else:
        target = store(labels, data.draw(st.sampled_from(INTEGERS)))
        options["ignore_index"] = data.draw(st.integers(-2, classes))
    pred = store(pred)
    plain = check(cross_entropy, pred, target, atol=4 * classes, **options)
    out = pred if data.draw(st.booleans()) else store(np.zeros(shape))
    assert_array_equal(cross_entropy(pred, target, out=out, **options).grad, plain.grad)
    guarded.check()
