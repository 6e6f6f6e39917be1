"""Every error of the losses: its kind, what it says, and that nothing was written."""

import re

import numpy as np
import pytest

from instep.losses import cross_entropy, mse

GUARD = -77.25
X = np.arange(12.0).reshape(4, 3) / 7
LABELS = np.array([0, 2, 1, 1])
SOFT = np.full((4, 3), 1 / 3)


def refuses(kind, message, loss, pred, target, *, out=None, **options):
    """The call raises, names every part of `message`, and leaves all arrays as they were."""
    arrays = [a for a in (pred, target, options.get("weight"), out) if isinstance(a, np.ndarray)]
    before = [array.tobytes() for array in arrays]
    with pytest.raises(kind) as caught:
        loss(pred, target, out=out, **options)
    assert type(caught.value) is kind
    for part in [message] if isinstance(message, str) else message:
        assert re.search(part, str(caught.value)), str(caught.value)
    assert [array.tobytes() for array in arrays] == before


def sink(shape=(4, 3), dtype=np.float64):
    """Somewhere to see that nothing is written."""
    return np.full(shape, GUARD, dtype)


def masked(array):
    return np.ma.masked_array(array, mask=np.zeros(array.shape, bool))


def swapped(array):
    return array.astype(array.dtype.newbyteorder("S"))


def bfloat16():
    return pytest.importorskip("ml_dtypes").bfloat16


# ---- the kind of array -----------------------------------------------------------------------

# On some platforms long double is float64 by another name.
WIDER = [np.longdouble] if np.dtype(np.longdouble).itemsize > 8 else []
NOT_COMPUTED = [np.float16, *WIDER, np.int64, np.uint8, bool, complex, np.complex64, object]


@pytest.mark.parametrize("dtype", [*NOT_COMPUTED, "bfloat16", "U3", "M8[s]", "V8"], ids=str)
@pytest.mark.parametrize(("loss", "target"), [(mse, X), (cross_entropy, LABELS)])
def test_dtype_of_pred(loss, target, dtype):
    dtype = np.dtype(bfloat16() if dtype == "bfloat16" else dtype)
    pred = np.zeros((4, 3), dtype)
    message = ["^pred must be float32 or float64", re.escape(f"{dtype} array of shape (4, 3)")]
    refuses(TypeError, message, loss, pred, target, out=sink())


@pytest.mark.parametrize("pred", [None, "text", {"a": 1.0}, 3, [[1, 2, 3]] * 4], ids=repr)
@pytest.mark.parametrize(("loss", "target"), [(mse, X), (cross_entropy, LABELS)])
def test_pred_is_no_array_of_floats(loss, target, pred):
    refuses(TypeError, "^pred must be float32 or float64", loss, pred, target)


@pytest.mark.parametrize("dtype", [complex, np.complex64, object, "U3", "M8[s]", "m8[s]", "V8"])
def test_dtype_of_target_and_weight(dtype):
    wrong = np.zeros((4, 3), dtype)
    shown = re.escape(f"{np.dtype(dtype)} array of shape")
    refuses(TypeError, ["^target must hold real numbers", shown], mse, X, wrong, out=sink())
    message = ["^weight must hold real numbers", shown]
    refuses(TypeError, message, mse, X, X, weight=wrong, out=sink())
    refuses(TypeError, message, cross_entropy, X, LABELS, weight=wrong[0], out=sink())
    message = ["^target must hold integer labels or soft targets", shown]
    refuses(TypeError, message, cross_entropy, X, wrong, out=sink())
    refuses(TypeError, message, cross_entropy, X, wrong[:, 0], out=sink())


def test_byte_order():
    message = ["byte order", r"newbyteorder\('='\)"]
    for loss, target in [(mse, X), (cross_entropy, LABELS), (cross_entropy, SOFT)]:
        refuses(TypeError, ["^pred has", *message], loss, swapped(X), target, out=sink())
        refuses(TypeError, ["^target has", *message], loss, X, swapped(target), out=sink())
        weight = swapped(X if loss is mse else X[0])
        message_weight = ["^weight has", *message]
        refuses(TypeError, message_weight, loss, X, target, weight=weight, out=sink())
        refuses(TypeError, "out is >?<?f8, but", loss, X, target, out=swapped(sink()))


def test_masked_arrays():
    for loss, target in [(mse, X), (cross_entropy, LABELS), (cross_entropy, SOFT)]:
        refuses(TypeError, "^pred is a masked array", loss, masked(X), target, out=sink())
        refuses(TypeError, "^target is a masked array", loss, X, masked(target), out=sink())
        weight = masked(X if loss is mse else X[0])
        message = "^weight is a masked array"
        refuses(TypeError, message, loss, X, target, weight=weight, out=sink())


def test_out_is_not_a_masked_array():
    for loss, target in [(mse, X), (cross_entropy, LABELS)]:
        refuses(TypeError, "^out is a masked array", loss, X, target, out=masked(sink()))


def test_bool_labels():
    message = ["^target must hold integer labels or soft targets", "bool"]
    refuses(TypeError, message, cross_entropy, X, LABELS > 0, out=sink())
    refuses(TypeError, message, cross_entropy, X, SOFT > 0, out=sink())


# ---- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "other"),
    [((3, 1), (3,)), ((3,), (3, 1)), ((3,), (1,)), ((), (1,)), ((2, 3), (3, 2)), ((0, 3), (3, 0))],
)
def test_nothing_is_broadcast(shape, other):
    pred, wrong = np.ones(shape), np.ones(other)
    seen = [re.escape(f"shape {other}"), re.escape(f"pred has {shape}"), "broadcast"]
    refuses(ValueError, ["^target has", *seen], mse, pred, wrong, out=sink(shape))
    message = ["^weight has", *seen]
    refuses(ValueError, message, mse, pred, pred, weight=wrong, out=sink(shape))
    if shape and shape[0]:
        message = ["^soft target has", *seen]
        refuses(ValueError, message, cross_entropy, pred, wrong, out=sink(shape))


@pytest.mark.parametrize(
    ("shape", "wanted", "given"),
    [((4, 3), (4,), (3,)), ((4, 3), (4,), (4, 1)), ((4, 3), (4,), (4, 3)), ((4, 3), (4,), ()),
     ((3,), (), (3,)), ((3,), (), (1,)), ((2, 3, 4), (2, 4), (2, 3)), ((2, 3, 4), (2, 4), (8,)),
     ((2, 3, 4, 5), (2, 4, 5), (2, 5, 4)), ((0, 3), (0,), (1,))],
)  # fmt: skip
def test_shape_of_labels(shape, wanted, given):
    message = [f"shape {wanted} for pred of shape {shape}, got {given}", "one-hot"]
    message = [re.escape(part) for part in message]
    labels = np.zeros(given, int)
    refuses(ValueError, message, cross_entropy, np.ones(shape), labels, out=sink(shape))


@pytest.mark.parametrize("shape", [(2,), (4,), (1,), (), (1, 3), (4, 3), (0,)])
def test_shape_of_class_weight(shape):
    message = re.escape(f"one entry per class (3,), got {shape}")
    for target in (LABELS, SOFT):
        refuses(ValueError, message, cross_entropy, X, target, weight=np.ones(shape), out=sink())


def test_no_class_axis():
    refuses(ValueError, "class axis", cross_entropy, np.array(1.0), 0)
    for shape in [(0,), (4, 0), (4, 0, 2)]:
        labels = np.zeros(shape[:1] * (len(shape) > 1) + shape[2:], int)
        message = re.escape(f"no classes: shape {shape}")
        refuses(ValueError, message, cross_entropy, np.ones(shape), labels)


# ---- out -------------------------------------------------------------------------------------

CALLS = [(mse, X, X / 2), (cross_entropy, X, LABELS), (cross_entropy, X, SOFT)]


@pytest.mark.parametrize(("loss", "pred", "target"), CALLS)
def test_out_that_does_not_fit(loss, pred, target):
    for wrong in ([0.0], 0.0, "out", memoryview(sink())):
        message = f"^out must be an array, got {type(wrong).__name__}"
        refuses(TypeError, message, loss, pred, target, out=wrong)
    for shape in [(3, 4), (4,), (12,), (1, 4, 3), (4, 3, 1), (), (5, 3)]:
        message = re.escape(f"out has shape {shape}, pred has (4, 3)")
        refuses(ValueError, message, loss, pred, target, out=sink(shape))
    for dtype in [np.float32, np.float16, *WIDER, np.int64, complex, object]:
        message = [f"out is {np.dtype(dtype)},", "float64"]
        refuses(TypeError, message, loss, pred, target, out=sink(dtype=dtype))
        if dtype is not np.float32:
            narrow = pred.astype(np.float32)
            message = [f"out is {np.dtype(dtype)},", "float32"]
            refuses(TypeError, message, loss, narrow, target, out=sink(dtype=dtype))
    frozen = sink()
    frozen.flags.writeable = False
    refuses(ValueError, "^out is read-only", loss, pred, target, out=frozen)


@pytest.mark.parametrize(("loss", "pred", "target"), CALLS)
def test_out_that_overlaps_itself(loss, pred, target):
    memory = sink((20,))
    for strides in [(0, 8), (8, 8), (16, 8), (24, 0), (12, 40), (-8, 8)]:
        data = memory[8:]
        out = np.lib.stride_tricks.as_strided(data, (4, 3), strides, writeable=True)
        refuses(ValueError, "^out overlaps itself", loss, pred, target, out=out)
    assert (memory == GUARD).all()


@pytest.mark.parametrize("loss", [mse, cross_entropy])
def test_out_that_meets_pred_partly(loss):
    memory = np.linspace(-1, 1, 200)
    pred = memory[12:24].reshape(4, 3)
    target = np.full((4, 3), 0.5) if loss is mse else LABELS
    partly = [
        memory[13:25].reshape(4, 3),
        memory[:24].reshape(4, 6)[:, ::2],
        memory[12:24].reshape(3, 4).T,
        memory[12:24].reshape(4, 3)[::-1],
        memory[12:24].reshape(4, 3)[:, ::-1],
        memory[23:35].reshape(4, 3),
        memory[12:60].reshape(4, 12)[:, :3],
        memory.view(np.uint8)[100:196].view(np.float64).reshape(4, 3),
    ]
    for out in partly:
        refuses(ValueError, "^out overlaps pred", loss, pred, target, out=out)
    beside = [memory[24:36].reshape(4, 3), memory[:12].reshape(4, 3)]
    for out in beside:
        loss(pred, target, out=out)
    both = memory[60:84].reshape(4, 6)  # interleaved, no byte in common
    loss(both[:, ::2], target, out=both[:, 1::2])


def test_out_that_meets_target_or_weight():
    memory = np.linspace(0, 1, 40)
    place, shifted = memory[:12].reshape(4, 3), memory[1:13].reshape(4, 3)
    for out in (place, shifted):
        refuses(ValueError, "^out overlaps target", mse, X, place, out=out)
        refuses(ValueError, "^out overlaps weight", mse, X, X, weight=place, out=out)
        refuses(ValueError, "^out overlaps target", cross_entropy, X, place, out=out)
        message = "^out overlaps weight"
        refuses(ValueError, message, cross_entropy, X, LABELS, weight=place[0], out=out)
    labels = memory.view(np.int64)[:4]
    labels[:] = LABELS
    refuses(ValueError, "^out overlaps target", cross_entropy, X, labels, out=place)
    same = X.copy()
    refuses(ValueError, "^out overlaps target", mse, same, same, out=same)
    refuses(ValueError, "^out overlaps weight", mse, same, X, weight=same, out=same)


# ---- labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_label_out_of_range(dtype):
    for position, label in [(0, 3), (2, 3), (3, 100)]:
        labels = LABELS.astype(dtype)
        labels[position] = label
        message = rf"^target\[{position}\] is {label}, but labels must be in \[0, 3\)"
        for options in [{}, {"weight": np.ones(3)}, {"reduction": "none"}, {"ignore_index": 1}]:
            refuses(ValueError, message, cross_entropy, X, labels, out=sink(), **options)


def test_first_wrong_label_is_named():
    pred = np.ones((2, 3, 4, 5))
    labels = np.zeros((2, 4, 5), int)
    labels[1, 2, 3] = labels[1, 3, 0] = -7
    for stored in (labels, np.asfortranarray(labels), labels[:, ::-1].copy()[:, ::-1]):
        message = re.escape("target[1, 2, 3] is -7, but labels must be in [0, 3)")
        refuses(ValueError, message, cross_entropy, pred, stored, out=sink(pred.shape))
    refuses(ValueError, r"^target is 3, but", cross_entropy, np.ones(3), 3, out=sink((3,)))
    refuses(ValueError, r"^target is -1, but", cross_entropy, np.ones(3), -1, out=sink((3,)))


def test_only_the_ignored_label_may_be_out_of_range():
    for label, ignore in [(-1, -100), (-100, -1), (3, -1), (-2, 1)]:
        labels = np.array([0, label, 1, 2])
        message = [rf"target\[1\] is {label}", rf"ignore_index={ignore}$"]
        refuses(ValueError, message, cross_entropy, X, labels, ignore_index=ignore, out=sink())
    cross_entropy(X, np.array([0, -100, 1, 2]))
    cross_entropy(X, np.array([0, -1, 1, 2]), ignore_index=-1)


@pytest.mark.parametrize("label", [2**63 - 1, 2**63, 2**64 - 100, 2**64 - 1, 2**32])
def test_huge_labels(label):
    """uint64 labels do not wrap round to small or negative numbers."""
    labels = LABELS.astype(np.uint64)
    labels[1] = label
    message = rf"^target\[1\] is {label},"
    for ignore in (-100, -1, 0):
        refuses(ValueError, message, cross_entropy, X, labels, ignore_index=ignore, out=sink())
    if label > 2**63 - 1:
        ignore = {"ignore_index": 2**63 - 1}
        refuses(ValueError, message, cross_entropy, X, labels, out=sink(), **ignore)


# ---- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [mse, cross_entropy])
def test_reduction(loss):
    for wrong in ("average", "", "Mean"):
        message = f"^reduction must be one of 'mean', 'sum', 'none', got {wrong!r}"
        refuses(ValueError, message, loss, X, LABELS, reduction=wrong, out=sink())
    for wrong in (None, True, 1, b"mean", ["mean"]):
        refuses(TypeError, "^reduction must be one of", loss, X, LABELS, reduction=wrong)


@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["labels", "soft"])
def test_label_smoothing(target):
    for wrong in (-0.1, 1.0001, 2, np.nan, np.inf, -np.inf, np.float32(-1)):
        message = "^label_smoothing must be"
        refuses(ValueError, message, cross_entropy, X, target, label_smoothing=wrong, out=sink())
    for wrong in (True, np.True_, None, "0.1", 0.1j, [0.1], np.array([0.1, 0.2])):
        message = "^label_smoothing must be a number"
        refuses(TypeError, message, cross_entropy, X, target, label_smoothing=wrong, out=sink())


def test_ignore_index():
    for wrong in (1.0, None, "1", True, np.True_, np.float64(1), [1]):
        message = "^ignore_index must be an int, got"
        refuses(TypeError, message, cross_entropy, X, LABELS, ignore_index=wrong, out=sink())
    for ignore in (0, 1, -1, 2**40):
        message = [f"^ignore_index={ignore} needs integer labels", "float64"]
        refuses(ValueError, message, cross_entropy, X, SOFT, ignore_index=ignore, out=sink())
    cross_entropy(X, SOFT, ignore_index=-100)
    cross_entropy(X, LABELS, ignore_index=np.int8(1))


@pytest.mark.parametrize("ignore", [2**63, 2**64, -(2**63) - 1])
def test_ignore_index_beyond_int64(ignore):
    message = f"^ignore_index.*{ignore}"
    refuses(ValueError, message, cross_entropy, X, LABELS, ignore_index=ignore, out=sink())


def test_options_are_keywords_and_known():
    with pytest.raises(TypeError):
        mse(X, X, "mean")
    with pytest.raises(TypeError):
        mse(X, X, label_smoothing=0.1)
    with pytest.raises(TypeError):
        cross_entropy(X, LABELS, size_average=True)
