"""Gradients against fourth-order differences of the values, in float64, for every option."""

import itertools

import numpy as np
import pytest
import reference
from losses_common import (
    CASES,
    CLASS_LOSSES,
    REGIONS,
    all_of,
    class_problem,
    name_of,
    region_problem,
)
from numpy.testing import assert_allclose

# Differences look this far; a kink must not lie within.
REACH = 2e-3


def away_from_kinks(case, pred, target):
    """Predictions moved off the points where the slope jumps or bends."""
    name, options = case.loss.__name__, case.options
    kinks = {"huber": options.get("delta"), "smooth_l1": options.get("beta")}
    for kink in {0.0, kinks.get(name) or 0.0, -(kinks.get(name) or 0.0)}:
        near = np.abs(pred - target - kink) < 2 * REACH
        pred = np.where(near, pred + 5 * REACH, pred)
    margin = np.abs(1 - target * pred) < 2 * REACH
    return np.where(margin, pred + 5 * REACH, pred) if name == "hinge" else pred


def assert_is_gradient(loss, pred, target, **options):
    numeric = reference.numerical_gradient(lambda x: np.sum(loss(x, target, **options).value), pred)
    found = loss(pred, target, **options).grad
    assert pred.size == 1 or np.abs(numeric).max() > 1e-4, "nothing to see"
    assert_allclose(found, numeric, atol=1e-6, rtol=1e-6)
    twin = reference.LOSSES[loss.__name__](pred, target, **options)[1]
    assert_allclose(twin, numeric, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_elements(case, weighted, rng):
    for shape in [(4, 5), (), (3, 1, 2)]:
        shape = shape or ((1,) if callable(case.options.get("pos_weight")) else ())
        pred, target, options = case.problem(rng, shape, np.float64)
        pred = away_from_kinks(case, pred, target)
        weight = rng.uniform(0.5, 2.0, pred.shape) if weighted else None
        for reduction in all_of(case.loss):
            given = {"weight": weight, "reduction": reduction, **options}
            assert_is_gradient(case.loss, pred, target, **given)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 4, 2)])
@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=name_of)
def test_classes(loss, shape, smoothing, weighted, rng):
    pred, labels, soft, weight = class_problem(loss, rng, shape, np.float64)
    pred = pred / 3 if loss.__name__ == "cross_entropy" else 0.5 * pred + 0.3
    for reduction in all_of(loss):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        options["weight"] = weight if weighted else None
        ignored = int((np.ravel(labels)[0] + (labels.size == 1)) % 3)
        for target, ignore in [(labels, -100), (labels, ignored), (soft, -100)]:
            if np.any(target != ignore):
                assert_is_gradient(loss, pred, target, ignore_index=ignore, **options)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("case", REGIONS, ids=name_of)
def test_regions(case, from_logits, rng):
    for axis, weight in [(None, (2,)), ((0, 2), (3,)), (2, (3,)), ((0, 1, 2), None), ((), None)]:
        for ignore in (None, 255):
            pred, target = region_problem(
                rng, (2, 3, 4), np.float64, from_logits=from_logits, ignore_index=ignore
            )
            pred = pred if from_logits else 0.8 * pred + 0.1
            mask = rng.uniform(size=pred.shape) < 0.7
            weight_array = None if weight is None else rng.uniform(0.5, 2.0, weight)
            for reduction, given in itertools.product(all_of(case.loss), [None, mask]):
                options = {"axis": axis, "from_logits": from_logits, "reduction": reduction}
                options |= {"mask": given, "ignore_index": ignore, **case.options}
                if axis == () and options["smooth"] < 0.3:
                    continue  # one element of target 0 scores 1 whatever is predicted
                assert_is_gradient(case.loss, pred, target, weight=weight_array, **options)
