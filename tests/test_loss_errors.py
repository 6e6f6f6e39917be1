"""Errors of the losses' arrays: dtypes, shapes, labels, values; nothing is written."""

import re

import numpy as np
import pytest
from losses_refusals import (
    CLASSWISE,
    ELEMENTS,
    EVERY,
    LABELS,
    LIKE_PRED,
    REGIONS,
    SIGNS,
    SOFT,
    P,
    X,
    every,
    id_of,
    masked,
    refuses,
    sink,
    swapped,
    weight_for,
)

from instep.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy,
    dice,
    hinge,
    mse,
)

both = pytest.mark.parametrize("loss", CLASSWISE, ids=id_of)
like_pred = pytest.mark.parametrize("loss", LIKE_PRED, ids=id_of)


# ---- the kind of array -----------------------------------------------------------------------

# On some platforms long double is float64 by another name.
WIDER = [np.longdouble] if np.dtype(np.longdouble).itemsize > 8 else []
NOT_COMPUTED = [*WIDER, np.int64, np.uint8, bool, complex, np.complex64, object]
COMPUTED = "^pred must be float32, float64, float16 or bfloat16, got a "
NO_NUMBERS = [complex, np.complex64, object, "U3", "M8[s]", "m8[s]", "V8"]


@pytest.mark.parametrize("dtype", [*NOT_COMPUTED, "U3", "M8[s]", "V8"], ids=str)
@every
def test_dtype_of_pred(loss, target, dtype):
    dtype = np.dtype(dtype)
    pred = np.zeros((4, 3), dtype)
    message = [COMPUTED, re.escape(f"{dtype} array of shape (4, 3)")]
    refuses(TypeError, message, loss, pred, target, out=sink())


@pytest.mark.parametrize("pred", [None, "text", {"a": 1.0}, 3, [[1, 2, 3]] * 4], ids=repr)
@every
def test_pred_is_no_array_of_floats(loss, target, pred):
    refuses(TypeError, COMPUTED, loss, pred, target)


@pytest.mark.parametrize("dtype", NO_NUMBERS)
@every
def test_dtype_of_weight(loss, target, dtype):
    wrong = np.zeros(weight_for(loss).shape, dtype)
    message = ["^weight must hold real numbers", re.escape(f"{np.dtype(dtype)} array of shape")]
    refuses(TypeError, message, loss, P, target, weight=wrong, out=sink())


@pytest.mark.parametrize("dtype", NO_NUMBERS)
def test_dtype_of_target(dtype):
    wrong = np.zeros((4, 3), dtype)
    shown = re.escape(f"{np.dtype(dtype)} array of shape")
    for loss in LIKE_PRED:
        message = ["^target must hold real numbers", shown]
        refuses(TypeError, message, loss, P, wrong, out=sink())
    for loss in CLASSWISE:
        message = ["^target must hold integer labels or soft targets", shown]
        refuses(TypeError, message, loss, P, wrong, out=sink())
        refuses(TypeError, message, loss, P, wrong[:, 0], out=sink())


@pytest.mark.parametrize("dtype", NO_NUMBERS)
def test_dtype_of_mask_and_pos_weight(dtype):
    wrong = np.zeros((4, 3), dtype)
    shown = re.escape(f"{np.dtype(dtype)} array of shape")
    for loss in REGIONS:
        message = ["^mask must hold real numbers", shown]
        refuses(TypeError, message, loss, P, SOFT, mask=wrong, out=sink())
    message = ["^pos_weight must hold real numbers", shown]
    loss = binary_cross_entropy_with_logits
    for part in (wrong, wrong[0], wrong[:, :1]):
        refuses(TypeError, message, loss, P, SOFT, pos_weight=part, out=sink())


BYTE_ORDER = ["byte order", r"newbyteorder\('='\)"]


@every
def test_byte_order(loss, target):
    refuses(TypeError, ["^pred has", *BYTE_ORDER], loss, swapped(P), target, out=sink())
    refuses(TypeError, ["^target has", *BYTE_ORDER], loss, P, swapped(target), out=sink())
    weight = swapped(weight_for(loss))
    refuses(TypeError, ["^weight has", *BYTE_ORDER], loss, P, target, weight=weight, out=sink())
    refuses(TypeError, "out is >?<?f8, but", loss, P, target, out=swapped(sink()))
    if loss in REGIONS:
        refuses(TypeError, ["^mask has", *BYTE_ORDER], loss, P, target, mask=swapped(SOFT))
    if loss is binary_cross_entropy_with_logits:
        message = ["^pos_weight has", *BYTE_ORDER]
        refuses(TypeError, message, loss, P, target, pos_weight=swapped(SOFT[0]), out=sink())


@every
def test_masked_arrays(loss, target):
    refuses(TypeError, "^pred is a masked array", loss, masked(P), target, out=sink())
    refuses(TypeError, "^target is a masked array", loss, P, masked(target), out=sink())
    message, weight = "^weight is a masked array", masked(weight_for(loss))
    refuses(TypeError, message, loss, P, target, weight=weight, out=sink())
    refuses(TypeError, "^out is a masked array", loss, P, target, out=masked(sink()))
    if loss in REGIONS:
        refuses(TypeError, "^mask is a masked array", loss, P, target, mask=masked(SOFT))
    if loss is binary_cross_entropy_with_logits:
        message = "^pos_weight is a masked array"
        refuses(TypeError, message, loss, P, target, pos_weight=masked(SOFT), out=sink())


@both
def test_bool_labels(loss):
    message = ["^target must hold integer labels or soft targets", "bool"]
    refuses(TypeError, message, loss, P, LABELS > 0, out=sink())
    refuses(TypeError, message, loss, P, SOFT > 0, out=sink())


# ---- shapes ----------------------------------------------------------------------------------

SHAPES = [((3, 1), (3,)), ((3,), (3, 1)), ((3,), (1,)), ((), (1,)), ((2, 3), (3, 2))]


@like_pred
@pytest.mark.parametrize(("shape", "other"), [*SHAPES, ((0, 3), (3, 0)), ((4, 3), ())])
def test_nothing_is_broadcast(loss, shape, other):
    pred, wrong = np.ones(shape), np.ones(other)
    seen = [re.escape(f"shape {other}"), re.escape(f"pred has {shape}"), "broadcast"]
    refuses(ValueError, ["^target has", *seen], loss, pred, wrong, out=sink(shape))
    if loss in REGIONS:
        refuses(ValueError, ["^mask has", *seen], loss, pred, pred, mask=wrong, out=sink(shape))
    else:
        message = ["^weight has", *seen]
        refuses(ValueError, message, loss, pred, pred, weight=wrong, out=sink(shape))


@both
@pytest.mark.parametrize(("shape", "other"), [case for case in SHAPES if case[0]])
def test_no_soft_target_is_broadcast(loss, shape, other):
    seen = [re.escape(f"shape {other}"), re.escape(f"pred has {shape}"), "broadcast"]
    message = ["^soft target has", *seen]
    refuses(ValueError, message, loss, np.ones(shape), np.ones(other), out=sink(shape))


@pytest.mark.parametrize("shape", [(2,), (4,), (4, 1, 3), (1, 4, 3), (3, 4), (0,)])
def test_shape_of_pos_weight(shape):
    loss = binary_cross_entropy_with_logits
    message = re.escape(f"pos_weight has shape {shape}, which cannot be broadcast to pred's (4, 3)")
    refuses(ValueError, message, loss, X, SOFT, pos_weight=np.ones(shape), out=sink())


@both
@pytest.mark.parametrize(
    ("shape", "wanted", "given"),
    [((4, 3), (4,), (3,)), ((4, 3), (4,), (4, 1)), ((4, 3), (4,), (4, 3)), ((4, 3), (4,), ()),
     ((3,), (), (3,)), ((3,), (), (1,)), ((2, 3, 4), (2, 4), (2, 3)), ((2, 3, 4), (2, 4), (8,)),
     ((2, 3, 4, 5), (2, 4, 5), (2, 5, 4)), ((0, 3), (0,), (1,))],
)  # fmt: skip
def test_shape_of_labels(loss, shape, wanted, given):
    message = [f"shape {wanted} for pred of shape {shape}, got {given}", "one-hot"]
    message = [re.escape(part) for part in message]
    labels = np.zeros(given, int)
    refuses(ValueError, message, loss, np.ones(shape), labels, out=sink(shape))


@both
@pytest.mark.parametrize("shape", [(2,), (4,), (1,), (), (1, 3), (4, 3), (0,)])
def test_shape_of_class_weight(loss, shape):
    message = re.escape(f"one entry per class (3,), got {shape}")
    for target in (LABELS, SOFT):
        refuses(ValueError, message, loss, P, target, weight=np.ones(shape), out=sink())


@both
def test_no_class_axis(loss):
    refuses(ValueError, "^pred must have a class axis: shape", loss, np.array(1.0), 0)
    for shape in [(0,), (4, 0), (4, 0, 2)]:
        labels = np.zeros(shape[:1] * (len(shape) > 1) + shape[2:], int)
        message = re.escape(f"no classes: shape {shape}")
        refuses(ValueError, message, loss, np.ones(shape), labels)


@pytest.mark.parametrize("loss", REGIONS, ids=id_of)
@pytest.mark.parametrize(
    ("axis", "scores", "given"),
    [(None, (2,), (3,)), (None, (2,), (1,)), (None, (2,), ()), ((0, 2), (3,), (2,)),
     (2, (2, 3), (2,)), (2, (2, 3), (3, 2)), (1, (2, 4), (4,)), ((0, 1, 2), (), (1,)),
     ((0, 1, 2), (), (3,)), ((), (2, 3, 4), (4,))],
)  # fmt: skip
def test_shape_of_weight_of_scores(loss, axis, scores, given):
    pred = np.full((2, 3, 4), 0.5)
    message = [f"weight has shape {given}, but there are scores of shape {scores}", "per class"]
    message = [re.escape(part) for part in message]
    options = {"axis": axis, "weight": np.ones(given)}
    refuses(ValueError, message, loss, pred, pred, out=sink(pred.shape), **options)


# ---- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "bfloat16"])
@pytest.mark.parametrize("wrong", [1.0078125, -0.0078125, 7.0, -1e-3, np.inf, -np.inf])
@pytest.mark.parametrize("loss", [binary_cross_entropy, categorical_cross_entropy], ids=id_of)
def test_probability_outside_0_and_1(loss, wrong, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    pred = np.full((4, 3), 0.5, dtype)
    pred[2, 1] = pred[3, 0] = wrong
    shown = re.escape(f"{pred[2, 1]}")
    message = rf"^pred\[2, 1\] is {shown}, but a probability must be in \[0, 1\]"
    wide = np.zeros((4, 6), dtype)
    wide[:, ::2] = pred
    for stored in (pred, np.asfortranarray(pred), pred[::-1].copy()[::-1], wide[:, ::2]):
        refuses(ValueError, message, loss, stored, SOFT, out=sink(dtype=dtype))
        place = stored.copy()
        refuses(ValueError, message, loss, place, SOFT, out=place)
    flat = np.zeros(70_000)
    flat[65_432] = 2.0
    refuses(ValueError, r"^pred\[65432\] is 2.0", loss, flat, np.zeros(flat.shape))
    pred[pred != 0.5] = np.nan  # is no error
    assert np.isnan(loss(pred, SOFT).value)
    pred[np.isnan(pred)] = 1.0
    loss(pred, SOFT)


def test_a_lone_probability():
    message = "^pred is 1.5, but a probability must be"
    refuses(ValueError, message, binary_cross_entropy, np.array(1.5), 1)
    refuses(ValueError, message, binary_cross_entropy, 1.5, 1)


HINGE_DTYPES = {
    "i1": [0, 2, -2, -128],
    "i8": [0, 2, -2, 2**40, -(2**63)],
    "u1": [0, 2, 255],
    "u8": [0, 2, 2**64 - 1],
    "?": [0],
    "f2": [0, 0.5, -2, np.inf],
    "f4": [0, 0.5, -2, np.inf],
    "f8": [0, 0.5, 1 + 1e-15, -np.inf],
    "g": [0, 0.5, -2],
}


@pytest.mark.parametrize("dtype", HINGE_DTYPES)
def test_hinge_targets(dtype):
    for wrong in HINGE_DTYPES[dtype]:
        target = np.ones((4, 3), dtype)
        target[1, 2] = target[3, 0] = wrong
        shown = re.escape(f"{target[1, 2]}")
        message = [rf"^target\[1, 2\] is {shown}, but targets must be -1 or 1", r"2 \* target - 1"]
        for stored in (target, np.asfortranarray(target)):
            refuses(ValueError, message, hinge, X, stored, out=sink())
    refuses(ValueError, "^target is 0, but", hinge, np.array(0.5), np.array(0))


def test_hinge_of_nan_target_is_nan():
    target = SIGNS.astype(float)
    target[1, 1] = np.nan
    value, grad = hinge(X, target, reduction="none")
    assert (np.isnan(value) == np.isnan(target)).all()
    assert (np.isnan(grad) == np.isnan(target)).all()


TINY = "^the weights that count sum to less than 2.3e-308, too little to divide by"


def test_tiny_weights():
    """1 / sum overflows: a clear error for a mean. Other reductions take them."""
    for loss, target in EVERY:
        if loss in ELEMENTS and not loss.__name__.startswith(("binary", "focal")):
            weight = np.full((4, 3), 1e-310)
        elif loss in CLASSWISE and target is LABELS:
            weight = np.full(3, 1e-310)
        else:
            continue
        refuses(ValueError, TINY, loss, P, target, weight=weight, out=sink())
        refuses(ValueError, TINY, loss, P, target, weight=-weight, out=sink())
        refuses(ValueError, TINY, loss, P.tolist(), target.tolist(), weight=weight.tolist())
        for reduction in ("sum", "none"):
            loss(P, target, weight=weight, reduction=reduction)
    for loss in (*REGIONS, binary_cross_entropy):
        weight = np.full(weight_for(loss).shape, 1e-310)
        assert np.isfinite(loss(P, SOFT, weight=weight).grad).all()
    narrow = X.astype(np.float32)
    refuses(ValueError, TINY, mse, narrow, X, weight=np.full((4, 3), 1e-310), out=narrow)


# ---- labels ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_label_out_of_range(loss, dtype):
    for position, label in [(0, 3), (2, 3), (3, 100)]:
        labels = LABELS.astype(dtype)
        labels[position] = label
        message = rf"^target\[{position}\] is {label}, but labels must be in \[0, 3\)"
        for options in [{}, {"weight": np.ones(3)}, {"reduction": "none"}, {"ignore_index": 1}]:
            refuses(ValueError, message, loss, P, labels, out=sink(), **options)
        place = P.copy()
        refuses(ValueError, message, loss, place, labels, out=place)


@both
def test_first_wrong_label_is_named(loss):
    pred = np.ones((2, 3, 4, 5))
    labels = np.zeros((2, 4, 5), int)
    labels[1, 2, 3] = labels[1, 3, 0] = -7
    for stored in (labels, np.asfortranarray(labels), labels[:, ::-1].copy()[:, ::-1]):
        message = re.escape("target[1, 2, 3] is -7, but labels must be in [0, 3)")
        refuses(ValueError, message, loss, pred, stored, out=sink(pred.shape))
    refuses(ValueError, r"^target is 3, but", loss, np.ones(3), 3, out=sink((3,)))
    refuses(ValueError, r"^target is -1, but", loss, np.ones(3), -1, out=sink((3,)))
    many = np.zeros(50_000, int)
    many[[43_210, 44_000]] = 10, -1
    refuses(ValueError, r"^target\[43210\] is 10, but", loss, np.ones((50_000, 3)), many)


@both
def test_only_the_ignored_label_may_be_out_of_range(loss):
    for label, ignore in [(-1, -100), (-100, -1), (3, -1), (-2, 1)]:
        labels = np.array([0, label, 1, 2])
        message = [rf"target\[1\] is {label}", rf"ignore_index={ignore}$"]
        refuses(ValueError, message, loss, P, labels, ignore_index=ignore, out=sink())
    loss(P, np.array([0, -100, 1, 2]))
    loss(P, np.array([0, -1, 1, 2]), ignore_index=-1)


@both
@pytest.mark.parametrize("label", [2**63 - 1, 2**63, 2**64 - 100, 2**64 - 1, 2**32])
def test_huge_labels(loss, label):
    """uint64 labels do not wrap round to small or negative numbers."""
    labels = LABELS.astype(np.uint64)
    labels[1] = label
    message = rf"^target\[1\] is {label},"
    for ignore in (-100, -1, 0):
        refuses(ValueError, message, loss, P, labels, ignore_index=ignore, out=sink())
    if label > 2**63 - 1:
        ignore = {"ignore_index": 2**63 - 1}
        refuses(ValueError, message, loss, P, labels, out=sink(), **ignore)


@both
def test_huge_labels_are_not_the_smallest_number(loss):
    labels = LABELS.astype(np.uint64)
    labels[1] = 2**63
    message, ignore = rf"^target\[1\] is {2**63},", {"ignore_index": -(2**63)}
    refuses(ValueError, message, loss, P, labels, out=sink(), **ignore)


def test_a_label_that_no_row_has_is_fine():
    """One class, no rows, nothing to be out of range."""
    for loss in CLASSWISE:
        assert loss(np.zeros((0, 3)), np.zeros(0, int)).value == 0.0
        assert loss(np.ones((2, 1)), [0, 0]).value == 0.0
    assert dice(np.zeros((0, 3)), np.zeros((0, 3))).value == 0.0
