"""Losses of regions: against the twin, over sizes, axes, masks, weights; layouts; hard points."""

import itertools

import numpy as np
import pytest
from conftest import LAYOUTS, SIZES
from losses_common import (
    ALL_DTYPES,
    FLOATS,
    INTEGERS,
    REDUCTIONS,
    REGION_LOSSES,
    REGIONS,
    assert_same,
    assert_zero,
    check,
    name_of,
    region_problem,
)
from numpy.testing import assert_allclose, assert_array_equal

from instep.losses import dice, iou, tversky

all_three = pytest.mark.parametrize("loss", REGION_LOSSES, ids=name_of)


def compare(loss, pred, target, **options):
    """One call against the twin; gradients relative to the largest of them.

    A value is 1 - N / D, which cancels where the regions agree: to a tenth of the tolerance.
    """
    largest = np.max(np.abs(loss(pred, target, **options).grad), initial=1e-30).astype(np.float64)
    return check(loss, pred, target, atol=largest, value_atol=0.1, **options)


# ---- values and gradients against the twin ---------------------------------------------------


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("case", REGIONS, ids=name_of)
def test_sizes_against_twin(case, stored, from_logits, rng):
    for shape in [(), *((n,) for n in [*SIZES, 511, 513]), (3, 40), (0, 3), (3, 0)]:
        pred, target = region_problem(rng, shape, stored, from_logits=from_logits)
        for reduction in REDUCTIONS:
            options = {"from_logits": from_logits, "reduction": reduction, **case.options}
            compare(case.loss, pred, target, **options)


# The axes that are summed, and the shapes of the weights that fit.
AXES = [
    (None, [(3,)]),
    ((0, 2, 3), [(4,)]),
    ((2, 3), [(4,), (3, 4)]),
    ((-1, -2), [(4,), (3, 4)]),
    ((0, 1, 2, 3), [()]),
    (1, [(3, 5, 2)]),
    (0, [(4,), (4, 5, 2)]),
    ((3, 0), [(4,), (4, 5)]),
    ((), [(4,), (3, 4, 5, 2)]),
]


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(("axis", "weights"), AXES, ids=str)
@all_three
def test_options_against_twin(loss, axis, weights, from_logits, dtype, rng):
    """axis x mask x ignore_index x from_logits x weight x reduction."""
    shape = (3, 4, 5, 2)
    for ignore, masked in itertools.product([None, 255, -1, 0], [False, True]):
        pred, target = region_problem(
            rng, shape, dtype, from_logits=from_logits, ignore_index=ignore
        )
        mask = rng.uniform(size=shape) < 0.6 if masked else None
        for reduction, wanted in itertools.product(REDUCTIONS, [None, *weights]):
            weight = None if wanted is None else np.asarray(rng.uniform(0.1, 2.0, wanted))
            options = {"axis": axis, "mask": mask, "ignore_index": ignore, "weight": weight}
            options |= {"from_logits": from_logits, "reduction": reduction, "smooth": 0.7}
            compare(loss, pred, target, **options)


def test_shape_of_scores(dtype, rng):
    pred, target = region_problem(rng, (3, 4, 5, 2), dtype)
    for axis, shape in [(None, (3,)), ((0, 2, 3), (4,)), ((2, 3), (3, 4)), ((), (3, 4, 5, 2))]:
        for given in {axis, axis if axis is None else tuple(k - 4 for k in axis)}:
            value = dice(pred, target, axis=given, reduction="none").value
            assert value.shape == shape and value.dtype == dtype
    assert dice(pred, target, axis=(0, 1, 2, 3), reduction="none").value.shape == ()
    assert dice(pred, target, axis=[2, 3], reduction="none").value.shape == (3, 4)
    assert dice(pred[0, 0, 0], target[0, 0, 0], reduction="none").value.shape == ()


def test_weights_of_class_and_score(dtype, rng):
    """Where both shapes fit, one per score is meant; a zero weight leaves its class alone."""
    pred, target = region_problem(rng, (2, 3, 8), dtype)
    weight = np.array([1.0, 0.0, 3.0])
    for loss in REGION_LOSSES:
        options = {"axis": 2, "weight": weight}
        value, grad = compare(loss, pred, target, **options)
        assert not grad[:, 1].any() and grad[:, 0].all()
        each = loss(pred, target, axis=2, reduction="none").value
        assert_allclose(value, np.sum(each * weight) / (2 * weight.sum()), rtol=1e-6)
        whole = np.broadcast_to(weight, (2, 3)).copy()
        assert_same(loss(pred, target, axis=2, weight=whole), loss(pred, target, **options))


def test_the_three_are_one(rng):
    """Tversky of 1/2 and 1/2 is Dice with twice the smoothing, of 1 and 1 it is IoU."""
    pred, target = region_problem(rng, (4, 50), np.float64)
    one = tversky(pred, target, alpha=0.5, beta=0.5, smooth=0.75)
    other = dice(pred, target, smooth=1.5)
    assert_allclose(one.value, other.value, rtol=1e-14)
    assert_allclose(one.grad, other.grad, rtol=1e-13, atol=1e-17)
    one, other = tversky(pred, target, alpha=1, beta=1, smooth=2), iou(pred, target, smooth=2)
    assert_allclose(one.value, other.value, rtol=1e-14)
    assert_allclose(one.grad, other.grad, rtol=1e-13, atol=1e-17)


def test_alpha_weighs_false_positives_and_beta_false_negatives():
    target = np.array([1.0, 1.0, 0.0, 0.0])
    more, less = np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0])
    options = {"alpha": 2.0, "beta": 0.5, "smooth": 0.0}
    assert_allclose(tversky(more, target, **options).value, 1 - 2 / (2 + 2.0), rtol=1e-15)
    assert_allclose(tversky(less, target, **options).value, 1 - 1 / (1 + 0.5), rtol=1e-15)


# ---- storage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@all_three
def test_layouts(loss, layout, rng, guarded):
    """Guard bytes stay; out fresh, strided and in place."""
    shape = (2, 3, 7, 130)
    for stored, axis in itertools.product(ALL_DTYPES, [None, (0, 2, 3), (1, 3)]):
        pred, target = region_problem(rng, shape, stored, from_logits=True, ignore_index=9)
        mask = rng.uniform(size=shape) < 0.7
        other = rng.choice(list(LAYOUTS))
        place = guarded.array(pred, layout=layout)
        arrays = {
            "target": guarded.array(target, layout=other),
            "mask": guarded.array(mask, layout=rng.choice(list(LAYOUTS))),
        }
        options = {"axis": axis, "from_logits": True, "ignore_index": 9}
        plain = compare(loss, place, **arrays, **options)
        for name in ("C", other):
            out = guarded.empty(shape, stored, name)
            found = loss(place, **arrays, out=out, **options)
            assert found.grad is out
            assert_same(found, plain)
        found = loss(place, **arrays, out=place, **options)
        assert found.grad is place
        assert_same(found, plain)


@pytest.mark.parametrize("other", [*FLOATS, *INTEGERS, np.dtype(bool)], ids=str)
@all_three
def test_targets_masks_and_weights_of_any_dtype(loss, other, dtype, rng):
    pred = rng.uniform(0.0, 1.0, (3, 4, 50)).astype(dtype)
    target = rng.integers(0, 2, pred.shape).astype(other)
    mask = rng.integers(0, 2, pred.shape).astype(other)
    weight = np.array([1, 0, 1, 2]).astype(other)
    for options in [{}, {"mask": mask}, {"mask": mask, "ignore_index": 0}]:
        compare(loss, pred, target, weight=weight, axis=(0, 2), **options)
    plain = loss(pred, target, mask=mask != 0)
    assert_same(loss(pred, target, mask=mask), plain)
    assert_same(loss(pred, target, mask=3 * mask.astype(np.float64)), plain)


@all_three
def test_broadcast_read_only_inputs(loss, dtype, rng):
    pred, target = region_problem(rng, (4, 3, 20), dtype)
    row = np.broadcast_to(target[:1], target.shape)
    mask = np.broadcast_to(rng.uniform(size=(1, 1, 20)) < 0.5, target.shape)
    for options in [{}, {"mask": mask}, {"weight": np.broadcast_to(2.5, 4)}]:
        compare(loss, pred, row, **options)
        compare(loss, np.broadcast_to(pred[:, :1], pred.shape), target, **options)


@all_three
def test_misaligned_and_listed_weights(loss, dtype, rng):
    pred, target = region_problem(rng, (5, 9), dtype)
    weight = rng.uniform(0.5, 2.0, 5)
    raw = np.zeros(weight.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(weight.tobytes(), np.uint8)
    plain = loss(pred, target, weight=weight)
    for stored in (raw[1:].view(np.float64), weight.tolist(), np.repeat(weight, 2)[::2]):
        assert_same(loss(pred, target, weight=stored), plain)
    assert_same(loss(pred.tolist(), target.tolist()), loss(pred.astype(float), target))


# ---- hard points -----------------------------------------------------------------------------


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@all_three
def test_empty_target_and_empty_prediction(loss, smooth, from_logits, dtype):
    """Finite in every combination; with nothing there, and nothing predicted, the value is 0."""
    nothing, something = np.zeros((2, 6), dtype), np.array([[0, 1, 0, 1, 1, 0]] * 2, dtype)
    logits = {0.0: -np.inf, 1.0: 4.0} if from_logits else {0.0: 0.0, 1.0: 1.0}
    for shown, target in itertools.product([nothing, something], repeat=2):
        pred = np.vectorize(logits.get)(shown).astype(dtype)
        for reduction in REDUCTIONS:
            options = {"smooth": smooth, "from_logits": from_logits, "reduction": reduction}
            value, grad = compare(loss, pred, target, **options)
            assert np.isfinite(value).all() and np.isfinite(grad).all()
            if shown is nothing and target is nothing:
                assert not np.any(value)


@all_three
def test_a_right_prediction_costs_nothing(loss, dtype):
    target = np.array([[0, 1, 0, 1, 1, 0]] * 2, dtype)
    for smooth in (0.0, 1.0):
        value, grad = loss(target, target, smooth=smooth)
        assert value == 0.0
        assert (grad[target == 1] < 0).all() and (grad[target == 0] > 0).all()


@all_three
def test_saturated_logits(loss, dtype, rng):
    for size in (200.0, 1e4):
        pred = (size * rng.choice([-1, 1], (4, 30))).astype(dtype)
        target = rng.integers(0, 2, pred.shape)
        value, grad = compare(loss, pred, target, from_logits=True)
        plain = loss((pred > 0).astype(dtype), target)
        assert_allclose(value, plain.value, rtol=1e-12)
        assert_allclose(grad, 0.0, atol=1e-80)


@pytest.mark.parametrize("from_logits", [False, True])
@all_three
def test_nan_prediction_shows(loss, from_logits, dtype, rng):
    """In every element of its score, and nowhere else."""
    pred, target = region_problem(rng, (3, 40), dtype, from_logits=from_logits)
    pred[1, 7] = np.nan
    for reduction in REDUCTIONS:
        value, grad = loss(pred, target, from_logits=from_logits, reduction=reduction)
        assert np.isnan(value).any()
        assert np.isnan(grad[1]).all() and np.isfinite(grad[::2]).all()


@all_three
def test_what_does_not_count_is_never_looked_at(loss, dtype, rng):
    pred, target = region_problem(rng, (3, 40), dtype)
    mask = rng.uniform(size=pred.shape) < 0.6
    worse, wrong = pred.copy(), target.copy()
    worse[~mask] = np.nan
    wrong[~mask] = np.inf
    for from_logits in (False, True):
        options = {"from_logits": from_logits, "mask": mask}
        plain = loss(pred, target, **options)
        assert_same(loss(worse, wrong, **options), plain)
        assert not plain.grad[~mask].any() and plain.grad[mask].all()
        wrong[~mask] = 255
        ignoring = {"from_logits": from_logits, "ignore_index": 255}
        assert_same(loss(worse, wrong, **ignoring), plain)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@all_three
def test_nothing_counts(loss, reduction, dtype):
    """Empty, all masked or all ignored: 0, and no warning."""
    pred = np.full((3, 4), 0.5, dtype)
    for smooth in (0.0, 1.0):
        options = {"smooth": smooth, "reduction": reduction}
        for shape in [(0,), (0, 3), (3, 0), (2, 0, 3)]:
            assert_zero(loss(np.zeros(shape, dtype), np.zeros(shape), **options), shape)
        assert_zero(loss(pred, pred, mask=np.zeros((3, 4)), **options), (3, 4))
        ignored = np.full((3, 4), 7)
        assert_zero(loss(pred, ignored, ignore_index=7, **options), (3, 4))
        assert_zero(loss(pred, ignored, ignore_index=7, out=pred.copy(), **options), (3, 4))
        assert_zero(loss(pred, pred, weight=np.zeros(3), **options), (3, 4))
    weight = np.array([1.0, -3.0, 2.0])
    for bad in (0.5, np.nan):
        assert_zero(loss(np.full((3, 4), bad, dtype), pred, weight=weight), (3, 4))


@all_three
def test_none_of_nothing(loss, dtype):
    for shape, scores in [((0, 3), (0,)), ((3, 0), (3,)), ((0,), ())]:
        value = loss(np.zeros(shape, dtype), np.zeros(shape), reduction="none").value
        assert value.shape == scores and value.dtype == dtype and not value.any()


@all_three
def test_negative_and_tiny_weights(loss, dtype, rng):
    pred, target = region_problem(rng, (3, 20), dtype)
    for reduction in REDUCTIONS:
        compare(loss, pred, target, weight=np.array([2.0, -0.5, 0.0]), reduction=reduction)
    plain = loss(pred, target)
    tiny = loss(pred, target, weight=np.full(3, 1e-300))
    assert_allclose(tiny.value, plain.value, rtol=1e-12)
    assert_allclose(tiny.grad, plain.grad, rtol=1e-6)


def test_soft_targets_pull_to_the_ends():
    """t = 1/2: the minimiser is p = 1, as the formula has it, not p = t."""
    target = np.array([0.5])
    values = [dice(np.array([p]), target, smooth=0.0).value for p in (0.25, 0.5, 1.0)]
    assert_allclose(values, [2 / 3, 0.5, 1 / 3])
    assert_array_equal(iou(np.array([1.0, 0.0]), np.array([1.0, 0.0]), smooth=0).grad, [-1.0, 1.0])
