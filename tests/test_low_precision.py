"""float16 and bfloat16 parameters: the run of a float32 optimizer, rounded in every step."""

import itertools

import numpy as np
import pytest
from conftest import (
    LAYOUTS,
    LOW,
    SHAPES,
    assert_close_to_twin,
    assert_rounded,
    bits,
    everything,
    leaves,
    tiny_problem,
)
from test_optim import ROWS

import instep
from instep import _core

GRADIENTS = [*LOW, np.dtype(np.float32), np.dtype(np.float64)]
STEPS = 20


def problem(rng, shape, low, given, steps=STEPS):
    """A low-precision start and gradients of another dtype."""
    start = rng.normal(size=shape).astype(low)
    return start, [rng.normal(1.0, 0.5, shape).astype(given) for _ in range(steps)]


def check_run(row, start, grads, guarded, layouts=("C", "C"), **options):
    """Parameter, master and states of one run: against the twin and against float32."""
    param = guarded.array(start, layout=layouts[0])
    plain = guarded.array(start.astype(np.float32), layout=layouts[0])
    opt, other = row.make(param, **options), row.make(plain, **options)
    assert opt.master.dtype == np.float32 and opt.master is not param
    for grad in grads:
        laid = guarded.array(grad, layout=layouts[1])
        assert opt.step(laid) == other.step(laid)
        assert_rounded(param, opt.master)
    assert everything(opt, opt.master) == everything(other, plain)
    wanted, states, _ = row.expect([start], [[grad] for grad in grads], **options)
    if start.size:
        assert_close_to_twin(opt, [opt.master], [start], wanted, states)


# ---- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", GRADIENTS, ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_every_rule_dtype_and_layout(name, given, low, isa, rng, guarded):
    """Every layout of the parameter and of the gradient, every shape with some of them."""
    cycle = itertools.cycle(SHAPES)
    for layout, other in zip(LAYOUTS, reversed(LAYOUTS), strict=True):
        start, grads = problem(rng, next(cycle), low, given)
        check_run(ROWS[name], start, grads, guarded, (layout, other))


@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop-centered-momentum", "adamw-amsgrad"])
def test_clipping_and_sizes_beyond_a_piece(name, low, isa, rng, guarded):
    for n, given in zip([1, 15, 513, 40_000], GRADIENTS, strict=False):
        start, grads = problem(rng, n, low, given)
        check_run(ROWS[name], start, grads, guarded, clip_norm=2.5, clip_value=0.9)


@pytest.mark.parametrize("make", [instep.SGD, instep.Adam], ids=["sgd", "adam"])
def test_a_hundred_small_steps_arrive(make, low):
    """A step of 1e-3 from 1.0 is less than bfloat16 can show: alone it would stay there."""
    param, plain = np.ones(33, low), np.ones(33, np.float32)
    opt, other = make(param, lr=1e-3), make(plain, lr=1e-3)
    for _ in range(100):
        opt.step(np.ones(33, low))
        other.step(np.ones(33, np.float32))
    assert bits(opt.master) == bits(plain)
    np.testing.assert_allclose(plain, 0.9, rtol=1e-5)
    assert bits(param) == bits(plain.astype(low)) != bits(np.ones(33, low))


def test_every_kind_of_value_is_rounded_to_nearest(low, isa, rng):
    """Ties, subnormals, the ends of the range, infinities and NaN."""
    tops = np.arange(1 << 16, dtype=np.uint32) << 16
    lows = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    patterns = (tops[:, None] | lows.astype(np.uint32)).ravel().view(np.float32)
    param = np.zeros(patterns.size, low)
    opt = instep.SGD(param, lr=0.0)
    opt.master[...] = patterns
    opt.step(np.zeros(patterns.size, np.float32))
    assert_rounded(param, patterns)
    opt.master[...] = patterns
    param[...] = 0
    opt.load_state_dict(opt.state_dict())  # rounds as a step does, without a warning
    assert_rounded(param, patterns)
    opt.refresh_master()
    np.testing.assert_array_equal(opt.master, patterns)


def test_every_value_becomes_a_master_and_comes_back(low, isa):
    """All 65,536 patterns, signalling NaN too, without a warning."""
    param = np.arange(1 << 16, dtype=np.uint16).view(low)
    opt = instep.SGD(param, lr=0.0)
    with np.errstate(invalid="ignore"):
        nan = np.isnan(param)
        before = bits(param[~nan])
        np.testing.assert_array_equal(opt.master, param.astype(np.float32))
    opt.step(np.zeros(1 << 16, low))
    opt.load_state_dict(opt.state_dict())
    opt.refresh_master()
    assert bits(param[~nan]) == before and np.isnan(param[nan]).all()
    assert np.isnan(opt.master[nan]).all()


@pytest.mark.parametrize("layout", ["C", "sliced", "reversed_sliced_F", "misaligned"])
def test_the_same_bits_on_every_thread_count_and_instruction_set(layout, low, guarded):
    def train(threads):
        rng = np.random.default_rng(3)
        starts = [rng.normal(size=shape) for shape in [(307, 331), (3,), (), (0, 4), (20_000,)]]
        params = [guarded.array(start.astype(low), layout=layout) for start in starts]
        opt = instep.AdamW(params, lr=0.1, eps=1e-3, amsgrad=True, clip_norm=1.0, threads=threads)
        for _ in range(3):
            opt.step([rng.normal(size=p.shape).astype(low) for p in params])
        return everything(opt, *params, *opt.master)

    before, results = instep.isa(), []
    for isa in instep.available_isas():
        _core.select_isa(isa)
        results += [train(threads) for threads in (1, 2, 3, 7)]
    _core.select_isa(before)
    assert all(result == results[0] for result in results[1:])


# ---- trees -----------------------------------------------------------------------------------


def mixed(tree, dtypes):
    """The tree with its leaves in the given dtypes by turns."""
    turn = itertools.cycle(dtypes)

    def convert(branch):
        if isinstance(branch, dict):
            return {key: convert(value) for key, value in branch.items()}
        if isinstance(branch, list):
            return [convert(value) for value in branch]
        return np.array(branch, next(turn))

    return convert(tree)


@pytest.mark.parametrize("groups", [False, True])
def test_mixed_trees(groups):
    """Masters where they are needed, the parameters themselves elsewhere; also in groups."""
    tree, steps = tiny_problem(steps=STEPS)
    params = mixed(tree, [*LOW, np.float32, np.float64])
    plain = mixed(params, [np.float32 if p.itemsize == 2 else p.dtype for p in leaves(params)])
    options = {"lr": 0.1, "clip_norm": 1.5, "nonfinite": "raise"}
    if groups:
        opt = instep.Adam([{"params": params, "eps": 1e-3}, {"params": np.ones(3, LOW[-1])}])
        other = instep.Adam([{"params": plain, "eps": 1e-3}, {"params": np.ones(3, np.float32)}])
        steps = [[grads, np.full(3, 0.5, np.float16)] for grads in steps]
    else:
        opt, other = instep.Adam(params, **options), instep.Adam(plain, **options)
    for t, grads in enumerate(steps):
        (grads[0] if groups else grads)["layers"][t % 2]["W"] = None
        assert opt.step(grads) == other.step(grads)
    masters = leaves(opt.master[0] if groups else opt.master)
    assert everything(opt, *masters) == everything(other, *leaves(plain))
    for param, master in zip(leaves(params), masters, strict=True):
        assert (master is param) == (param.itemsize > 2)
        assert_rounded(param, master)
    if groups:
        assert opt.master[1].dtype == np.float32
        assert isinstance(opt.master[0]["layers"], list)


def test_a_parameter_without_gradient_is_not_written(low):
    """Neither are its bytes looked at: what the user wrote stays until its next gradient."""
    params = [np.ones(3, low), np.ones(2, low)]
    opt = instep.SGD(params, lr=0.5)
    params[1][0] = 7
    opt.step([np.ones(3), None])
    assert params[0].tolist() == [0.5] * 3 and params[1].tolist() == [7, 1]
    opt.step([np.ones(3), np.ones(2)])
    assert params[1].tolist() == [0.5, 0.5]  # the master rules


def test_own_gradient_buffers_are_float32(low):
    param = np.asfortranarray(np.ones((3, 4), low))
    opt = instep.SGD(param, lr=0.25)
    assert opt.grads.dtype == np.float32 and opt.grads.flags.f_contiguous
    opt.grads[...] = 1
    opt.step()
    assert (param == 0.75).all()


def test_groups_added_later_and_renamed(low):
    """The masters that are there stay, and so do the values that they have reached."""
    a, b = np.ones(3, low), np.ones(2, low)
    opt = instep.SGD({"a": a}, lr=1e-3)
    opt.step({"a": np.ones(3)})
    master = opt.master["a"]
    opt.add_param_group({"params": b, "lr": 0.5})
    assert opt.master[0]["a"] is master
    opt.step([{"a": np.ones(3)}, np.ones(2)])
    assert master.tolist() == [np.float32(1) - np.float32(1e-3) - np.float32(1e-3)] * 3
    assert b.tolist() == [0.5] * 2
    with pytest.raises(ValueError, match="overlaps"):
        opt.add_param_group({"params": a[::-1]})
    assert opt.step([{"a": None}, np.ones(2)]).applied


# ---- checks ----------------------------------------------------------------------------------


def test_gradients_that_overlap_what_is_written(low):
    param = np.ones(4, low)
    other = np.ones(4, np.float32)
    opt = instep.SGD({"w": param, "v": other}, lr=0.1)
    for _ in range(2):  # the long way, then from the short one
        for bad, message in [
            (param, r"grads\['v'\] overlaps params\['w'\]"),
            (param[::-1], r"grads\['v'\] overlaps params\['w'\]"),
            (opt.master["w"], r"grads\['v'\] overlaps the master of params\['w'\]"),
        ]:
            before = everything(opt, param, other, opt.master["w"])
            with pytest.raises(ValueError, match=message):
                opt.step({"w": np.ones(4), "v": bad})
            with pytest.raises(ValueError, match=message.replace("'v'", "'w'", 1)):
                opt.step({"w": bad, "v": np.ones(4)})
            assert everything(opt, param, other, opt.master["w"]) == before
        opt.step({"w": np.ones(4), "v": np.ones(4)})
        assert opt._steady.ready


def test_a_parameter_made_read_only_is_refused(low):
    """The user's array counts; the master is writable all the while."""
    params = [np.ones(3, low), np.ones(3, low)]
    opt = instep.SGD(params, lr=0.1)
    for _ in range(2):  # on the long way, then on the short one
        params[1].flags.writeable = False
        before = everything(opt, *params, *opt.master)
        with pytest.raises(ValueError, match=rf"params\[1\] is a read-only {low.name} "):
            opt.step([np.ones(3), np.ones(3)])
        assert everything(opt, *params, *opt.master) == before
        assert opt.step([np.ones(3), None]).applied
        params[1].flags.writeable = True
        opt.step([np.ones(3), np.ones(3)])
        assert opt._steady.ready


def test_nonfinite_gradients_are_those_of_the_master(low):
    """1e38 fits a float32 master, whatever the parameter can hold; 1e39 does not."""
    param = np.ones(3, low)
    opt = instep.SGD(param, lr=1e-38, nonfinite="skip")
    assert opt.step(np.array([1e38, 0, 0])).nonfinite == 0
    assert opt.step(np.array([1e39, 0, 0])).nonfinite == 1
    assert opt.steps == 1 and abs(param[0]) < 1e-6


def test_a_master_beyond_float16_shows_as_infinity():
    """And comes back: the master itself has not overflowed."""
    param = np.full(2, 65_000, np.float16)
    opt = instep.SGD(param, lr=1.0)
    opt.step(np.array([-1000.0, 0.0]))
    assert param.tolist() == [np.inf, 64_992.0] and opt.master.tolist() == [65_992.0, 64_992.0]
    opt.step(np.array([1000.0, 0.0]))
    assert param.tolist() == [64_992.0, 64_992.0]


@pytest.mark.parametrize("holder", ["memoryview", "memmap"])
def test_float16_in_other_objects(holder, tmp_path):
    param = memoryview(np.ones(6, np.float16))
    if holder == "memmap":
        param = np.memmap(tmp_path / "w", np.float16, "w+", shape=6)
        param[...] = 1
    instep.SGD(param, lr=0.5).step(np.ones(6))
    assert np.asarray(param).tolist() == [0.5] * 6


def test_the_range_test_restores_them(low):
    """The masters of an optimizer that lives on as well."""
    param = np.linspace(-1, 1, 50).astype(low)
    kept = bits(param)
    used = []

    def make(params, lr):
        used.append(instep.SGD(params, lr=lr, momentum=0.9))
        return used[0]

    def loss_and_grad(w):
        w = w.astype(np.float64)
        return np.mean((w - 2) ** 2), 2 * (w - 2) / w.size

    found = instep.lr_range_test(loss_and_grad, param, make, max_lr=1e3)
    assert found.suggestion > 0 and bits(param) == kept
    assert_rounded(param, used[0].master)
