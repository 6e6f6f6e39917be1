"""The rules of ReduceOnPlateau; for PyTorch's see test_schedules_peers.py."""

import json
import math
import pickle

import numpy as np
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from instep import schedules
from instep.schedules import ReduceOnPlateau, Schedule

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


def plateau_of(lr=0.5, **options):
    return ReduceOnPlateau(lr, **{"factor": 0.5, "patience": 1, **options})


# ---- rules -----------------------------------------------------------------------------------


def test_by_hand():
    plateau = plateau_of(cooldown=2)
    assert plateau.state == (0.5, None, 0, 0)
    expected = [
        (3.0, (0.5, 3.0, 0, 0)),
        (3.0, (0.5, 3.0, 1, 0)),  # no better
        (2.0, (0.5, 2.0, 0, 0)),
        (math.nan, (0.5, 2.0, 1, 0)),
        (1.9999, (0.25, 2.0, 0, 2)),  # not better by 1e-4: the second bad one
        (9.0, (0.25, 2.0, 0, 1)),
        (1.0, (0.25, 1.0, 0, 0)),  # the last of the cooldown
        (9.0, (0.25, 1.0, 1, 0)),
        (np.float32(9.0), (0.125, 1.0, 0, 2)),
    ]
    for metric, state in expected:
        assert plateau.observe(metric) == state[0]
        assert plateau.state == state
        assert type(plateau.state.lr) is float and type(plateau.state.best) is float
        assert plateau(0) == plateau(10**9) == state[0]
        assert plateau(np.arange(6).reshape(2, 3)).tolist() == [[state[0]] * 3] * 2


def test_it_stops_at_min_lr_and_at_steps_of_eps():
    plateau = plateau_of(0.5, patience=0, min_lr=0.2)
    assert [plateau.observe(1.0) for _ in range(4)] == [0.5, 0.25, 0.2, 0.2]
    plateau = plateau_of(0.5, patience=0, eps=0.125)
    assert [plateau.observe(1.0) for _ in range(4)] == [0.5, 0.25, 0.25, 0.25]


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.0, 1.5, 40.0, math.inf, -math.inf, math.nan])),
    st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["min", "max"]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
        },
        optional={
            "factor": st.sampled_from([0.0, 0.3, 0.9]),
            "patience": st.integers(0, 3),
            "threshold": st.sampled_from([0.0, 0.05, 0.6]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0.0, 0.05]),
            "eps": st.sampled_from([0.0, 0.02]),
        },
    ),
)
@SETTINGS
def test_twin(metrics, options):
    plateau = ReduceOnPlateau(0.25, **options)
    assert [plateau.observe(m) for m in metrics] == reference.reduce_on_plateau(
        metrics, lr=0.25, **options
    )


@given(
    st.lists(st.floats(width=32)),
    st.integers(0, 30),
    st.sampled_from(["min", "max"]),
)
@SETTINGS
def test_it_goes_on_from_json_and_pickle(metrics, stop, mode):
    plateau = plateau_of(mode=mode, cooldown=1)
    for metric in metrics[:stop]:
        plateau.observe(metric)
    others = [
        Schedule.from_dict(json.loads(json.dumps(plateau.to_dict(), allow_nan=False))),
        through_pickle(plateau),
        eval(repr(plateau), {**vars(schedules), "inf": math.inf}),
    ]
    rest = [plateau.observe(metric) for metric in metrics[stop:]]
    for other in others:
        assert [other.observe(metric) for metric in metrics[stop:]] == rest
        assert other.state == plateau.state and other == plateau


def test_equality_is_of_parameters():
    one, other = plateau_of(), plateau_of()
    one.observe(1.0)
    assert one == other and hash(one) == hash(other) and one.state != other.state
    assert one != plateau_of(patience=2)
