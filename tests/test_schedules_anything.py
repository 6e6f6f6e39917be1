"""Hypothesis builds schedules of schedules; each is a value that pickles and that JSON keeps."""

import copy
import json
import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules_common import twin

from instep import schedules
from instep.schedules import (
    Constant,
    CosineAnnealing,
    CosineRestarts,
    ExponentialDecay,
    Interpolate,
    InverseSqrt,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    PerEpoch,
    PolynomialDecay,
    Product,
    ReduceOnPlateau,
    Schedule,
    Sequence,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)

rates = st.floats(-10, 10, allow_subnormal=False)
# Every number that a user may have at hand; each becomes a Python one.
numbers = st.one_of(rates, st.integers(-9, 9), rates.map(np.float64), st.just(np.float32(0.1)))
lengths = st.one_of(st.integers(1, 60), st.integers(1, 60).map(np.int64))
starts = st.sets(st.integers(1, 60), max_size=4).map(sorted)
gammas = st.floats(0.01, 1)
simple = st.one_of(
    st.builds(Constant, numbers),
    st.builds(StepDecay, numbers, lengths, gammas),
    st.builds(MultiStepDecay, numbers, starts, gammas),
    st.builds(ExponentialDecay, numbers, gammas),
    st.builds(LinearDecay, numbers, lengths, numbers),
    st.builds(PolynomialDecay, numbers, lengths, st.floats(0.1, 4), numbers),
    st.builds(CosineAnnealing, numbers, lengths, numbers),
    st.builds(CosineRestarts, numbers, lengths, st.integers(1, 4), numbers),
    st.builds(
        OneCycle, numbers, lengths, st.floats(0, 0.99), st.floats(0.1, 99), st.floats(0.1, 1e5)
    ),
    st.builds(InverseSqrt, numbers, lengths),
    st.builds(
        WarmupStableDecay,
        numbers,
        st.integers(0, 20),
        st.integers(0, 20),
        lengths,
        st.sampled_from(["linear", "cosine", "1-sqrt"]),
    ),
    st.builds(
        lambda points: Interpolate(sorted(points.items())),
        st.dictionaries(st.integers(0, 60), numbers, min_size=1, max_size=5),
    ),
    st.builds(
        ReduceOnPlateau,
        st.floats(0.1, 10),
        st.sampled_from(["min", "max"]),
        st.floats(0, 0.9),
        st.integers(0, 20),
        min_lr=st.floats(0, 0.1),
    ),
)


def joined(parts):
    return st.lists(parts, min_size=1, max_size=4).flatmap(
        lambda inner: st.sets(
            st.integers(1, 60), min_size=len(inner) - 1, max_size=len(inner) - 1
        ).map(lambda boundaries: Sequence(inner, sorted(boundaries)))
    )


def composed(parts):
    return st.one_of(
        st.builds(Warmup, parts, st.integers(0, 20)),
        st.builds(Product, numbers, parts),
        st.builds(Product, parts, parts),
        st.builds(PerEpoch, parts, st.integers(1, 9)),
        joined(parts),
    )


anything = st.recursive(simple, composed, max_leaves=5)


@given(anything, st.integers(0, 400))
@SETTINGS
def test_anything(schedule, start):
    steps = np.arange(start, start + 5)
    values = schedule(steps)
    assert values.dtype == np.float64 and np.isfinite(values).all()
    assert values.tolist() == [schedule(int(t)) for t in steps]
    wanted = np.array([twin(schedule)(int(t)) for t in steps], np.float64)
    scale = np.abs([twin(schedule)(t) for t in range(0, 450, 3)]).max()
    np.testing.assert_allclose(values, wanted, rtol=1e-10, atol=1e-13 * max(scale, 1))
    copies = [
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        Schedule.from_dict(json.loads(json.dumps(schedule.to_dict(), allow_nan=False))),
        eval(repr(schedule), dict(vars(schedules))),
    ]
    for other in copies:
        assert other == schedule and hash(other) == hash(schedule) and type(other) is type(schedule)
        assert other(steps).tolist() == values.tolist()
    # Beyond all ends of schedules that end, the value no longer changes.
    if isinstance(schedule, CosineAnnealing | LinearDecay | PolynomialDecay | OneCycle):
        assert schedule(10**6) == schedule(10**9) == schedule(61)
