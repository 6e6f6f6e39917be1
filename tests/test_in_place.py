"""bfloat16 parameters without a master: computed in float32, rounded at random in every step."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from conftest import ISAS, LAYOUTS, LOW, SHAPES, bits, everything, on_isa
from test_optim import ROWS

import instep

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
GRADIENTS = [*LOW, np.dtype(np.float32), np.dtype(np.float64)]


def neighbours(values):
    """The bfloat16 next to each float32 towards zero, and the one away from it."""
    pattern = np.asarray(values, np.float32).view(np.uint32)
    lower = pattern & np.uint32(0xFFFF0000)
    upper = np.where(pattern == lower, lower, lower + np.uint32(0x10000))
    return lower.view(np.float32), upper.view(np.float32)


def assert_neighbours(param, exact):
    found = param.astype(np.float32)
    lower, upper = neighbours(exact)
    assert ((found == lower) | (found == upper)).all()


@pytest.mark.parametrize("name", ROWS)
def test_every_step_is_a_float32_step_rounded(name, isa, rng, guarded):
    """States have the bits of a float32 optimizer that goes on from the same parameter."""
    shapes, types = itertools.cycle(SHAPES), itertools.cycle(GRADIENTS)
    for layout, other in zip(LAYOUTS, reversed(LAYOUTS), strict=True):
        start = rng.normal(size=next(shapes)).astype(BFLOAT16)
        param = guarded.array(start, layout=layout)
        plain = guarded.array(start.astype(np.float32), layout=layout)
        opt, exact = ROWS[name].make(param, master=False), ROWS[name].make(plain)
        given = next(types)
        for _ in range(6):
            grad = guarded.array(rng.normal(1, 0.5, start.shape).astype(given), layout=other)
            plain[...] = param
            assert opt.step(grad) == exact.step(grad)
            assert_neighbours(param, plain)
            for state, wanted in zip(opt.state.values(), exact.state.values(), strict=True):
                assert {k: bits(v) for k, v in state.items()} == {
                    k: bits(v) for k, v in wanted.items()
                }


def test_small_steps_arrive_on_average():
    """100 steps of 1e-3 from 1.0, where rounding to nearest would stay at 1.0.

    Each element ends at 0.9 plus an error with a standard deviation below sqrt(100) / 2 units of
    2^-8; the mean of 65,536 lies within 6 standard errors but for one run in 5e8."""
    n = 65_536
    param = np.ones(n, BFLOAT16)
    opt = instep.SGD(param, lr=1e-3, master=False)
    for _ in range(100):
        opt.step(np.ones(n, np.float32))
    error = param.astype(np.float64).mean() - 0.9
    assert abs(error) < 6 * (5 * 2**-8) / np.sqrt(n)


def test_rounding_is_unbiased():
    """A parameter of 1 + x 2^-7 for many x: rounded up as often as x says, within 6 deviations."""
    n, steps = 4096, 256
    shares = (np.arange(n) + 0.5) / n
    ups = np.zeros(n)
    param = np.ones(n, BFLOAT16)
    opt = instep.SGD(param, lr=1.0, master=False)
    for _ in range(steps):
        param[...] = 1
        opt.step((-shares * 2**-7).astype(np.float32))
        ups += param.astype(np.float32) > 1
    deviations = (ups - steps * shares) / np.sqrt(steps * shares * (1 - shares) + 1e-9)
    assert abs(deviations.sum() / np.sqrt(n)) < 6
    assert abs(np.mean(deviations**2) - 1) < 6 * np.sqrt(2.5 / n)


def run(steps=5, threads=1, n=70_000, seed=0, **options):
    rng = np.random.default_rng(3)
    params = [rng.normal(size=n).astype(BFLOAT16), rng.normal(size=(3, 5)).astype(BFLOAT16)]
    opt = instep.AdamW(params, master=False, threads=threads, seed=seed, **options)
    for _ in range(steps):
        opt.step([rng.normal(size=p.shape).astype(np.float32) for p in params])
    return everything(opt, *params)


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "8bit"])
def test_bits_depend_on_seed_alone(state_dtype):
    wanted = run(state_dtype=state_dtype)
    for name, threads in itertools.product(ISAS, (1, 2, 4)):
        with on_isa(name):
            assert run(threads=threads, state_dtype=state_dtype) == wanted
    assert run(state_dtype=state_dtype, seed=1) != wanted


@pytest.mark.parametrize("through", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), None])
def test_resume_is_bit_exact(through, rng):
    grads = [rng.normal(size=300).astype(np.float32) for _ in range(10)]
    param = rng.normal(size=300).astype(BFLOAT16)
    opt = instep.AdamW(param, master=False, state_dtype="8bit", ema_decay=0.9, seed=7)
    for grad in grads[:5]:
        opt.step(grad)
    if through is None:
        twin = instep.AdamW(param.copy(), master=False, state_dtype="8bit", ema_decay=0.5)
        twin.load_state_dict(opt.state_dict())
    else:
        twin = through(opt)
    for grad in grads[5:]:
        opt.step(grad)
        twin.step(grad)
    assert bits(twin.master) == bits(param) and bits(twin.ema) == bits(opt.ema)
    assert everything(twin, twin.master) == everything(opt, param)


def test_averages_are_float32_and_survive_a_swap(rng):
    param = rng.normal(size=1000).astype(BFLOAT16)
    opt = instep.SGD(param, lr=1e-3, master=False, ema_decay=0.99)
    average = param.astype(np.float32)
    for _ in range(20):
        opt.step(rng.normal(size=1000))
        average += np.float32(1 - 0.99) * (param.astype(np.float32) - average)
    assert bits(opt.ema) == bits(average)
    before = param.copy()
    with opt.swap_ema():
        assert bits(param) == bits(average.astype(BFLOAT16))
        assert bits(opt.ema) == bits(average)
        assert bits(opt.state_dict()["ema"]["param"]) == bits(average)
    assert bits(param) == bits(before) and bits(opt.ema) == bits(average)


def test_what_float32_holds_is_usable():
    """Gradients that bfloat16 would round to infinity, since the rule computes in float32."""
    grad = np.full(4, 3.4e38, np.float32)
    for param in (np.ones(4, np.float32), np.ones(4, BFLOAT16)):
        opt = instep.SGD(param, lr=2.0**-127, nonfinite="skip", master=False)
        report = opt.step(grad)
        assert report.applied and report.nonfinite == 0
        assert (np.abs(param.astype(np.float32) + 1) < 0.01).all()
    assert not opt.step(grad.astype(np.float64) * 2).applied


def test_buffers_and_states_are_float32():
    opt = instep.Adam({"a": np.ones(3, BFLOAT16), "b": np.ones(3)}, master=False)
    assert opt.grads["a"].dtype == np.float32 and opt.grads["b"].dtype == np.float64
    opt.grads["a"][...] = opt.grads["b"][...] = 1
    opt.step()
    assert opt.state["a"]["exp_avg"].dtype == np.float32
    assert opt.state["b"]["exp_avg"].dtype == np.float64
    assert opt.master["a"].dtype == BFLOAT16 and opt.state_dict()["master"] == {}


def test_refusals():
    with pytest.raises(ValueError, match=r"params\['w'\] is float16.*master=True"):
        instep.SGD({"w": np.ones(3, np.float16)}, master=False)
    with pytest.raises(TypeError, match="master must be True or False, got 1"):
        instep.SGD(np.ones(3), master=1)
    saved = instep.SGD(np.ones(3, BFLOAT16)).state_dict()
    opt = instep.SGD(np.ones(3, BFLOAT16), master=False)
    with pytest.raises(ValueError, match=r"unexpected \['param.master'\]"):
        opt.load_state_dict(saved)
    assert opt.load_state_dict(saved, strict=False).unexpected == ("param.master",)
