"""Errors of `out`: what does not fit, or shares memory with an input; nothing is written."""

import re

import numpy as np
import pytest
from losses_refusals import (
    CLASSWISE,
    GUARD,
    LABELS,
    LIKE_PRED,
    REGIONS,
    SIGNS,
    SOFT,
    P,
    every,
    id_of,
    refuses,
    sink,
    weight_for,
)

from instep.losses import binary_cross_entropy_with_logits, cross_entropy, hinge, mse

# On some platforms long double is float64 by another name.
WIDER = [np.longdouble] if np.dtype(np.longdouble).itemsize > 8 else []


@every
def test_out_that_does_not_fit(loss, target):
    for wrong in ([0.0], 0.0, "out", memoryview(sink())):
        message = f"^out must be an array, got {type(wrong).__name__}"
        refuses(TypeError, message, loss, P, target, out=wrong)
    for shape in [(3, 4), (4,), (12,), (1, 4, 3), (4, 3, 1), (), (5, 3)]:
        message = re.escape(f"out has shape {shape}, pred has (4, 3)")
        refuses(ValueError, message, loss, P, target, out=sink(shape))
    for dtype in [np.float32, np.float16, *WIDER, np.int64, complex, object]:
        message = [f"^out is {np.dtype(dtype)},", "pred's dtype float64"]
        refuses(TypeError, message, loss, P, target, out=sink(dtype=dtype))
        for narrow in (np.float32, np.float16):
            if dtype is not narrow:
                message = [f"^out is {np.dtype(dtype)},", f"pred's dtype {np.dtype(narrow)}"]
                refuses(TypeError, message, loss, P.astype(narrow), target, out=sink(dtype=dtype))
    frozen = sink()
    frozen.flags.writeable = False
    refuses(ValueError, "^out is read-only", loss, P, target, out=frozen)
    frozen = P.copy()
    frozen.flags.writeable = False
    refuses(ValueError, "^out is read-only", loss, frozen, target, out=frozen)


@every
def test_out_of_bfloat16(loss, target):
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    message = ["^out is bfloat16,", "pred's dtype float16"]
    out = np.zeros((4, 3), bfloat16)
    refuses(TypeError, message, loss, P.astype(np.float16), target, out=out)
    message = ["^out is float16,", "pred's dtype bfloat16"]
    refuses(TypeError, message, loss, P.astype(bfloat16), target, out=sink(dtype=np.float16))


@every
def test_out_that_overlaps_itself(loss, target):
    memory = sink((32,))  # all of the strides stay within
    for strides in [(0, 8), (8, 8), (16, 8), (24, 0), (12, 40), (-8, 8)]:
        data = memory[8:]
        out = np.lib.stride_tricks.as_strided(data, (4, 3), strides, writeable=True)
        refuses(ValueError, "^out overlaps itself", loss, P, target, out=out)
    assert (memory == GUARD).all()


@pytest.mark.parametrize("size", [(4, 3), (300, 200)], ids=str)
@pytest.mark.parametrize("loss", [*LIKE_PRED, *CLASSWISE], ids=id_of)
def test_out_that_meets_pred_partly(loss, size):
    rows, columns = size
    count = rows * columns
    memory = np.linspace(0.01, 0.99, 6 * count)
    pred = memory[count : 2 * count].reshape(size)
    target = np.ones(size) if loss in LIKE_PRED else np.zeros(rows, int)
    partly = [
        memory[count + 1 : 2 * count + 1].reshape(size),
        memory[: 2 * count].reshape(rows, 2 * columns)[:, ::2],
        memory[count : 2 * count].reshape(columns, rows).T,
        pred[::-1],
        pred[:, ::-1],
        memory[2 * count - 1 : 3 * count - 1].reshape(size),
        memory[count : 5 * count].reshape(rows, 4 * columns)[:, :columns],
        memory.view(np.uint8)[8 * count + 4 : 16 * count + 4].view(np.float64).reshape(size),
    ]
    for out in partly:
        refuses(ValueError, "^out overlaps pred partly", loss, pred, target, out=out)
    before = pred.tobytes()
    for out in [memory[2 * count : 3 * count].reshape(size), memory[:count].reshape(size)]:
        loss(pred, target, out=out)
        assert pred.tobytes() == before
    both = np.full((rows, 2 * columns), 0.5)  # interleaved, no byte in common
    loss(both[:, ::2], target, out=both[:, 1::2])
    assert (both[:, ::2] == 0.5).all()


@pytest.mark.parametrize("loss", LIKE_PRED, ids=id_of)
def test_out_that_meets_target_weight_or_mask(loss):
    memory = np.ones(40)
    place, shifted = memory[:12].reshape(4, 3), memory[1:13].reshape(4, 3)
    target = SIGNS if loss is hinge else SOFT
    for out in (place, shifted):
        refuses(ValueError, "^out overlaps target", loss, P, place, out=out)
        refuses(ValueError, "^out overlaps target", loss, P, place[::-1], out=out)
        weight = place[:, 0] if loss in REGIONS else place
        refuses(ValueError, "^out overlaps weight", loss, P, target, weight=weight, out=out)
        if loss in REGIONS:
            refuses(ValueError, "^out overlaps mask", loss, P, target, mask=place, out=out)
            bools = memory.view(bool)[8:20].reshape(4, 3)
            refuses(ValueError, "^out overlaps mask", loss, P, target, mask=bools, out=out)
        if loss is binary_cross_entropy_with_logits:
            for part in (place, place[0], place[:, :1], place[1, 1:2]):
                message = "^out overlaps pos_weight"
                refuses(ValueError, message, loss, P, target, pos_weight=part, out=out)
    same = np.ones((4, 3))
    refuses(ValueError, "^out overlaps target", loss, same, same, out=same)
    if loss not in REGIONS:
        refuses(ValueError, "^out overlaps weight", loss, same, target, weight=same, out=same)
    if loss is binary_cross_entropy_with_logits:
        message = "^out overlaps pos_weight"
        refuses(ValueError, message, loss, same, target, pos_weight=same, out=same)


@pytest.mark.parametrize("loss", CLASSWISE, ids=id_of)
def test_out_that_meets_labels_or_class_weight(loss):
    memory = np.linspace(0, 1, 40)
    place, shifted = memory[:12].reshape(4, 3), memory[1:13].reshape(4, 3)
    for out in (place, shifted):
        refuses(ValueError, "^out overlaps target", loss, P, place, out=out)
        message = "^out overlaps weight"
        for weight in (place[0], memory[5:8]):
            refuses(ValueError, message, loss, P, LABELS, weight=weight, out=out)
    labels = memory.view(np.int64)[:4]
    labels[:] = LABELS
    refuses(ValueError, "^out overlaps target", loss, P, labels, out=place)
    narrow = np.zeros((4, 3), np.float32)
    labels = narrow.view(np.int16).ravel()[3:7]
    labels[:] = LABELS
    refuses(ValueError, "^out overlaps target", loss, P.astype(np.float32), labels, out=narrow)


@pytest.mark.parametrize("loss", CLASSWISE, ids=id_of)
def test_out_that_meets_a_class_weight_to_be_converted(loss):
    """Strided, misaligned or of another dtype: it is still the user's array that is refused."""
    message, memory = "^out overlaps weight", np.ones(40)
    place, narrow = memory[:12].reshape(4, 3), memory.view(np.float32)[:12].reshape(4, 3)
    misaligned = memory.view(np.uint8)[9 : 9 + 24].view(np.float64)
    misaligned[:] = 1
    for weight in (memory[12:6:-2], misaligned, memory.view(np.int64)[2:5]):
        refuses(ValueError, message, loss, P, LABELS, weight=weight, out=place)
    pred = P.astype(np.float32)
    refuses(ValueError, message, loss, pred, LABELS, weight=memory[3:6], out=narrow)


@pytest.mark.parametrize("loss", CLASSWISE)
def test_out_that_meets_the_memory_of_a_weight_that_is_no_array(loss):
    place = np.ones((4, 3))
    message = "^out overlaps weight"
    refuses(ValueError, message, loss, P, LABELS, weight=memoryview(place[0]), out=place)


@every
def test_out_of_a_subclass_is_returned(loss, target):
    place = np.empty((4, 3)).view(np.recarray)
    assert loss(P, target, out=place).grad is place


@every
def test_out_beside_an_input_is_fine(loss, target):
    """Interleaved with the weight, and right after the target."""
    weight = weight_for(loss)
    if weight.shape == P.shape:
        both = np.ones((4, 6))
        plain = loss(P, target, weight=weight)
        found = loss(P, target, weight=both[:, ::2], out=both[:, 1::2])
        np.testing.assert_array_equal(found.grad, plain.grad)
        assert (both[:, ::2] == 1).all()
    memory = np.zeros(24)
    if target.shape == P.shape:
        memory[:12] = target.ravel()
        loss(P, memory[:12].reshape(4, 3), out=memory[12:].reshape(4, 3))
        assert (memory[:12] == target.ravel()).all()


def test_other_views_of_one_array_are_the_array():
    """Strides of axes of length 1 do not count."""
    for loss, target in [(mse, np.zeros((1, 4))), (cross_entropy, [0])]:
        pred = np.ones((1, 4))
        plain = loss(pred, target).grad
        for view in (pred[:], pred[0][None], pred[::-1]):
            place = view.base if view.base is not None else view
            place[...] = 1
            np.testing.assert_array_equal(loss(pred, target, out=view).grad, plain)
