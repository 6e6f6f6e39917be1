"""Losses that treat each element alone: against the twin, over sizes, dtypes, options, layouts."""

import itertools

import numpy as np
import pytest
from conftest import LAYOUTS, SIZES
from losses_common import (
    ALL_DTYPES,
    CASES,
    F32,
    FLOATS,
    INTEGERS,
    REDUCTIONS,
    all_of,
    assert_array_close,
    assert_same,
    check,
    computed,
    name_of,
    per_class,
)
from numpy.testing import assert_array_equal

import instep
from instep import _core, losses
from instep.losses import binary_cross_entropy_with_logits, mse

SHAPES = [(), (3, 5), (2, 3, 4), (0, 3), (3, 0, 2), *((n,) for n in [*SIZES, 511, 512, 513])]
# One case per loss, with every option off its default.
LAST = list({case.loss.__name__: case for case in CASES}.values())


def case_shape(case, shape):
    """Per-class options need a last axis."""
    return shape if shape or case.options.get("pos_weight") is not per_class else (1,)


# ---- values and gradients against the twin ---------------------------------------------------


@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_against_twin(case, stored, rng):
    for shape in SHAPES:
        pred, target, options = case.problem(rng, case_shape(case, shape), stored)
        weight = np.asarray(rng.uniform(0.0, 2.0, pred.shape)).astype(stored)
        for reduction, chosen in itertools.product(all_of(case.loss), [None, weight]):
            if chosen is None or reduction == "none" or pred.size == 0 or np.sum(weight) > 0.1:
                case.check(pred, target, reduction=reduction, weight=chosen, **options)


@pytest.mark.parametrize("weighted", [False, True])
def test_mean_is_over_weights_or_elements(weighted, dtype, rng):
    """Which of them, loss by loss; a mean is the sum over that."""
    for case in CASES:
        pred, target, options = case.problem(rng, (4, 9), dtype)
        weight = rng.uniform(0.5, 2.0, pred.shape) if weighted else None
        by_weight = weighted and not case.loss.__name__.startswith(("binary", "focal"))
        divisor = np.sum(weight) if by_weight else pred.size
        mean = case.loss(pred, target, weight=weight, **options)
        total = case.loss(pred, target, weight=weight, reduction="sum", **options)
        each = case.loss(pred, target, weight=weight, reduction="none", **options)
        rtol = 1e-12 if dtype != F32 else 1e-6
        np.testing.assert_allclose(mean.value, total.value / divisor, rtol=rtol)
        np.testing.assert_allclose(mean.grad * divisor, total.grad, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(np.sum(each.value, dtype=float), total.value, rtol=rtol)
        assert_array_equal(each.grad, total.grad)


def test_batchmean_is_over_the_first_axis(dtype, rng):
    """It is KL's alone, and with weights too divides by the length of the batch."""
    pred, target = -rng.uniform(0.1, 3.0, (5, 4)), rng.uniform(0.1, 1.0, (5, 4))
    for weight in (None, rng.uniform(0.5, 2.0, (5, 4))):
        found = losses.kl_div(pred, target, weight=weight, reduction="batchmean")
        total = losses.kl_div(pred, target, weight=weight, reduction="sum")
        np.testing.assert_allclose(found.value, total.value / 5, rtol=1e-15)
        np.testing.assert_allclose(found.grad, total.grad / 5, rtol=1e-15)
    assert losses.kl_div(-1.0, 0.5, reduction="batchmean") == losses.kl_div(-1.0, 0.5)
    for shape in [(0,), (0, 3), (3, 0)]:
        value, grad = losses.kl_div(np.zeros(shape), np.zeros(shape), reduction="batchmean")
        assert value == 0.0 and grad.shape == shape


def test_more_than_the_partial_sums_hold():
    """Blocks grow beyond their usual size, once or more often."""
    for size in (9_000_000, 40_000_000):
        assert _core.array_sum(np.broadcast_to(0.5, size)) == size / 2
    pred = np.broadcast_to(F32.type(0.75), 9_000_000)
    value, grad = mse(pred, np.broadcast_to(F32.type(0.25), pred.shape))
    assert value == 0.25
    assert_array_equal(grad, F32.type(1.0) * F32.type(1 / pred.size))


def test_lists_and_scalars_are_arrays_of_float64():
    check(mse, [1.0, 2.0], [0, 4])
    check(mse, 2.0, 1)
    for case in LAST:
        check(case.loss, [0.5, 0.25], [1, 1])
        check(case.loss, 0.5, 1)
        check(case.loss, [0.5, 0.25], [1, 1], weight=[1, 2.5])


@pytest.mark.parametrize("value", [0.25, np.float32(0.3), np.float16(0.3), np.float64(0.3), 0, 1])
def test_options_may_be_numbers_of_any_kind(value, rng):
    """The option is the number, whatever holds it: nothing is computed in its own type."""
    pred, target = rng.uniform(0.1, 0.9, (2, 50))
    calls = [(losses.focal, "alpha"), (losses.focal, "gamma")]
    calls += [(binary_cross_entropy_with_logits, "label_smoothing")]
    calls += [(binary_cross_entropy_with_logits, "pos_weight"), (losses.smooth_l1, "beta")]
    if 0 < value < 1:
        calls += [(losses.quantile, "q"), (losses.huber, "delta")]
    for loss, name in calls:
        plain = loss(pred, target, **{name: float(value)})
        assert_same(loss(pred, target, **{name: value}), plain)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("stored", FLOATS, ids=str)
def test_pos_weight_is_broadcast(shape, stored, dtype, rng):
    pred, target = rng.normal(size=(3, 5)).astype(dtype), rng.integers(0, 2, (3, 5))
    pos_weight = np.asarray(rng.uniform(0.5, 3.0, shape)).astype(stored)
    given = pos_weight.astype(dtype)
    whole = np.broadcast_to(given, pred.shape).copy()
    found = binary_cross_entropy_with_logits(pred, target, pos_weight=pos_weight)
    assert_same(found, binary_cross_entropy_with_logits(pred, target, pos_weight=whole))
    check(binary_cross_entropy_with_logits, pred, target, atol=4, pos_weight=given)


def test_pos_weight_may_be_a_list(rng):
    pred, target = rng.normal(size=(3, 2)), rng.integers(0, 2, (3, 2))
    found = binary_cross_entropy_with_logits(pred, target, pos_weight=[1, 2.5])
    pos_weight = np.array([1.0, 2.5])
    assert_same(found, binary_cross_entropy_with_logits(pred, target, pos_weight=pos_weight))
    listed = binary_cross_entropy_with_logits(pred.tolist(), target.tolist(), pos_weight=[1, 2.5])
    assert_same(found, listed)


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
@pytest.mark.parametrize("case", LAST, ids=name_of)
def test_layouts(case, layout, rng, guarded):
    """Elements are the same bits wherever they lie; also in place, and in another layout."""
    for shape, stored in itertools.product([(), (700,), (9, 70), (3, 4, 50)], ALL_DTYPES):
        pred, target, options = case.problem(rng, case_shape(case, shape), stored)
        weight = np.asarray(rng.uniform(0.5, 2.0, pred.shape)).astype(stored)
        options |= {"reduction": "none"}
        plain = case.loss(pred, target, weight=weight, **options)
        for other in rng.choice(list(LAYOUTS), 3):
            arrays = {
                "target": guarded.array(target, layout=other),
                "weight": guarded.array(weight, layout=rng.choice(list(LAYOUTS))),
            }
            place = guarded.array(pred, layout=layout)
            assert_same(case.loss(place, **arrays, **options), plain)
            out = guarded.empty(pred.shape, stored, other)
            assert case.loss(place, **arrays, out=out, **options).grad is out
            assert_array_equal(out, plain.grad)
            value, grad = case.loss(place, **arrays, out=place, **options)
            assert grad is place
            assert_array_equal(value, plain.value)
            assert_array_equal(place, plain.grad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_out(case, reduction, dtype, rng, guarded):
    """Fresh, strided and in place: the bits of the call without `out`."""
    for shape in [(6, 4), (3, 513), (2, 530, 2)]:
        pred, target, options = case.problem(rng, shape, dtype)
        for weight in (None, rng.uniform(0.5, 2.0, shape).astype(dtype)):
            options |= {"weight": weight, "reduction": reduction}
            plain = case.loss(pred, target, **options)
            for layout in ("C", "sliced", "reversed_sliced_F", "misaligned"):
                out = guarded.empty(shape, dtype, layout)
                found = case.loss(pred, target, out=out, **options)
                assert found.grad is out
                assert_same(found, plain)
            place = pred.copy()
            found = case.loss(place, target, out=place, **options)
            assert found.grad is place
            assert_same(found, plain)


@pytest.mark.parametrize("case", LAST, ids=name_of)
def test_broadcast_read_only_inputs(case, dtype, rng):
    """One row, one column or one number in the place of an array."""
    pred, target, options = case.problem(rng, (6, 40), dtype)
    views = [lambda a: a[:1], lambda a: a[:, :1], lambda a: a[:1, :1]]
    for view in views:
        some = [np.broadcast_to(view(a), a.shape) for a in (pred, target, abs(pred) + 0.5)]
        assert not any(a.flags.writeable for a in some)
        whole = [a.copy() for a in some]
        for reduction in REDUCTIONS:
            case.check(some[0], target, reduction=reduction, **options)
            case.check(pred, some[1], reduction=reduction, **options)
            case.check(*some[:2], weight=some[2], reduction=reduction, **options)
        found = case.loss(*some[:2], weight=some[2], reduction="none", **options)
        same = case.loss(*whole[:2], weight=whole[2], reduction="none", **options)
        assert_same(found, same)


@pytest.mark.parametrize("other", FLOATS, ids=str)
@pytest.mark.parametrize("case", LAST, ids=name_of)
def test_targets_and_weights_of_other_floats(case, other, dtype, rng, guarded):
    pred, target, options = case.problem(rng, (9, 130), dtype)
    weight = rng.uniform(0.5, 2.0, pred.shape)
    for layout in LAYOUTS:
        stored = guarded.array(target, other, layout=layout)
        case.check(pred, stored, weight=guarded.array(weight, other, layout=layout), **options)
        case.check(pred, stored, weight=weight, **options)


@pytest.mark.parametrize("other", [*INTEGERS, np.dtype(bool)], ids=str)
@pytest.mark.parametrize("case", LAST, ids=name_of)
def test_integer_targets_and_weights(case, other, dtype, rng, guarded):
    pred, _, options = case.problem(rng, (7, 50), dtype)
    if case.loss is losses.hinge:
        low = 1 if other.kind in "ub" else -1
        target = rng.choice([low, 1], pred.shape)
    else:
        target = rng.integers(0, 2, pred.shape)
    weight = rng.integers(0, 100, pred.shape)
    for layout in LAYOUTS:
        stored = guarded.array(target, other, layout=layout)
        case.check(pred, stored, **options)
        case.check(pred, stored, weight=guarded.array(weight, other, layout=layout), **options)


@pytest.mark.parametrize("stored", ALL_DTYPES, ids=str)
def test_targets_keep_the_precision_of_the_computation(stored):
    """A float64 target is not rounded to 16 bits first."""
    pred, target = np.array([1.0], stored), np.array([1.0 + 2.0**-13])
    seen = target.astype(computed(stored))
    value, grad = mse(pred, target, reduction="sum")
    np.testing.assert_allclose(value, float(1 - seen[0]) ** 2, rtol=1e-6)
    assert_array_close(grad, 2 * (1.0 - seen.astype(float)), 1e-6, 0)


def test_out_may_be_another_view_of_pred(dtype):
    """Strides of axes of length 1 do not count, nor does the object's identity."""
    pred = np.ones((1, 4), dtype)
    assert_array_equal(mse(pred, pred - 1, out=pred[:]).grad, np.full((1, 4), 0.5))
    pred = np.ones((1, 4), dtype)
    assert_array_equal(mse(pred, pred - 1, out=pred[0][None]).grad, np.full((1, 4), 0.5))


def test_the_twelve_are_here():
    """Every elementwise loss of the core has cases, and its options are off their defaults."""
    names = {case.loss.__name__ for case in CASES}
    assert len(names) == 12 and names <= set(losses.__all__)
    assert all(instep.losses.__dict__[case.loss.__name__] is case.loss for case in CASES)
