"""Hypothesis drives shapes, strides, dtypes and options of every family of losses."""

import numpy as np
from conftest import LAYOUTS, Guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_common import (
    ALL_DTYPES,
    CASES,
    CLASS_LOSSES,
    FLOATS,
    INTEGERS,
    REDUCTIONS,
    REGIONS,
    all_of,
    assert_same,
    check,
    class_problem,
    region_problem,
)
from numpy.testing import assert_array_equal

from instep import losses

layouts = st.sampled_from(list(LAYOUTS))
seeds = st.integers(0, 2**32 - 1)
preds = st.sampled_from(ALL_DTYPES)
stored = st.sampled_from(FLOATS)
reductions = st.sampled_from(REDUCTIONS)
shares = st.sampled_from([0.0, 0.125, 0.9, 1.0])
shapes = st.lists(st.integers(0, 9), max_size=4)


class Storage:
    """Arrays in guarded memory, each in a layout of its own."""

    def __init__(self, data):
        self.data, self.guarded = data, Guarded()

    def array(self, values, dtype=None):
        return self.guarded.array(values, dtype, layout=self.data.draw(layouts))

    def maybe(self, values, dtype=None):
        return self.array(values, dtype) if self.data.draw(st.booleans()) else None

    def compare_out(self, loss, pred, target, plain, **options):
        """The bits of the call without `out`, in place or elsewhere; the bytes beside them stay."""
        elsewhere = self.array(np.zeros(pred.shape), pred.dtype)
        out = pred if self.data.draw(st.booleans()) else elsewhere
        found = loss(pred, target, out=out, **options)
        assert found.grad is out
        assert_same(found, plain)
        self.guarded.check()


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(CASES), shapes, preds, seeds)
def test_elements(data, case, shape, dtype, seed):
    rng, storage = np.random.default_rng(seed), Storage(data)
    if not shape and callable(case.options.get("pos_weight")):
        shape = [1]
    pred, target, options = case.problem(rng, tuple(shape), dtype)
    pred, target = storage.array(pred), storage.array(target, data.draw(stored))
    if case.loss is losses.binary_cross_entropy_with_logits and data.draw(st.booleans()):
        options["label_smoothing"] = data.draw(st.floats(0.05, 1.0))
    if case.loss is losses.quantile:
        options["q"] = data.draw(st.floats(0.01, 0.99))
    if case.loss in (losses.huber, losses.smooth_l1):
        option = "delta" if case.loss is losses.huber else "beta"
        options[option] = data.draw(st.floats(1e-3, 1e3))
    options["weight"] = storage.maybe(rng.uniform(0.1, 2.0, pred.shape), data.draw(stored))
    options["reduction"] = data.draw(st.sampled_from(all_of(case.loss)))
    terms = 2 * max(pred.size, 1) if options["reduction"] == "sum" else 2
    bounds = {"atol": 2 * max(case.unit, 1e-3), "value_atol": case.value_unit * terms}
    plain = check(case.loss, pred, target, **bounds, **options)
    storage.compare_out(case.loss, pred, target, plain, **options)


@settings(max_examples=200, deadline=None)
@given(st.data(), shapes, st.sampled_from(ALL_DTYPES[:2]), reductions, seeds)
def test_mse(data, shape, dtype, reduction, seed):
    """To the full tolerance: nothing cancels."""
    rng, storage = np.random.default_rng(seed), Storage(data)
    pred = storage.array(rng.normal(size=shape), dtype)
    target = storage.array(rng.normal(size=shape), data.draw(stored))
    weight = storage.maybe(np.abs(rng.normal(size=shape)), data.draw(stored))
    options = {"reduction": reduction, "weight": weight}
    plain = check(losses.mse, pred, target, **options)
    storage.compare_out(losses.mse, pred, target, plain, **options)


@settings(max_examples=400, deadline=None)
@given(
    st.data(),
    st.sampled_from(CLASS_LOSSES),
    st.integers(1, 80),
    st.lists(st.integers(0, 5), max_size=3),
    preds,
    seeds,
)
def test_classes(data, loss, classes, rows, dtype, seed):
    rng, storage = np.random.default_rng(seed), Storage(data)
    shape = (*rows[:1], classes, *rows[1:])
    pred, labels, soft, weight = class_problem(loss, rng, shape, dtype)
    weight = storage.maybe(weight, data.draw(stored))
    options = {
        "reduction": data.draw(reductions),
        "label_smoothing": data.draw(shares),
        # Longer types are rounded to the type of computation: give what that holds.
        "weight": weight,
    }
    if data.draw(st.booleans()):
        target = storage.array(soft, data.draw(stored))
    else:
        target = storage.array(labels, data.draw(st.sampled_from(INTEGERS)))
        options["ignore_index"] = data.draw(st.integers(-2, classes))
    pred = storage.array(pred)
    plain = check(loss, pred, target, atol=4 * classes, **options)
    storage.compare_out(loss, pred, target, plain, **options)


def size_of_terms(pred, target, options):
    """What may cancel in a gradient of a region: multiples of 1 / D, of the smallest D."""
    p, t = pred.astype(np.float64), target.astype(np.float64)
    p = 1 / (1 + np.exp(-p)) if options["from_logits"] else p
    kept = np.ones(p.shape, bool) if options["mask"] is None else options["mask"]
    kept = kept & (t != options["ignore_index"])
    axis = options["axis"]
    axis = tuple(range(min(1, max(p.ndim - 1, 0)), p.ndim)) if axis is None else axis
    divisors = np.sum(np.where(kept, p + t, 0), axis=axis) + options["smooth"]
    weight = options["weight"]
    weight = np.ones(divisors.shape) if weight is None else weight.astype(np.float64)
    scale = np.sum(weight) if options["reduction"] == "mean" else 1.0
    smallest = np.min(divisors[divisors > 0], initial=1e300)
    return 4 * np.max(weight, initial=0.0) / (smallest * (scale or 1.0))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(REGIONS), shapes, preds, seeds, st.booleans())
def test_regions(data, case, shape, dtype, seed, from_logits):
    rng, storage = np.random.default_rng(seed), Storage(data)
    ignore = data.draw(st.sampled_from([None, 255, -100, 0, 1]))
    pred, target = region_problem(
        rng, tuple(shape), dtype, from_logits=from_logits, ignore_index=ignore
    )
    axes = st.sets(st.integers(-len(shape), len(shape) - 1), max_size=3) if shape else st.just(())
    axis = data.draw(st.one_of(st.none(), axes.map(tuple)))
    if axis is not None and len({k % len(shape) for k in axis}) < len(axis):
        axis = None
    options = {
        "axis": axis,
        "ignore_index": ignore,
        "from_logits": from_logits,
        "reduction": data.draw(reductions),
        "mask": storage.maybe(rng.uniform(size=shape) < 0.7),
        **case.options,
    }
    scores = case.loss(pred, target, **{**options, "reduction": "none"}).value.shape
    options["weight"] = storage.maybe(rng.uniform(0.1, 2.0, scores), data.draw(stored))
    pred, target = storage.array(pred), storage.array(target)
    bounds = {"atol": size_of_terms(pred, target, options), "value_atol": 10.0}
    plain = check(case.loss, pred, target, **bounds, **options)
    storage.compare_out(case.loss, pred, target, plain, **options)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(CASES), st.integers(1, 3000), seeds, st.integers(1, 4), preds)
def test_a_part_of_an_array_is_as_the_part_alone(case, size, seed, step, dtype):
    """Each element's result depends on that element only, wherever it stands in a tile."""
    rng = np.random.default_rng(seed)
    pred, target, options = case.problem(rng, (size,), dtype)
    if np.ndim(options.get("pos_weight")):
        options["pos_weight"] = 1.5
    options["reduction"] = "none"
    whole = case.loss(pred, target, **options)
    start = int(rng.integers(0, size))
    part = case.loss(pred[start::step], target[start::step], **options)
    assert_array_equal(part.value, whole.value[start::step])
    assert_array_equal(part.grad, whole.grad[start::step])
