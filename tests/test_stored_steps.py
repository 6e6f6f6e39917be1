"""Steps with states in 16 and 8 bits: bit for bit a step of the same rule between exact codecs."""

import itertools

import numpy as np
import pytest
import stored_twin as twin
from conftest import ISAS, LAYOUTS, LOW, SHAPES, bits, everything, on_isa
from test_optim import ROWS

import instep
from instep import _core
from instep.optim.memory import walk_order

FORMATS = _core.states()
PLAIN = {name: row for name, row in ROWS.items() if not row.hyper.get("centered")}
GRADIENTS = [*LOW, np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.longdouble)]
# z values of independent statistics that must all lie within this: two-sided 6 sigma, so that a
# right generator fails one of 5e8.
SIGMA = 6


def flat(array, like):
    """The elements in the order of the walk through `like`."""
    order = walk_order(like)
    return np.ascontiguousarray(array.transpose(order) if order else array).reshape(-1)


def codecs(name, state_dtype):
    """encode(x, r) -> (codes, scales) and decode(codes, scales) of a state."""
    if state_dtype == "bfloat16":
        return lambda x, r: (twin.encode_bfloat16(x, r), None), twin.decode_bfloat16
    if FORMATS[name] == "SIGNED":
        return twin.encode_int8, twin.decode_int8
    return twin.encode_uint8, twin.decode_uint8


def stored(opt, leaf, name, state_dtype):
    """The codes and scales that the optimizer has, flat."""
    array = opt.state[leaf.name][name]
    codes = flat(array.view(np.uint16) if state_dtype == "bfloat16" else array, leaf.parameter)
    return codes, opt.state[leaf.name].get(f"{name}_scale")


def check_step(opt, exact, index, grads, state_dtype, seed):
    """One step of both from the same parameters and states; `exact` keeps float states."""
    leaf, plain = opt._leaves.all[index], exact._leaves.all[index]
    plain.parameter[...] = leaf.parameter
    before = opt.steps
    for name in leaf.state.keys() & FORMATS.keys():
        _, decode = codecs(name, state_dtype)
        values = decode(*stored(opt, leaf, name, state_dtype))
        flat_view(plain.state[name], leaf.parameter)[...] = values
    assert opt.step(grads) == exact.step(grads)
    assert bits(leaf.parameter) == bits(plain.parameter)
    names = [name for name in opt.state[leaf.name] if name in FORMATS]
    for stream, name in enumerate(names):
        encode, _ = codecs(name, state_dtype)
        n = plain.parameter.size
        r = twin.random_bits(n, seed, before, index, stream)
        if FORMATS[name] == "SQUARED_NEAREST":
            r = np.full(n, twin.NEAREST)
        values = flat(plain.state[name], leaf.parameter).astype(np.float32)
        wanted, found = encode(values, r), stored(opt, leaf, name, state_dtype)
        assert bits(found[0]) == bits(wanted[0])
        assert found[1] is None or bits(found[1]) == bits(wanted[1])


def flat_view(array, like):
    """As `flat`, of an array that lies in that order: to be written."""
    order = walk_order(like)
    view = (array.transpose(order) if order else array).reshape(-1)
    assert np.shares_memory(view, array) or array.size == 0
    return view


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
@pytest.mark.parametrize("name", PLAIN)
def test_every_rule_dtype_and_layout(name, state_dtype, dtype, isa, rng, guarded):
    shapes, types = itertools.cycle(SHAPES), itertools.cycle(GRADIENTS)
    for layout, other in zip(LAYOUTS, reversed(LAYOUTS), strict=True):
        start = rng.normal(size=next(shapes)).astype(dtype)
        params = [guarded.array(start, layout=layout), np.ones(2, dtype)]
        opt = PLAIN[name].make(params, state_dtype=state_dtype, seed=5)
        exact = PLAIN[name].make([p.copy(order="K") for p in params])
        given = next(types)
        for _ in range(4):
            grad = guarded.array(rng.normal(0, 1, start.shape).astype(given), layout=other)
            check_step(opt, exact, 0, [grad, None], state_dtype, seed=5)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
@pytest.mark.parametrize("name", ["nesterov", "adamw-amsgrad"])
@pytest.mark.parametrize("n", [127, 128, 129, 512, 513, 16_384, 16_385, 40_000])
def test_blocks_tiles_and_pieces(name, n, state_dtype, isa, rng):
    params = [np.ones(3, np.float32), rng.normal(size=n).astype(np.float32)]
    opt = ROWS[name].make(params, state_dtype=state_dtype, seed=2**64 - 1)
    exact = ROWS[name].make([p.copy() for p in params])
    for _ in range(3):
        scale = np.exp2(rng.integers(-20, 20, n))
        grads = [None, (rng.normal(size=n) * scale).astype(np.float32)]
        check_step(opt, exact, 1, grads, state_dtype, seed=2**64 - 1)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_around_the_update(state_dtype, rng):
    """Clipping, averages, masters, zeroing and statistics leave the states what they are."""
    start = rng.normal(size=(33, 50)).astype(LOW[-1])
    options = dict(clip_norm=1.0, clip_value=0.02, ema_decay=0.9, zero_grads=True, stats=True)
    opt = instep.AdamW(start.copy(), state_dtype=state_dtype, **options)
    exact = instep.AdamW(start.copy(), **options)
    for _ in range(5):
        grad = rng.normal(size=start.shape).astype(np.float32)
        exact_average = exact._leaves.all[0].average
        exact_average[...] = opt.ema
        leaf, plain = opt._leaves.all[0], exact._leaves.all[0]
        plain.parameter[...] = leaf.parameter
        for name in leaf.state.keys() & FORMATS.keys():
            plain.state[name][...] = opt.decoded_state("param")[name]
        assert opt.step(grad.copy()) == exact.step(grad.copy())
        assert bits(opt.master) == bits(exact.master) and bits(opt.ema) == bits(exact.ema)
        for stream, name in enumerate(("exp_avg", "exp_avg_sq")):
            encode, _ = codecs(name, state_dtype)
            r = twin.random_bits(start.size, 0, opt.steps - 1, 0, stream)
            wanted = encode(plain.state[name].reshape(-1), r)
            assert bits(stored(opt, leaf, name, state_dtype)[0]) == bits(wanted[0])


def run(state_dtype, threads=1, seed=0, n=70_000, steps=4):
    rng = np.random.default_rng(3)
    params = [rng.normal(size=n).astype(np.float32), rng.normal(size=(3, 5))]
    opt = instep.AdamW(params, amsgrad=True, state_dtype=state_dtype, threads=threads, seed=seed)
    for _ in range(steps):
        opt.step([rng.normal(size=p.shape) for p in params])
    return everything(opt, *params)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_bits_over_threads_isas_and_seeds(state_dtype):
    wanted = run(state_dtype)
    for name, threads in itertools.product(ISAS, (1, 2, 4)):
        with on_isa(name):
            assert run(state_dtype, threads) == wanted
    assert run(state_dtype, seed=1) != wanted


# ---- randomness ------------------------------------------------------------------------------


def errors(state_dtype, name, x, rounds=64):
    """What rounding adds to states, in units of the distance between their neighbours' codes:
    an SGD momentum buffer or a square_avg that is exactly x before it is stored."""
    found = []
    if name == "momentum_buffer":
        opt = instep.SGD(np.zeros_like(x), momentum=0.5, state_dtype=state_dtype)
        grad = x
    else:
        opt = instep.RMSprop(np.zeros_like(x), alpha=0.0, state_dtype=state_dtype)
        grad, x = np.sqrt(x), np.square(np.sqrt(x))
    for _ in range(rounds):
        for state in opt.state.values():
            for key in state.keys() & {name, f"{name}_scale"}:
                state[key][...] = 0
        opt.step(grad)
        found.append(opt.decoded_state("param")[name].astype(np.float64) - x)
    return np.array(found)


@pytest.mark.parametrize(
    ("state_dtype", "name"),
    [("bfloat16", "momentum_buffer"), ("8bit", "momentum_buffer"), ("8bit", "square_avg")],
)
def test_rounding_is_unbiased_and_independent(state_dtype, name):
    """z tests: the mean of the errors, and their products with those of neighbours, of the next
    step and of the next block; each fails a right generator once in 5e8.

    Scales are kept to 21 bits, which shifts all values of a block by up to 2^-21 of themselves: a
    hundred times less than what these tests see."""
    rng = np.random.default_rng(9)
    x = np.abs(rng.normal(size=16_384)).astype(np.float32) + np.float32(0.25)
    e = errors(state_dtype, name, x)
    e = e[:, e.std(axis=0) > 0]  # the largest of a block is exact
    z = e / e.std(axis=0)
    assert abs(z.mean() * np.sqrt(z.size)) < SIGMA
    pairs = [(z[:, 1:], z[:, :-1]), (z[1:], z[:-1]), (z[:, 128:], z[:, :-128])]
    for one, other in pairs:
        assert abs((one * other).mean() * np.sqrt(one.size)) < SIGMA


def test_states_leaves_and_seeds_have_bits_of_their_own():
    n = 1 << 16
    streams = [
        twin.random_bits(n, *key)
        for key in [
            (0, 0, 0, 0),
            (0, 0, 0, 1),
            (0, 0, 0, 2),
            (0, 0, 1, 0),
            (0, 1, 0, 0),
            (1, 0, 0, 0),
        ]
    ]
    for bits_ in streams:
        z = (bits_ - 32767.5) / (65536 / np.sqrt(12))
        assert abs(z.mean() * np.sqrt(n)) < SIGMA
        for bit in range(16):
            ones = (bits_ >> np.uint32(bit) & np.uint32(1)).mean()
            assert abs(ones - 0.5) * 2 * np.sqrt(n) < SIGMA
    for one, other in itertools.combinations(streams, 2):
        a, b = (one - 32767.5) / 18918.6, (other - 32767.5) / 18918.6
        assert abs((a * b).mean() * np.sqrt(n)) < SIGMA
