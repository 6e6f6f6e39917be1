"""Losses over classes: against the twin, over shapes, dtypes and options; layouts; `out`."""

import itertools

import numpy as np
import pytest
import reference
from conftest import LAYOUTS
from losses_common import (
    ALL_DTYPES,
    CLASS_LOSSES,
    F32,
    FLOATS,
    INTEGERS,
    NARROW,
    REDUCTIONS,
    assert_same,
    assert_same_bits,
    check,
    check_options,
    class_problem,
    name_of,
)
from numpy.testing import assert_allclose

from instep.losses import categorical_cross_entropy, cross_entropy

# Around the 16 lanes of a sum, the 512 elements of a tile, and where few classes end.
CLASSES = [1, 2, 3, 10, 15, 16, 17, 63, 64, 65, 100, 511, 512, 513, 1000, 5000]

both = pytest.mark.parametrize("loss", CLASS_LOSSES, ids=name_of)


# ---- values and gradients against the twin ---------------------------------------------------


@both
@pytest.mark.parametrize("classes", CLASSES)
def test_options_against_twin(loss, classes, dtype, rng):
    check_options(loss, rng, (5, classes), dtype)


@both
@pytest.mark.parametrize("stored", NARROW, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_narrow_options_against_twin(loss, classes, stored, rng):
    check_options(loss, rng, (3, classes), stored)


@both
@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(1,), (7,), (600,), (1, 4), (9, 3), (4, 5, 6), (2, 3, 4, 5), (3, 600, 2), (2, 1, 3),
     (70, 10), (2, 65, 3, 3), (1, 3, 40, 5)],
)  # fmt: skip
def test_shapes_against_twin(loss, shape, stored, rng):
    check_options(loss, rng, shape, stored)


@both
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 63, 64, 65, 127, 129, 300])
def test_numbers_of_rows(loss, rows, dtype, rng):
    """Around the groups of rows that few classes are taken in."""
    for classes in (2, 10, 33, 64):
        pred, labels, soft, weight = class_problem(loss, rng, (rows, classes), dtype)
        for reduction, smoothing in itertools.product(REDUCTIONS, [0.0, 0.1]):
            options = {"reduction": reduction, "label_smoothing": smoothing, "weight": weight}
            unit = 4 / (rows if reduction == "mean" else 1)
            check(loss, pred, labels, atol=unit, ignore_index=int(labels[-1]), **options)
            check(loss, pred, soft, atol=unit * classes, **options)


def test_more_rows_than_the_partial_sums_hold():
    row = np.array([0.5, -1.0, 2.0], F32)
    labels = np.broadcast_to(np.int8(1), 3_000_000)
    value, grad = cross_entropy(np.broadcast_to(row, (labels.size, 3)), labels, reduction="sum")
    expected = reference.cross_entropy(row, 1)
    assert_allclose(value, labels.size * expected[0], rtol=1e-6)
    assert_allclose(grad, np.broadcast_to(expected[1], grad.shape), rtol=2e-6)


@both
def test_lists_are_arrays_of_float64(loss):
    check(loss, [[1.0, 0.25], [0.5, 0.0]], [0, 1])
    check(loss, [1.0, 0.25], 1)
    check(loss, [1.0, 0.25], [0.5, 0.5])
    check(loss, [1.0, 0.25], [0.5, 0.5], weight=[1, 2])


@both
def test_labels_and_one_hot_targets_agree(loss, dtype, rng):
    """All but their weighted means: labels divide by the used weights, targets by the rows."""
    pred, labels, _, weight = class_problem(loss, rng, (20, 7), dtype)
    one_hot = np.eye(7)[labels]
    for smoothing, reduction in itertools.product([0.0, 0.2], REDUCTIONS):
        options = {"label_smoothing": smoothing, "reduction": reduction}
        for found, expected in zip(
            loss(pred, labels, **options), loss(pred, one_hot, **options), strict=True
        ):
            assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    hard, soft = loss(pred, labels, weight=weight), loss(pred, one_hot, weight=weight)
    assert_allclose(hard.value * np.sum(weight[labels]), soft.value * 20, rtol=1e-6)


def test_probabilities_and_logits_agree(rng):
    """The chain rule through the softmax turns one gradient into the other."""
    logits, labels, soft, weight = class_problem(cross_entropy, rng, (6, 5), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for target in (labels, soft):
        options = {"weight": weight, "label_smoothing": 0.1}
        one = cross_entropy(logits, target, **options)
        other = categorical_cross_entropy(p, target, **options)
        assert_allclose(other.value, one.value, rtol=1e-12)
        through = p * (other.grad - np.sum(p * other.grad, axis=1, keepdims=True))
        assert_allclose(one.grad, through, atol=1e-12)


# ---- storage ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(13,), (6, 10), (3, 520), (3, 5, 4), (2, 515, 3)])
def test_layouts_have_equal_bits(loss, shape, layout, dtype, rng, guarded):
    """Rows are taken in C order whatever the memory order."""
    pred, labels, soft, weight = class_problem(loss, rng, shape, dtype)
    stored = guarded.array(pred, layout=layout)
    for target, reduction in itertools.product([labels, soft], REDUCTIONS):
        options = {"reduction": reduction, "label_smoothing": 0.1}
        plain = loss(pred, target, weight=weight, **options)
        for other in LAYOUTS:
            options["weight"] = guarded.array(weight, layout=other)
            found = loss(stored, guarded.array(target, layout=other), **options)
            assert_same(found, plain)


@both
@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_layouts_of_the_class_axis_have_equal_bits(loss, classes, stored, rng, guarded):
    """Classes side by side, or apart as in images: the same bits on every path, also in place."""
    shape = (2, classes, 3, 5) if classes < 200 else (1, classes, 2, 2)
    pred, labels, soft, weight = class_problem(loss, rng, shape, stored)
    last = np.ascontiguousarray(np.moveaxis(pred, 1, -1))  # classes side by side
    flat = last.reshape(-1, classes)
    flat_soft = np.moveaxis(soft, 1, -1).reshape(-1, classes)
    names = ["C", *rng.choice(list(LAYOUTS)[1:], 4, replace=False)]
    for target, smoothing in [(labels, 0.0), (labels, 0.1), (soft, 0.0)]:
        options = {"label_smoothing": smoothing, "weight": weight, "reduction": "none"}
        plain = loss(flat, flat_soft if target is soft else labels.ravel(), **options)
        stored_ones = [np.moveaxis(last.copy(), -1, 1)]
        stored_ones += [guarded.array(pred, layout=name) for name in names]
        for place in stored_ones:
            for out in (None, np.empty(shape, stored), place):
                value, grad = loss(place, target, out=out, **options)
                assert_same_bits(value.ravel(), plain.value)
                assert_same_bits(np.moveaxis(grad, 1, -1).reshape(-1, classes), plain.grad)


@both
@pytest.mark.parametrize("classes", [3, 64, 65, 100, 700])
def test_reductions_have_equal_bits_in_every_layout(loss, classes, dtype, rng, guarded):
    pred, labels, soft, weight = class_problem(loss, rng, (4, classes, 3), dtype)
    ignored = int(labels[0, 0])
    for target, reduction in itertools.product([labels, soft], ["mean", "sum"]):
        ignore = -100 if target is soft else ignored
        options = {"reduction": reduction, "weight": weight, "ignore_index": ignore}
        plain = loss(pred, target, **options)
        for layout in LAYOUTS:
            assert_same(loss(guarded.array(pred, layout=layout), target, **options), plain)


@both
def test_broadcast_read_only_inputs(loss, dtype, rng):
    pred = rng.uniform(0.1, 1.0, (6, 40)).astype(dtype)
    rows = np.broadcast_to(rng.uniform(0.1, 1, (6, 1)).astype(dtype), pred.shape)
    columns = np.broadcast_to(pred[0], pred.shape)
    label = np.broadcast_to(np.int16(3), 6)
    for some in (pred, rows, columns):
        check(loss, some, label, atol=1)
        check(loss, some, label, atol=1, weight=np.broadcast_to(dtype.type(2), 40))
        check(loss, some, np.broadcast_to(pred[:1] ** 2, pred.shape), atol=40)
        check(loss, some, np.broadcast_to(dtype.type(0.5), pred.shape), atol=40)


@both
@pytest.mark.parametrize("other", FLOATS, ids=str)
def test_targets_and_weights_of_other_floats(loss, other, dtype, rng, guarded):
    pred, _, soft, weight = class_problem(loss, rng, (9, 130), dtype)
    for layout in LAYOUTS:
        target = guarded.array(soft, other, layout=layout)
        stored = guarded.array(weight, other, layout=layout)
        check(loss, pred, target, atol=130, weight=stored)


@both
@pytest.mark.parametrize("other", [*INTEGERS, np.dtype(bool)], ids=str)
def test_integer_weights(loss, other, dtype, rng):
    pred = class_problem(loss, rng, (7, 5), dtype)[0]
    weight = np.array([1, 0, 1, 2, 5]).astype(other)
    check(loss, pred, [0, 1, 2, 3, 4, 0, 1], atol=5, weight=weight)


@both
@pytest.mark.parametrize("other", INTEGERS, ids=str)
@pytest.mark.parametrize("shape", [(100,), (9, 100), (3, 10, 4), (2, 100, 3, 2)])
def test_label_dtypes(loss, other, shape, dtype, rng, guarded):
    pred, labels, _, weight = class_problem(loss, rng, shape, dtype)
    plain = loss(pred, labels, weight=weight)
    for layout in LAYOUTS:
        stored = guarded.array(labels, other, layout=layout)
        assert_same(loss(pred, stored, weight=weight), plain)


@both
@pytest.mark.parametrize("other", FLOATS, ids=str)
def test_misaligned_class_weights(loss, other, dtype, rng):
    """A view into bytes, and every other byte order of a stride."""
    pred, labels, soft, weight = class_problem(loss, rng, (6, 5), dtype)
    weight = weight.astype(other)
    raw = np.zeros(weight.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(weight.tobytes(), np.uint8)
    misaligned = raw[1:].view(other)
    reversed_ = weight[::-1].copy()[::-1]
    for target in (labels, soft):
        plain = loss(pred, target, weight=weight.copy())
        for stored in (misaligned, reversed_, np.repeat(weight, 2)[::2]):
            assert_same(loss(pred, target, weight=stored), plain)


# ---- out -------------------------------------------------------------------------------------


def calls(loss, dtype, shape):
    """(arguments, options) for `out`."""
    rng = np.random.default_rng(12)
    pred, labels, soft, weight = class_problem(loss, rng, shape, dtype)
    smooth = {"label_smoothing": 0.1, "weight": weight}
    return [
        ((pred, labels), {}),
        ((pred, labels.astype(np.uint16)), {**smooth, "ignore_index": 1}),
        ((pred, soft), {**smooth, "reduction": "sum"}),
        ((pred, soft.astype(np.float16)), {"reduction": "none"}),
    ]


@both
@pytest.mark.parametrize("shape", [(6, 4), (3, 100), (3, 513), (2, 1030, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(loss, shape, layout, dtype, guarded):
    for (pred, target), options in calls(loss, dtype, shape):
        plain = loss(pred, target, **options)
        out = guarded.empty(shape, dtype, layout)
        found = loss(pred, target, out=out, **options)
        assert found.grad is out
        assert_same(found, plain)
        place = guarded.array(pred, layout=layout)
        found = loss(place, target, out=place, **options)
        assert found.grad is place
        assert_same(found, plain)


@both
@pytest.mark.parametrize("stored", NARROW, ids=str)
def test_narrow_out(loss, stored, guarded):
    """Exponentials do not rest in a gradient that is too narrow for them."""
    for shape in [(6, 4), (3, 100), (3, 1100), (2, 1030, 2)]:
        for (pred, target), options in calls(loss, stored, shape):
            plain = loss(pred, target, **options)
            for layout in ("C", "F", "reversed", "record"):
                place = guarded.array(pred, layout=layout)
                out = guarded.empty(shape, stored, layout)
                assert_same(loss(pred, target, out=out, **options), plain)
                assert_same(loss(place, target, out=place, **options), plain)
