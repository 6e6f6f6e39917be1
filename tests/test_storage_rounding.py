"""Stochastic rounding: unbiased, independent, and what it must never do.

All tests of chance look at a normal number z and allow |z| < 7: a false alarm has a probability of
2.6e-12 each, below 1e-9 for all of them. Seeds are fixed, so a test that passes goes on passing."""

import numpy as np
import pytest
import reference_storage as twin
from storage_common import ROUNDED, assert_same_codes, codes_of, rounded_once

import instep
from instep import _core

N = 1 << 18
MOST = 7.0


def gaussian(seed, size=N):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


class Rounding:
    """What became of some values: how far down they had to be rounded, as a share of the step to
    the next code (`up` is its probability to go there), and where they went."""

    def __init__(self, opt, state, values, name="param"):
        codes, scales = codes_of(opt, name, state)
        x = values.astype(np.float64)
        if scales is None:
            bits = values.view(np.uint32).astype(np.int64)
            self.up, self.went, self.code = bits % 65536 / 65536, codes - (bits >> 16), bits >> 23
            self.used = np.ones(x.shape, bool)
            return
        y = x / np.repeat(scales.astype(np.float64), twin.BLOCK)[: x.size]
        if state == "exp_avg":
            self.code = np.floor(y)
            self.up = y - self.code
            largest = np.abs(codes) == 127
        else:
            self.code = np.floor(np.sqrt(y))
            self.up = (y - self.code**2) / (2 * self.code + 1)
            largest = (codes == 255) | (self.code == 0)  # what is below 1 goes to 1
        self.went = codes - self.code
        self.used = ~largest

    def excess(self):
        """Of each element, with mean 0 and variance 1 if it was rounded without bias."""
        spread = np.sqrt(self.up * (1 - self.up))
        sure = spread < 1e-3  # 1 in 10^6 roundings: not normal
        return np.where(sure | ~self.used, 0, (self.went - self.up) / np.where(sure, 1, spread))


def z_of(numbers):
    """Sum over its standard deviation."""
    return np.sum(numbers) / np.sqrt(np.count_nonzero(numbers))


def excesses(state_dtype, seed=0, steps=1, values=None):
    """Of m and v = m^2 after that many steps of Adam without memory."""
    x = gaussian(1) if values is None else values
    opt = rounded_once(x, state_dtype, seed)
    for _ in range(steps - 1):
        opt.step(x)
    return [
        Rounding(opt, state, values).excess()
        for state, values in (("exp_avg", x), ("exp_avg_sq", x * x))
    ]


# ---- without bias ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_unbiased(state_dtype, state):
    """Over all elements, for each code, and for each tenth of the way to the next."""
    x = gaussian(2)
    values = x if state == "exp_avg" else x * x
    found = Rounding(rounded_once(x, state_dtype), state, values)
    excess = found.excess()
    assert np.mean(excess != 0) > 0.9 and set(np.unique(found.went[found.used])) <= {0, 1}
    assert abs(z_of(excess)) < MOST
    for label in (found.code, np.floor(10 * found.up)):
        for which in np.unique(label):
            part = excess[(label == which) & (excess != 0)]
            assert part.size < 100 or abs(z_of(part)) < MOST, which


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_unbiased_over_seeds(state_dtype):
    """The same few elements with 2,000 seeds."""
    x = gaussian(3, 128)
    total = [np.zeros(128), np.zeros(128)]
    for seed in range(2000):
        for k, excess in enumerate(excesses(state_dtype, seed, values=x)):
            total[k] += excess
    for sums in total:
        assert np.max(np.abs(sums)) / np.sqrt(2000) < MOST
        assert abs(z_of(sums / np.sqrt(2000))) < MOST


def test_the_sum_of_many_small_gradients_arrives():
    """A momentum that adds 1/50 of a step of its format a thousand times: nearest rounding would
    stay where it began."""
    n = 1 << 15
    param, gradient = np.zeros(n, np.float32), np.full(n, 0.02, np.float32)
    gradient[::128] = 0.0
    for state_dtype, step in (("bfloat16", 1.0), ("8bit", 1.0)):
        opt = instep.SGD(param, lr=0.0, momentum=1.0, state_dtype=state_dtype)
        first = np.full(n, 128.0 if state_dtype == "bfloat16" else 50.0, np.float32)
        first[::128] = 127.0 if state_dtype == "8bit" else 128.0  # the scale of each block
        opt.step(first)
        for _ in range(1000):
            opt.step(gradient)
        found = opt.decoded_state("param")["momentum_buffer"].astype(np.float64)
        moved = (found - first)[np.arange(n) % 128 != 0]
        spread = np.sqrt(1000 * 0.02 * 0.98) * step / np.sqrt(moved.size)
        assert abs(moved.mean() - 20.0) < MOST * spread


# ---- independent -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [0, 1], ids=["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_neighbours_are_independent(state_dtype, state):
    excess = excesses(state_dtype)[state]
    for lag in [*range(1, 34), 63, 64, 127, 128, 129, 511, 512, 1024, 4096, 16384, 32768]:
        assert abs(z_of(excess[lag:] * excess[:-lag])) < MOST, lag


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_states_steps_and_seeds_are_independent(state_dtype):
    first = excesses(state_dtype)
    second = excesses(state_dtype, steps=2)
    other = excesses(state_dtype, seed=1)
    far = excesses(state_dtype, seed=2**64 - 1)
    sets = [*first, *second, *other, *far]
    for i, one in enumerate(sets):
        for two in sets[:i]:
            assert abs(z_of(one * two)) < MOST
            assert abs(z_of(one[1:] * two[:-1])) < MOST


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_leaves_are_independent(state_dtype):
    x = gaussian(1)
    params = [np.zeros(N, np.float32) for _ in range(3)]
    opt = instep.Adam(params, lr=0.0, betas=(0.0, 0.0), state_dtype=state_dtype)
    opt.step([x] * 3)
    found = [Rounding(opt, "exp_avg", x, str(k)).excess() for k in range(3)]
    for i in range(3):
        assert abs(z_of(found[i] * found[i - 1])) < MOST
        assert abs(z_of(found[i][1:] * found[i - 1][:-1])) < MOST


@pytest.mark.parametrize("stream", range(4))
def test_the_bits_are_uniform(stream):
    """The twin's, which the steps use bit for bit: each byte of them, over many steps."""
    bits = np.concatenate([twin.random_bits(5, step, 2, 20000, stream) for step in range(50)])
    for byte in (bits & 255, bits >> 8):
        counts = np.bincount(byte, minlength=256)
        wanted = bits.size / 256
        chi = np.sum((counts - wanted) ** 2 / wanted)
        assert abs(chi - 255) / np.sqrt(2 * 255) < MOST


# ---- what must never happen ------------------------------------------------------------------


def test_a_second_moment_above_zero_never_becomes_zero():
    """Its root is divided by: a step of 10^8 times the learning rate would follow."""
    x = np.full(N, 1e-6, np.float32)
    x[::3] = 0.0
    x[1::64] = 1.0
    opt = rounded_once(x, "8bit")
    codes, _ = codes_of(opt, "param", "exp_avg_sq")
    np.testing.assert_array_equal(codes == 0, x == 0)
    assert set(np.unique(codes)) == {0, 1, 255}


@pytest.mark.parametrize("largest, least", [(1e10, 1e-17), (1e18, 1e-22), (1e18, 1e-15)])
def test_nor_where_the_share_of_the_largest_underflows(largest, least, isa):
    x = np.full(300, least, np.float32)
    x[::3] = 0.0
    x[1::64] = largest
    codes, scales = codes_of(rounded_once(x, "8bit"), "param", "exp_avg_sq")
    r = twin.random_bits(0, 0, 0, 300, 1)
    assert_same_codes((codes, scales), twin.encode("exp_avg_sq", x * x, "8bit", r))
    np.testing.assert_array_equal(codes == 0, x == 0)
    nearest = np.empty(300, np.uint8)
    _core.encode_state(x * x, nearest, np.empty(3, np.float32))
    np.testing.assert_array_equal(nearest, codes)


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_the_maximum_of_amsgrad_does_not_climb(state_dtype):
    """Under a steady gradient it stays where it was; with random bits it would go up and never
    down."""
    x = gaussian(4, 5000)
    param = np.zeros(5000, np.float32)
    opt = instep.Adam(param, lr=0.0, betas=(0.0, 0.0), amsgrad=True, state_dtype=state_dtype)
    opt.step(x)
    first = codes_of(opt, "param", "max_exp_avg_sq")[0].copy()
    for _ in range(300):
        opt.step(x)
    np.testing.assert_array_equal(codes_of(opt, "param", "max_exp_avg_sq")[0], first)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_what_is_not_finite_shows(state_dtype, value):
    """In bfloat16 it stays alone; in 8 bits it takes its block of 128 along, and nothing else."""
    param = np.zeros(1000, np.float32)
    gradient = gaussian(5, 1000)
    opt = instep.Adam(param, lr=1e-3, state_dtype=state_dtype)
    opt.step(gradient)
    gradient[300] = value
    opt.step(gradient)
    assert np.flatnonzero(~np.isfinite(param)).tolist() == [300]
    states = opt.decoded_state("param")
    hit = range(256, 384) if state_dtype == "8bit" else [300]
    for name in ("exp_avg", "exp_avg_sq"):
        assert np.flatnonzero(~np.isfinite(states[name])).tolist() == list(hit)
        assert state_dtype == "bfloat16" or np.isnan(states[name][256:384]).all()
    gradient[300] = 0.0
    opt.step(gradient)
    assert np.flatnonzero(~np.isfinite(param)).tolist() == list(hit)


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_a_second_moment_that_overflows_shows(state_dtype):
    param = np.zeros(300, np.float32)
    opt = instep.RMSprop(param, lr=1e-3, state_dtype=state_dtype)
    opt.step(np.full(300, 1e25, np.float32))
    assert not np.isfinite(opt.decoded_state("param")["square_avg"]).any()


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_zeros_stay_zero(state_dtype):
    opt = rounded_once(np.zeros(500, np.float32), state_dtype)
    for name, array in opt.state["param"].items():
        assert name == "step" or not array.astype(np.float32).any(), name


@pytest.mark.parametrize("largest", [1e-45, 1e-38, 1e-30, 1e-10, 1e10, 3e37])
def test_blocks_of_any_size(largest):
    """Also where everything is subnormal: then rounding goes by multiples of 2^-100/127."""
    x = gaussian(6, 1 << 14)
    x = (x / np.max(np.abs(x)) * largest).astype(np.float32)
    opt = instep.SGD(np.zeros(x.size, np.float32), lr=0.0, momentum=0.5, state_dtype="8bit")
    opt.step(x)
    found = opt.decoded_state("param")["momentum_buffer"].astype(np.float64)
    step = max(largest, 2.0**-100) / 127
    assert np.max(np.abs(found - x)) <= step * 1.0001
    assert np.isfinite(found).all()
