"""Values of schedules: the twin, by hand, the ends, bounds; hypothesis drives the fields."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules_common import SCHEDULES, twin

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
    PolynomialDecay,
    Sequence,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)


@pytest.fixture(params=SCHEDULES, ids=repr)
def schedule(request):
    return request.param


def test_twin(schedule):
    """Far beyond the end of all but the longest. Zeros are exact; else half a cosine cancels."""
    steps = [*range(70), 250, 999, 1000, 1001, 2099, 2100, 5000]
    wanted = np.array([twin(schedule)(t) for t in steps])
    found = schedule(np.array(steps))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=2e-16 * scale)
    assert np.array_equal(found == 0, wanted == 0)


# ---- by hand ---------------------------------------------------------------------------------


def test_constant():
    assert [Constant(0.25)(t) for t in (0, 1, 10**30)] == [0.25] * 3


def test_cosine_by_hand():
    schedule = CosineAnnealing(0.8, 4)
    quarter = math.sqrt(0.5)
    expected = [0.8, 0.4 * (1 + quarter), 0.4, 0.4 * (1 - quarter), 0.0, 0.0]
    np.testing.assert_allclose([schedule(t) for t in range(6)], expected, rtol=1e-14, atol=1e-300)
    lifted = CosineAnnealing(0.9, 4, min_lr=0.1)
    np.testing.assert_allclose(
        [lifted(t) - 0.1 for t in range(6)], expected, rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize("lr", [0.3, 3e-3, 0.1, -1.0])
@pytest.mark.parametrize("min_lr", [0.0, 1e-5, 0.07])
@pytest.mark.parametrize("total_steps", [1, 2, 7, 1000])
def test_cosine_ends_are_exact(lr, min_lr, total_steps):
    schedule = CosineAnnealing(lr, total_steps, min_lr)
    assert schedule(0) == lr
    assert schedule(total_steps - 1) != min_lr
    for after_the_end in (0, 1, total_steps, 10**30):
        assert schedule(total_steps + after_the_end) == min_lr


def test_cosine_falls_at_every_step():
    values = CosineAnnealing(3e-3, 1000, min_lr=1e-5)(np.arange(1001))
    assert (np.diff(values) < 0).all()


def test_cosine_takes_extreme_values():
    assert CosineAnnealing(1e308, 2, min_lr=-1e308)(1) == 0.0
    assert CosineAnnealing(1.0, 10**400)(10**399) == pytest.approx(
        0.5 + 0.5 * math.cos(0.1 * math.pi)
    )


def test_warmup_by_hand():
    schedule = Warmup(CosineAnnealing(0.8, 4), 4)
    np.testing.assert_allclose([schedule(t) for t in range(4)], [0.2, 0.4, 0.6, 0.8], rtol=1e-15)
    assert [schedule(4 + t) for t in range(6)] == [CosineAnnealing(0.8, 4)(t) for t in range(6)]


@pytest.mark.parametrize("steps", [1, 3, 10, 49, 1000])
@pytest.mark.parametrize("lr", [0.1, 3e-3, 0.7])
def test_warmup_ends_are_exact(lr, steps):
    schedule = Warmup(CosineAnnealing(lr, 50), steps)
    assert schedule(0) == pytest.approx(lr / steps, rel=1e-15)
    assert schedule(steps - 1) == lr
    assert schedule(steps) == lr
    assert schedule(steps + 1) == CosineAnnealing(lr, 50)(1) < lr


def test_warmup_of_no_steps_is_what_follows(schedule):
    assert [Warmup(schedule, 0)(t) for t in range(5)] == [schedule(t) for t in range(5)]


def test_warmup_takes_a_number():
    assert Warmup(0.5, 2) == Warmup(Constant(0.5), 2)
    assert Warmup(0.5, 2).after == Constant(0.5)


def test_values_are_python_floats(schedule):
    for t in (0, 1, 5, 10_000):
        assert type(schedule(t)) is float


def test_steps_by_hand():
    assert (
        StepDecay(0.5, 3, gamma=0.5)(np.arange(8)).tolist() == [0.5] * 3 + [0.25] * 3 + [0.125] * 2
    )
    assert StepDecay(0.5, 3).gamma == MultiStepDecay(0.5, [1]).gamma == 0.1
    found = MultiStepDecay(0.5, [2, 3, 6], gamma=0.5)(np.arange(8)).tolist()
    assert found == [0.5, 0.5, 0.25, 0.125, 0.125, 0.125, 0.0625, 0.0625]
    assert ExponentialDecay(0.5, 0.5)(np.arange(4)).tolist() == [0.5, 0.25, 0.125, 0.0625]


def test_lines_and_powers_by_hand():
    assert LinearDecay(1.0, 4)(np.arange(6)).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert LinearDecay(0.0, 4, end=1.0)(np.arange(6)).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    found = PolynomialDecay(2.0, 4, power=2, end=1.0)(np.arange(6)).tolist()
    assert found == [2.0, 1.5625, 1.25, 1.0625, 1.0, 1.0]
    assert PolynomialDecay(0.7, 9, end=0.1)(np.arange(12)).tolist() == (
        LinearDecay(0.7, 9, end=0.1)(np.arange(12)).tolist()
    )


@pytest.mark.parametrize("period", [1, 2, 7])
@pytest.mark.parametrize("mult", [1, 2, 3, 10])
def test_restarts_are_exactly_where_they_belong(period, mult):
    """10 ** n is where a logarithm rounds down to n - 1."""
    schedule = CosineRestarts(0.3, period, mult, min_lr=0.01)
    start, length = 0, period
    for _ in range(9):
        assert schedule(start) == 0.3
        last = 0.01 + 0.29 * (0.5 + 0.5 * math.cos(math.pi * (length - 1) / length))
        assert schedule(start + length - 1) == pytest.approx(last, rel=1e-12)
        start, length = start + length, length * mult
    assert schedule(10**30) <= 0.3


def test_one_cycle_by_hand():
    schedule = OneCycle(0.5, 21, pct_start=1 / 3, div_factor=5, final_div_factor=2)
    assert schedule(0) == pytest.approx(0.1, rel=1e-15)
    assert schedule(3) == pytest.approx(0.3, rel=1e-15)  # half way up: peak = 6
    assert schedule(6) == 0.5
    assert schedule(13) == pytest.approx(0.275, rel=1e-15)  # half way down to 0.05
    for t in (20, 21, 10**30):
        assert schedule(t) == 0.05
    assert schedule(19) > 0.05
    values = OneCycle(0.3, 1000)(np.arange(1000))
    assert values.argmax() == 299 and values[299] == 0.3
    assert values[0] == pytest.approx(0.3 / 25) and values[999] == pytest.approx(0.3 / 25e4)


def test_inverse_sqrt_by_hand():
    schedule = InverseSqrt(0.5, 4)
    assert [schedule(t) for t in (0, 1, 2, 3, 15, 63)] == [0.125, 0.25, 0.375, 0.5, 0.25, 0.125]
    width, steps = 512, 4000
    paper = [width**-0.5 * min(n**-0.5, n * steps**-1.5) for n in range(1, 10_000)]
    ours = InverseSqrt((width * steps) ** -0.5, steps)(np.arange(9_999))
    np.testing.assert_allclose(ours, paper, rtol=1e-14)


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay_ends(shape):
    schedule = WarmupStableDecay(0.7, 3, 5, 4, shape)
    assert schedule(0) == pytest.approx(0.7 / 3, rel=1e-15)
    assert [schedule(t) for t in range(2, 9)] == [0.7] * 7  # u = 0 at t = 8
    assert 0 < schedule(11) < schedule(10) < schedule(9) < 0.7
    assert [schedule(t) for t in (12, 13, 10**30)] == [0.0] * 3
    if shape != "1-sqrt":
        decay = {"linear": LinearDecay, "cosine": CosineAnnealing}[shape](0.7, 4)
        same = Warmup(Sequence([0.7, decay], [5]), 3)
        np.testing.assert_allclose([schedule(t) - same(t) for t in range(20)], 0, atol=1e-16)
    else:
        assert schedule(9) == pytest.approx(0.35, rel=1e-15)


def test_sequence_by_hand():
    schedule = Sequence([Constant(1), LinearDecay(4, 4), 7], [2, 5])
    assert schedule(np.arange(8)).tolist() == [1, 1, 4, 3, 2, 7, 7, 7]
    nested = Sequence([schedule, Constant(9)], [3])
    assert nested(np.arange(5)).tolist() == [1, 1, 4, 9, 9]


def test_interpolate_by_hand():
    schedule = Interpolate([(2, 1.0), (6, 3.0), (7, 0.0)])
    assert schedule(np.arange(10)).tolist() == [1, 1, 1, 1.5, 2, 2.5, 3, 0, 0, 0]
    assert Interpolate([(5, 0.25)])(np.array([0, 5, 9])).tolist() == [0.25] * 3
    values = [0.1, 0.7, 0.3, 1e-5]
    exact = Interpolate([(7 * k, value) for k, value in enumerate(values)])
    assert [exact(7 * k) for k in range(4)] == values


def test_steps_beyond_floats():
    """Lengths and steps are ints, however long."""
    far = 10**400
    for schedule in SCHEDULES:
        assert math.isfinite(schedule(far))
    assert StepDecay(0.3, 5, gamma=1)(far) == ExponentialDecay(0.3, 1)(far) == 0.3
    assert ExponentialDecay(0.3, 0.999)(far) == ExponentialDecay(0.3, 1e-300)(3) == 0
    assert LinearDecay(1.0, far)(far // 4) == 0.75
    assert PolynomialDecay(1.0, far, power=2)(far // 2) == 0.25
    assert InverseSqrt(1.0, far)(far // 4) == 0.25
    assert Interpolate([(0, 1.0), (far, 0.0)])(far // 4) == 0.75


# ---- bounds and direction --------------------------------------------------------------------

rates = st.floats(0, 1e3)
lengths = st.integers(1, 400)
factors = st.floats(0, 1, exclude_min=True)
falling = st.one_of(
    st.builds(StepDecay, rates, lengths, factors),
    st.builds(MultiStepDecay, rates, st.sets(lengths, max_size=5).map(sorted).map(tuple), factors),
    st.builds(ExponentialDecay, rates, factors),
    st.builds(LinearDecay, rates, lengths),
    st.builds(PolynomialDecay, rates, lengths, st.floats(0.1, 5)),
    st.builds(CosineAnnealing, rates, lengths),
    st.builds(InverseSqrt, rates, st.just(1)),
    st.builds(
        WarmupStableDecay,
        rates,
        st.just(0),
        st.integers(0, 100),
        lengths,
        st.sampled_from(["linear", "cosine", "1-sqrt"]),
    ),
)


@given(falling, st.integers(0, 500))
@SETTINGS
def test_what_decays_never_rises(schedule, step):
    values = schedule(np.arange(step, step + 30))
    # One rounding of the lowest float, two of any other.
    assert (np.diff(values) <= 4e-16 * schedule.lr).all()
    assert (values >= 0).all() and (values <= schedule.lr).all()


@given(falling, st.integers(1, 50))
@SETTINGS
def test_a_warmup_rises_by_equal_steps(schedule, steps):
    values = Warmup(schedule, steps)(np.arange(steps + 1))
    assert values[-1] == values[-2] == schedule(0)
    np.testing.assert_allclose(np.diff(values[:-1]), schedule(0) / steps, rtol=1e-12, atol=1e-320)


bounded = st.one_of(
    st.tuples(st.builds(LinearDecay, rates, lengths, rates), st.just(("lr", "end"))),
    st.tuples(
        st.builds(PolynomialDecay, rates, lengths, st.floats(0.1, 5), rates),
        st.just(("lr", "end")),
    ),
    st.tuples(st.builds(CosineAnnealing, rates, lengths, rates), st.just(("lr", "min_lr"))),
    st.tuples(
        st.builds(CosineRestarts, rates, lengths, st.integers(1, 4), rates),
        st.just(("lr", "min_lr")),
    ),
)


@given(bounded, st.integers(0, 2000))
@SETTINGS
def test_between_its_ends(case, step):
    schedule, names = case
    ends = [getattr(schedule, name) for name in names]
    assert min(ends) * (1 - 4e-16) <= schedule(step) <= max(ends) * (1 + 4e-16)


@given(
    rates,
    st.integers(1, 300),
    st.floats(0, 0.99),
    st.floats(1, 100),
    st.floats(1, 1e5),
    st.integers(0, 400),
)
@SETTINGS
def test_one_cycle_goes_up_once(max_lr, total_steps, pct_start, div, final_div, step):
    schedule = OneCycle(max_lr, total_steps, pct_start, div, final_div)
    slack = 4e-16 * max_lr
    peak = pct_start * total_steps - 1
    change = schedule(step + 1) - schedule(step)
    assert -slack <= schedule(step) <= max_lr + slack
    if step + 1 <= peak:
        assert change >= -slack
    elif step >= peak:
        assert change <= slack


points = st.lists(
    st.tuples(st.integers(0, 500), st.floats(-1e3, 1e3)),
    min_size=1,
    max_size=8,
    unique_by=lambda point: point[0],
).map(sorted)


@given(points, st.integers(0, 600))
@SETTINGS
def test_interpolation_stays_between_neighbours(pairs, step):
    value = Interpolate(pairs)(step)
    near = [pairs[0], *pairs, pairs[-1]]
    for (start, low), (end, high) in itertools.pairwise(near):
        if start <= step <= end:
            bounds = sorted((low, high))
            slack = 4e-16 * max(abs(low), abs(high))
            assert bounds[0] - slack <= value <= bounds[1] + slack
    if step in dict(pairs):
        assert value == dict(pairs)[step]
