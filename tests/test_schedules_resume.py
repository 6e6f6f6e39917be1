"""Every schedule in optimizers: as any hyperparameter, per group, resumed at any step."""

import math
import pickle

import numpy as np
import pytest
from conftest import copy_tree, everything, leaves
from schedules_common import SCHEDULES, has, twin

import instep
from instep.schedules import Constant, ReduceOnPlateau, Schedule

STEPS = 24


def fits(schedule):
    """May it be a learning rate for all of the test?"""
    return (schedule(np.arange(2000)) >= 0).all()


RATES = [schedule for schedule in SCHEDULES if fits(schedule)]


def problem():
    """Parameters and gradients with gaps, some to be clipped, some to be skipped."""
    rng = np.random.default_rng(7)
    params = {"w": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=5)}
    steps = []
    for t in range(STEPS):
        scale = 10.0 if t % 5 == 3 else 0.5
        grads = {"w": rng.normal(0, scale, (3, 4)), "b": rng.normal(0, scale, 5)}
        if t % 6 == 4:
            grads["w"][1, 2] = math.inf
        if t % 7 == 5:
            grads["b"] = None
        steps.append(grads)
    return params, steps


@pytest.mark.parametrize("schedule", RATES, ids=repr)
def test_resume_at_any_step(schedule):
    """From a pickled snapshot of each step, bit for bit, with clipping and skipped steps."""
    params, steps = problem()
    options = {"clip_norm": 3.0, "nonfinite": "skip", "lr": schedule}
    opt = instep.AdamW(params, **options)
    snapshots, reports = [], []
    for grads in steps:
        snapshots.append((pickle.dumps(opt.state_dict()), copy_tree(params)))
        reports.append(opt.step(grads))
    # Something was skipped and something clipped, and no skipped step moved the schedule.
    assert 0 < sum(not report.applied for report in reports) < STEPS
    assert any(report.grad_norm > 3 for report in reports)
    applied = 0
    for report in reports:
        assert report.lr == schedule(applied) == pytest.approx(twin(schedule)(applied), rel=1e-12)
        applied += report.applied
    end = everything(opt, *leaves(params))
    for t, (saved, copies) in enumerate(snapshots):
        other = instep.AdamW(copies)
        other.load_state_dict(pickle.loads(saved))
        assert [other.step(grads) for grads in steps[t:]] == reports[t:]
        assert everything(other, *leaves(copies)) == end


# name -> (class, its other options, the largest value that is allowed)
HYPERPARAMETERS = {
    "lr": (instep.SGD, {}, 1e9),
    "momentum": (instep.SGD, {"lr": 0.1}, 1.0),
    "dampening": (instep.SGD, {"lr": 0.1, "momentum": 0.5}, 1.0),
    "weight_decay": (instep.AdamW, {"lr": 0.1}, 1e9),
    "alpha": (instep.RMSprop, {"lr": 0.1}, 0.9999),
    "eps": (instep.Adam, {"lr": 0.1}, 1e9),
    "betas[0]": (instep.Adam, {"lr": 0.1}, 0.9999),
    "betas[1]": (instep.AdamW, {"lr": 0.1}, 0.9999),
    "clip_norm": (instep.SGD, {"lr": 0.1}, 1e9),
    "clip_value": (instep.SGD, {"lr": 0.1}, 1e9),
}


def options_with(name, value):
    if name.startswith("betas"):
        pair = [0.8, 0.9]
        pair[int(name[6])] = value
        return {"betas": tuple(pair)}
    return {name: value}


@pytest.mark.parametrize("name", HYPERPARAMETERS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_any_hyperparameter(schedule, name):
    """Same bits as an optimizer whose constant is changed by hand before each step."""
    cls, options, largest = HYPERPARAMETERS[name]
    values = [schedule(t) for t in range(12)]
    smallest = {"clip_value": 1e-300, "dampening": -1e9}.get(name, 0.0)
    if not all(smallest <= value <= largest for value in values):
        opt = cls(np.ones(3), **options, **options_with(name, schedule))
        with pytest.raises(ValueError, match=r"its schedule at step \d+"):
            for _ in values:
                opt.step(np.ones(3))
        return
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=9), None
    other = one.copy()
    scheduled = cls(one, **options, **options_with(name, schedule))
    # Momentum that is 0 for a while keeps its buffer if it is scheduled.
    by_hand = cls(other, **options, **options_with(name, Constant(values[0])))
    for value in values:
        if name.startswith("clip"):
            setattr(by_hand, name, value)
        else:
            by_hand.param_groups[0].update(options_with(name, Constant(value)))
        grad = rng.normal(0, 2, 9)
        assert scheduled.step(grad) == by_hand.step(grad)
    assert everything(scheduled, one) == everything(by_hand, other)


def test_every_group_has_its_own():
    """All schedules at once, one per group, in one optimizer."""
    params = [np.zeros(1) for _ in RATES]
    groups = [{"params": p, "lr": s} for p, s in zip(params, RATES, strict=True)]
    opt = instep.SGD(groups)
    expected = np.zeros(len(RATES))
    for t in range(20):
        opt.step([np.ones(1)] * len(RATES))
        expected -= [schedule(t) for schedule in RATES]
    np.testing.assert_allclose(np.concatenate(params), expected, rtol=1e-14)


def test_no_schedule_needs_a_step_method():
    for schedule in SCHEDULES:
        assert isinstance(schedule, Schedule) and not hasattr(schedule, "step")
    assert any(has(schedule, ReduceOnPlateau) for schedule in RATES)
