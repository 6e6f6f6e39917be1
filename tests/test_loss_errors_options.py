"""Errors of the losses' options; nothing is written."""

import itertools
import re

import numpy as np
import pytest
from losses_refusals import (
    CLASSWISE,
    EVERY,
    LABELS,
    REGIONS,
    SOFT,
    P,
    X,
    every,
    id_of,
    refuses,
    sink,
)

from instep import losses
from instep.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    dice,
    focal,
    huber,
    kl_div,
    mse,
    poisson_nll,
    quantile,
    smooth_l1,
    tversky,
)

both = pytest.mark.parametrize("loss", CLASSWISE, ids=id_of)
regions = pytest.mark.parametrize("loss", REGIONS, ids=id_of)
NO_NUMBERS = [True, np.True_, None, "0.1", 0.1j, [0.1], np.array([0.1, 0.2])]
NOT_FINITE = [np.nan, np.inf, -np.inf, np.float32("nan")]


@every
def test_reduction(loss, target):
    names = "'mean', 'sum', 'none'" + (", 'batchmean'" if loss is kl_div else "")
    for wrong in ("average", "", "Mean", *(["batchmean"] if loss is not kl_div else [])):
        message = f"^reduction must be one of {names}, got {wrong!r}"
        refuses(ValueError, message, loss, P, target, reduction=wrong, out=sink())
    for wrong in (None, True, 1, b"mean", ["mean"]):
        message = f"^reduction must be one of {names}, got "
        refuses(TypeError, message, loss, P, target, reduction=wrong, out=sink())


def test_reduction_may_be_any_string():
    """A subclass of str, as an enumeration or NumPy gives it, is that string."""
    for (loss, target), name in itertools.product(EVERY, ("mean", "sum", "none")):
        found, plain = loss(P, target, reduction=np.str_(name)), loss(P, target, reduction=name)
        np.testing.assert_array_equal(found.value, plain.value)
        np.testing.assert_array_equal(found.grad, plain.grad)


# ---- numbers ---------------------------------------------------------------------------------

# (loss, option, values that are refused, what is said)
NUMBERS = [
    (huber, "delta", [0, 0.0, -1, -1e-300], "must be greater than 0"),
    (smooth_l1, "beta", [-1, -1e-300], "must be at least 0"),
    (quantile, "q", [0, 1, -0.1, 1.5], "must be greater than 0 and less than 1"),
    (poisson_nll, "eps", [0, -1e-8], "must be greater than 0"),
    (focal, "gamma", [-1, -1e-9], "must be at least 0"),
    (focal, "alpha", [-0.1, 1.0001, 2], r"must be in \[0, 1\]"),
    (binary_cross_entropy_with_logits, "label_smoothing", [-0.1, 1.0001], r"must be in \[0, 1\]"),
    (cross_entropy, "label_smoothing", [-0.1, 1.0001, 2, np.float32(-1)], r"must be in \[0, 1\]"),
    *((loss, "smooth", [-1, -1e-9], "must be at least 0") for loss in REGIONS),
    (tversky, "alpha", [-1, -1e-9], "must be at least 0"),
    (tversky, "beta", [-1, -1e-9], "must be at least 0"),
]


@pytest.mark.parametrize(("loss", "name", "wrong", "message"), NUMBERS, ids=id_of)
def test_numbers(loss, name, wrong, message):
    for value in wrong:
        said = f"^{name} {message}, got {re.escape(repr(value))}"
        refuses(ValueError, said, loss, P, SOFT, out=sink(), **{name: value})
    for value in NOT_FINITE:
        said = f"^{name} must be finite, got"
        refuses(ValueError, said, loss, P, SOFT, out=sink(), **{name: value})
    for value in NO_NUMBERS:
        if name == "alpha" and value is None:
            continue
        refuses(TypeError, f"^{name} must be a number", loss, P, SOFT, out=sink(), **{name: value})
    huge = 10**400
    refuses(ValueError, f"^{name} must be finite", loss, P, SOFT, out=sink(), **{name: huge})


def test_no_schedules_here():
    """The options of a loss are numbers: messages do not offer more."""
    for loss, name, *_ in NUMBERS:
        with pytest.raises(TypeError) as caught:
            loss(P, SOFT, **{name: "1"})
        assert "schedule" not in str(caught.value)


@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["labels", "soft"])
@both
def test_label_smoothing(loss, target):
    for wrong in (-0.1, 1.0001, 2, np.nan, np.inf, -np.inf, np.float32(-1)):
        message = "^label_smoothing must be"
        refuses(ValueError, message, loss, P, target, label_smoothing=wrong, out=sink())
    for wrong in NO_NUMBERS:
        message = "^label_smoothing must be a number"
        refuses(TypeError, message, loss, P, target, label_smoothing=wrong, out=sink())


def test_lone_pos_weight():
    loss = binary_cross_entropy_with_logits
    for wrong in (True, np.True_, "2", 2j, np.array("2"), np.array(True), {"a": 1}):
        refuses(TypeError, "^pos_weight must be a number", loss, X, SOFT, pos_weight=wrong)
    for wrong in (np.nan, np.inf, np.array(np.inf)):
        refuses(ValueError, "^pos_weight must be finite", loss, X, SOFT, pos_weight=wrong)
    for value in (2, 2.0, np.float32(2), np.array(2), np.array(2.0)):
        assert loss(X, SOFT, pos_weight=value).value == loss(X, SOFT, pos_weight=2.0).value


@pytest.mark.parametrize(
    ("loss", "name"),
    [(poisson_nll, "log_input"), (poisson_nll, "full"), (kl_div, "log_target"),
     *((loss, "from_logits") for loss in REGIONS)],
    ids=id_of,
)  # fmt: skip
def test_flags(loss, name):
    for wrong in (0, 1, None, "True", 1.0, np.array(True)):
        message = f"^{name} must be True or False, got"
        refuses(TypeError, message, loss, P, SOFT, out=sink(), **{name: wrong})
    for value in (True, False, np.True_):
        loss(P, SOFT, **{name: value})


# ---- integers and axes -----------------------------------------------------------------------


@both
def test_ignore_index(loss):
    for wrong in (1.0, None, "1", True, np.True_, np.float64(1), [1]):
        message = "^ignore_index must be an int, got"
        refuses(TypeError, message, loss, P, LABELS, ignore_index=wrong, out=sink())
    for ignore in (0, 1, -1, 2**40):
        message = [f"^ignore_index={ignore} needs integer labels", "float64"]
        refuses(ValueError, message, loss, P, SOFT, ignore_index=ignore, out=sink())
    loss(P, SOFT, ignore_index=-100)
    loss(P, LABELS, ignore_index=np.int8(1))


@pytest.mark.parametrize("ignore", [2**63, 2**64, -(2**63) - 1])
def test_ignore_index_beyond_int64(ignore):
    message = f"^ignore_index must fit into 64 bits, got {ignore}"
    for loss in CLASSWISE:
        refuses(ValueError, message, loss, P, LABELS, ignore_index=ignore, out=sink())
    for loss in REGIONS:
        refuses(ValueError, message, loss, P, SOFT, ignore_index=ignore, out=sink())


@regions
def test_ignore_index_of_regions(loss):
    for wrong in (1.0, "1", True, np.True_, np.float64(1), [1]):
        message = "^ignore_index must be an int, got"
        refuses(TypeError, message, loss, P, SOFT, ignore_index=wrong, out=sink())
    loss(P, SOFT, ignore_index=np.int8(1))


@regions
def test_axis(loss):
    for wrong in (1.0, "0", (0, 1.0), (None,), [[0]], {"a": 1}):
        message = "^axis must be an int or a tuple of ints, got"
        refuses(TypeError, message, loss, P, SOFT, axis=wrong, out=sink())
    for wrong, named in [(2, 2), (-3, -3), ((0, 5), 5), ([-4], -4)]:
        message = f"^axis has {named}, but pred has 2 axes"
        refuses(ValueError, message, loss, P, SOFT, axis=wrong, out=sink())
    for wrong in [(0, 0), (1, -1), [0, 1, -2]]:
        message = re.escape(f"axis names an axis twice: {wrong!r}")
        refuses(ValueError, message, loss, P, SOFT, axis=wrong, out=sink())
    refuses(ValueError, "^axis has 0, but pred has 0 axes", loss, np.array(0.5), 1.0, axis=0)
    for fine in (np.int64(1), [0], (), (0, -1)):
        loss(P, SOFT, axis=fine)


# ---- names -----------------------------------------------------------------------------------


@every
def test_options_are_keywords_and_known(loss, target):
    with pytest.raises(TypeError):
        loss(P, target, "mean")
    with pytest.raises(TypeError):
        loss(P, target, size_average=True)


def test_no_loss_takes_an_option_of_another():
    with pytest.raises(TypeError):
        mse(X, X, label_smoothing=0.1)
    with pytest.raises(TypeError):
        dice(P, SOFT, alpha=0.5)
    with pytest.raises(TypeError):
        losses.iou(P, SOFT, label_smoothing=0.1)


def test_weights_are_validated_also_where_nothing_counts():
    """An empty input does not hide a wrong argument."""
    empty = np.zeros((0, 3))
    with pytest.raises(ValueError, match="weight"):
        mse(empty, empty, weight=np.ones(3))
    with pytest.raises(ValueError, match="weight"):
        dice(empty, empty, weight=np.ones(2))
    with pytest.raises(ValueError, match="out"):
        dice(empty, empty, out=np.zeros((0, 4)))
