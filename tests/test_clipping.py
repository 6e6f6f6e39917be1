"""Clipping, the global norm, non-finite gradients, and what the report says of them."""

import math

import numpy as np
import pytest
import reference
from conftest import bits, copy_tree, everything, leaves, tiny_problem

import instep
from instep.schedules import CosineAnnealing

ADAMW = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}


def descend(grads, *, dtype=np.float32, lr=1.0, step=None, **options):
    """One step of plain descent from 0: the update is -lr times what became of the gradients."""
    params = [np.zeros(np.shape(grad), dtype) for grad in grads]
    report = instep.SGD(params, lr=lr, **options).step(list(grads), **(step or {}))
    return [-param for param in params], report


# ---- clip_norm -------------------------------------------------------------------------------


def test_the_factor_is_exact(dtype, isa, rng):
    """Exactly max_norm / norm, nothing added to the norm: one float64 rounded once."""
    for n in (1, 2, 17, 1000):
        grad = rng.uniform(0.5, 2.0, n).astype(dtype)
        for max_norm in (0.37, 1e-3):
            (found,), report = descend([grad], dtype=dtype, clip_norm=max_norm)
            factor = max_norm / report.grad_norm
            assert bits(found) == bits(grad * dtype.type(factor) + dtype.type(0))
            np.testing.assert_allclose(report.grad_norm, reference.global_norm([grad]), rtol=1e-14)


def test_a_norm_at_the_limit_is_left_alone(dtype, isa):
    grad = np.array([3, 4], dtype)
    for limit in (5.0, 5.000001, 1e300):
        (found,), report = descend([grad], dtype=dtype, clip_norm=limit)
        assert bits(found) == bits(grad) and report.grad_norm == 5.0
    (found,), _ = descend([grad], dtype=dtype, clip_norm=math.nextafter(5.0, 0.0))
    np.testing.assert_allclose(found, grad, rtol=3e-7)
    (found,), _ = descend([grad], dtype=dtype, clip_norm=0.0)
    assert (found == 0).all()


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (np.float32, 1e19),  # squares overflow float32
        (np.float32, 8e37),
        (np.float32, 1e-30),  # and vanish
        (np.float32, 2.0**-147),  # subnormal, exactly
        (np.float64, 1e200),
        (np.float64, 3e307),
        (np.float64, 1e-200),
        (np.float64, 2.0**-1070),
    ],
)
def test_norms_at_the_ends_of_the_range(dtype, scale, isa):
    dtype = np.dtype(dtype)
    grad = (np.array([3, 4]) * scale).astype(dtype)
    tolerance = 3e-7 if dtype == np.float32 else 1e-15
    for parts in ([grad], [grad[:1], grad[1:]]):
        # With a large rate what is left of a tiny norm is seen as well.
        found, report = descend(parts, dtype=dtype, clip_norm=1.0)
        np.testing.assert_allclose(report.grad_norm, 5 * scale, rtol=tolerance)
        wanted = [0.6, 0.8] if scale > 1 else grad
        np.testing.assert_allclose(np.concatenate(found), wanted, rtol=tolerance)
        found, _ = descend(parts, dtype=dtype, clip_norm=scale)
        wanted = np.array([0.6, 0.8]) * scale
        smallest = float(np.finfo(dtype).smallest_subnormal)
        np.testing.assert_allclose(np.concatenate(found), wanted, rtol=tolerance, atol=smallest)


def test_the_norm_is_summed_in_float64(isa):
    """A million float32 squares of very different size."""
    grad = np.full(1_000_000, 1e-3, np.float32)
    grad[::1000] = 100.0
    _, report = descend([grad], clip_norm=1.0)
    np.testing.assert_allclose(report.grad_norm, reference.global_norm([grad]), rtol=1e-13)


def test_the_norm_is_global(isa, rng):
    """Over all leaves, groups, dtypes and layouts; None counts as nothing."""
    params = [np.zeros(7, np.float32), np.zeros((3, 4)), np.zeros(()), np.zeros(5)]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 2.0, "maximize": True}]
    opt = instep.SGD(groups, lr=1.0, clip_norm=1.5)
    grads = [
        rng.normal(size=7).astype(np.float16),
        np.asfortranarray(rng.normal(size=(3, 4))),
        np.array(2.0, np.float32),
        None,
    ]
    report = opt.step([grads[:2], grads[2:]])
    norm = reference.global_norm(grads)
    np.testing.assert_allclose(report.grad_norm, norm, rtol=1e-14)
    for param, grad, rate in zip(params, grads, (-1, -1, 2), strict=False):
        wanted = rate * 1.5 / norm * grad.astype(np.float64)
        np.testing.assert_allclose(param, wanted, rtol=3e-7 if grad.itemsize < 8 else 1e-14)
    assert (params[3] == 0).all()


def test_no_gradients_have_norm_zero():
    _, report = descend([np.zeros(3)], clip_norm=1.0)
    assert report.grad_norm == 0.0 and report.applied
    opt = instep.SGD([np.ones(2), np.ones((0, 3))], clip_norm=1.0, nonfinite="raise")
    assert opt.step([None, None]).grad_norm == 0.0
    assert opt.step([None, np.ones((0, 3))]).grad_norm == 0.0


# ---- clip_value, grad_scale ------------------------------------------------------------------


def test_clip_value(dtype, isa):
    grad = np.array([-3, -0.5, -0.25, 0, 0.25, 0.5, 3, np.inf, -np.inf, np.nan], dtype)
    (found,), report = descend([grad], dtype=dtype, clip_value=0.5)
    wanted = [-0.5, -0.5, -0.25, 0, 0.25, 0.5, 0.5, 0.5, -0.5, np.nan]
    np.testing.assert_array_equal(found, np.array(wanted, dtype))
    assert report.grad_norm is None and report.nonfinite is None


def test_the_order_of_preparation(dtype, isa):
    """Unscale, clip the norm, clip the values, then the sign; weight decay is never clipped."""
    param = np.array([10.0, -10.0, 0.0], dtype)
    opt = instep.SGD(param, lr=1.0, weight_decay=0.5, maximize=True, clip_norm=1.0, clip_value=0.7)
    report = opt.step(np.array([60.0, 80.0, 0.0], dtype), grad_scale=20.0)
    assert report.grad_norm == pytest.approx(5.0, rel=1e-15)
    np.testing.assert_allclose(param, [10 - (-0.6 + 5), -10 - (-0.7 - 5), 0], rtol=3e-7)


def test_grad_scale(dtype, rng):
    """Loss scaling by a power of two leaves no trace, not a bit."""
    start = rng.normal(size=100).astype(dtype)
    grads = [rng.normal(size=100).astype(dtype) for _ in range(10)]
    plain, scaled = start.copy(), start.copy()
    opt = instep.AdamW(plain, **ADAMW, clip_norm=0.8, nonfinite="raise")
    other = instep.AdamW(scaled, **ADAMW, clip_norm=0.8, nonfinite="raise")
    for grad in grads:
        scale = 2.0 ** int(rng.integers(-20, 20))
        assert opt.step(grad) == other.step(grad * dtype.type(scale), grad_scale=scale)
    assert everything(opt, plain) == everything(other, scaled)


def test_clips_may_be_schedules_and_changed(rng):
    start = rng.normal(size=20)
    grads = [rng.normal(0.5, 1.0, 20) for _ in range(12)]
    param = start.copy()
    opt = instep.SGD(param, lr=0.1, clip_norm=CosineAnnealing(2.0, 8, 0.3))
    for t, grad in enumerate(grads):
        if t == 5:
            opt.clip_value = lambda t: 0.5 / t
        if t == 9:
            opt.clip_norm = None
        opt.step(grad)
    cosine = CosineAnnealing(2.0, 8, 0.3)
    wanted, _, _ = reference.run(
        reference.sgd,
        [start],
        [[g] for g in grads],
        lr=0.1,
        clip_norm=lambda t: cosine(t) if t < 9 else None,
        clip_value=lambda t: 0.5 / t if t >= 5 else None,
    )
    np.testing.assert_allclose(param, wanted[0], rtol=1e-13)


# ---- the report ------------------------------------------------------------------------------


def test_report(rng):
    params = {"a": rng.normal(size=4), "b": rng.normal(size=3)}
    opt = instep.Adam(params, lr=lambda t: 0.1 / (t + 1))
    grads = {"a": np.array([3.0, 0, 0, 0]), "b": np.array([0, 4.0, 0])}
    assert opt.step(grads) == (1, 0.1, True, None, None, None)
    opt.clip_norm = 100.0
    report = opt.step(grads, grad_scale=2.0)
    assert (report.step, report.lr, report.applied, report.grad_norm) == (2, 0.05, True, 2.5)
    opt.clip_norm, opt.nonfinite = None, "skip"
    report = opt.step({"a": None, "b": grads["b"]})
    assert (report.step, report.applied, report.grad_norm, report.nonfinite) == (3, True, 4.0, 0)
    report = opt.step({"a": np.array([np.nan, 1, np.inf, 1]), "b": -np.inf * np.ones(3)})
    assert (report.step, report.applied, report.nonfinite) == (3, False, 5)
    assert report.lr == 0.1 / 4 and not math.isfinite(report.grad_norm)
    assert repr(report).startswith("StepReport(step=3, lr=0.025, applied=False, ")


# ---- non-finite gradients --------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["plain", "clip"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize("when", [0, 3])
def test_refused_step_leaves_no_trace(policy, bad, options, when, dtype):
    """The training goes on as if the step had never been: states, counts, schedules, bits."""
    tree, steps = tiny_problem(dtype=dtype)
    seen, clean = copy_tree(tree), copy_tree(tree)
    hyper = {**ADAMW, "lr": CosineAnnealing(0.1, 20), "amsgrad": True, "nonfinite": policy}
    opt, other = instep.AdamW(seen, **hyper, **options), instep.AdamW(clean, **hyper, **options)
    for t, grads in enumerate(steps):
        if t == when:
            spoilt = copy_tree(grads)
            spoilt["layers"][1]["W"][2, 1] = bad
            spoilt["layers"][1]["W"][3, 0] = bad
            before = everything(opt, *leaves(seen))
            if policy == "raise":
                message = r"grads\['layers'\]\[1\]\['W'\] has 2 .*\(2 in all\)"
                with pytest.raises(FloatingPointError, match=message):
                    opt.step(spoilt)
            else:
                report = opt.step(spoilt)
                assert (report.step, report.applied, report.nonfinite) == (t, False, 2)
            assert everything(opt, *leaves(seen)) == before
            assert t > 0 or opt.state == {}
        assert opt.step(grads) == other.step(grads)
    assert everything(opt, *leaves(seen)) == everything(other, *leaves(clean))


@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize("clip", [None, 1.0], ids=["plain", "clip"])
def test_all_bad_elements_are_counted_and_the_first_leaf_is_named(policy, clip):
    params = [np.ones(3), np.ones(4, np.float32), np.ones(0), np.ones((2, 2))]
    opt = instep.SGD([{"params": params[:2]}, {"params": params[2:]}], nonfinite=policy)
    opt.clip_norm = clip
    half = np.array([1, np.nan, np.inf, 2], np.float16)
    grads = [[np.ones(3), half], [np.ones(0), np.full((2, 2), np.nan)]]
    if policy == "raise":
        with pytest.raises(FloatingPointError, match=r"grads\[0\]\[1\] has 2 .*\(6 in all\)"):
            opt.step(grads)
    else:
        assert opt.step(grads).nonfinite == 6
    assert opt.steps == 0 and all((p == 1).all() for p in params)


def test_a_bad_element_anywhere_is_found(isa):
    """In every lane, tile and piece, also the last one."""
    for n in (1, 16, 17, 513, 16384, 16385, 40000):
        for at in {0, n // 2, n - 1}:
            grad = np.ones(n, np.float32)
            grad[at] = np.nan
            found, report = descend([grad], nonfinite="skip")
            assert not report.applied and report.nonfinite == 1 and (found[0] == 0).all()


def test_propagate_makes_the_damage_visible(isa):
    """NaN spreads through a global clip; without one it stays where it is."""
    grads = [np.ones(3, np.float32), np.array([1, np.nan], np.float32)]
    found, report = descend(grads)
    assert report.applied and (found[0] == 1).all()
    np.testing.assert_array_equal(found[1], [1, np.nan])
    found, report = descend(grads, clip_norm=1.0)
    assert report.applied and math.isnan(report.grad_norm)
    assert np.isnan(found[0]).all() and np.isnan(found[1]).all()


def test_gradients_that_overflow_in_the_parameter():
    """Finite in float64, infinite in a float32 parameter; fine for a float64 one."""
    grad = np.array([1.0, 1e39, 1e200])
    for policy in ("skip", "raise"):
        opt = instep.SGD(param := np.ones(3, np.float32), lr=0.5, nonfinite=policy)
        if policy == "skip":
            assert opt.step(grad)[2:5] == (False, pytest.approx(1e200), 2)
        else:
            with pytest.raises(FloatingPointError, match="grads has 2 "):
                opt.step(grad)
        assert (param == 1).all() and opt.steps == 0
        # What clips or unscales the gradients into range makes them usable.
        assert opt.step(grad, grad_scale=1e180).applied
        opt = instep.SGD(param, lr=0.5, nonfinite=policy, clip_norm=1.0)
        assert opt.step(grad).applied
        opt = instep.SGD(param := np.ones(3), lr=0.5, nonfinite=policy)
        assert opt.step(grad).applied and param[2] == -5e199


@pytest.mark.parametrize("clip", [None, 1e42], ids=["plain", "clip"])
@pytest.mark.parametrize(
    ("largest", "grad_scale", "overflows"),
    [(1e45, 1e4, True), (1e45, 1e8, False), (1e35, 1e-4, True), (1e33, 1e-4, False)],
)
def test_what_overflows_after_unscaling_is_refused(largest, grad_scale, overflows, clip):
    """The scale counts once, up or down, and a clip that does not act changes nothing."""
    for policy in ("skip", "raise"):
        opt = instep.SGD(param := np.ones(2, np.float32), lr=1.0, nonfinite=policy, clip_norm=clip)
        grad = np.array([largest, 1.0])
        if overflows and policy == "raise":
            with pytest.raises(FloatingPointError, match="grads has 1 "):
                opt.step(grad, grad_scale=grad_scale)
        else:
            report = opt.step(grad, grad_scale=grad_scale)
            assert report.applied is not overflows and report.nonfinite == overflows
            np.testing.assert_allclose(report.grad_norm, largest / grad_scale, rtol=1e-12)
        assert (param == 1).all() == overflows and np.isfinite(param).all()


@pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
def test_what_clip_value_brings_into_range_is_no_overflow(policy, isa):
    """The kernel holds an element to the limit even where it overflowed before; NaN is refused."""
    grad = np.array([1e300, -1e45, 0.25, 3.0])
    for dtype, options in ((np.float32, {}), (np.float64, {"grad_scale": 1e-200})):
        opt = instep.SGD(param := np.zeros(4, dtype), lr=1.0, clip_value=2.0, nonfinite=policy)
        assert opt.step(grad, **options).applied
        assert param.tolist() == ([-2, 2, -0.25, -2] if not options else [-2, 2, -2, -2])
    opt = instep.SGD(param := np.zeros(4, np.float32), clip_value=1e100, nonfinite="skip")
    assert opt.step(grad).nonfinite == 2 and (param == 0).all()  # a limit beyond float32 is none
    opt = instep.SGD(param, clip_value=2.0, nonfinite="skip")
    for bad in (np.nan, np.inf):
        assert opt.step(np.array([bad, 1e300, 1, 1])).nonfinite == 1 and (param == 0).all()


@pytest.mark.skipif(np.finfo(np.longdouble).maxexp < 2000, reason="long double is float64 here")
@pytest.mark.parametrize("clip", [None, 1.0], ids=["plain", "clip"])
def test_long_double_gradients_beyond_float64(clip):
    """They are read as float64, and so are infinite."""
    param = np.ones(3)
    opt = instep.SGD(param, nonfinite="skip", clip_norm=clip)
    assert not opt.step(np.full(3, "1e4000", np.longdouble)).applied
    assert (param == 1).all()


def test_skipping_is_per_optimizer_not_per_leaf(rng):
    """One bad leaf among many, the last one: nothing of the others is written."""
    params = [rng.normal(size=n) for n in (1000, 1, 50_000, 3)]
    before = [bits(p) for p in params]
    opt = instep.Adam(params, nonfinite="skip", threads=2)
    grads = [np.ones_like(p) for p in params]
    grads[3][1] = -np.inf
    assert not opt.step(grads).applied
    assert [bits(p) for p in params] == before
