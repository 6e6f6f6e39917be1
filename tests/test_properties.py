"""Hypothesis drives shapes, strides, dtypes, missing gradients and hyperparameters."""

import numpy as np
import reference
from conftest import (
    DTYPES,
    ISAS,
    LAYOUTS,
    LOW,
    TOLERANCE,
    Guarded,
    assert_rounded,
    bits,
    everything,
    on_isa,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import instep

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
STEPS = 8

unit = st.floats(0.0, 0.99, allow_subnormal=False)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
layouts = st.sampled_from(sorted(LAYOUTS))
dtypes = st.sampled_from(DTYPES)
trained = st.sampled_from([*DTYPES, *LOW])
rates = st.floats(1e-2, 0.3)
decays = st.floats(0.0, 0.3)
flags = st.booleans()

hypers = st.one_of(
    st.tuples(
        st.just("sgd"),
        st.fixed_dictionaries(
            {"lr": rates, "weight_decay": decays, "maximize": flags},
            optional={"momentum": unit, "dampening": unit},
        ),
    ),
    st.tuples(
        st.just("sgd"),
        st.fixed_dictionaries(
            {"lr": rates, "momentum": st.floats(0.1, 0.99), "nesterov": st.just(True)}
        ),
    ),
    st.tuples(
        st.just("rmsprop"),
        st.fixed_dictionaries(
            {
                "lr": rates,
                "alpha": st.floats(0.3, 0.99),
                "eps": st.floats(1e-3, 0.1),
                "weight_decay": decays,
                "momentum": unit,
                "centered": flags,
                "maximize": flags,
            }
        ),
    ),
    st.tuples(
        st.sampled_from(["adam", "adamw"]),
        st.fixed_dictionaries(
            {
                "lr": rates,
                "betas": st.tuples(unit, st.floats(0.3, 0.999)),
                "eps": st.floats(1e-3, 0.1),
                "weight_decay": decays,
                "amsgrad": flags,
                "maximize": flags,
            }
        ),
    ),
)
preparations = st.fixed_dictionaries(
    {},
    optional={
        "clip_norm": st.floats(0.01, 10.0),
        "clip_value": st.floats(0.1, 2.0),
    },
)
CLASSES = {
    "sgd": instep.SGD,
    "rmsprop": instep.RMSprop,
    "adam": instep.Adam,
    "adamw": instep.AdamW,
}


def close(found, expected, scale):
    """Error against the twin, relative to what the rule works with: it may stand still here."""
    if found.size == 0:
        return True
    error = np.max(np.abs(found.astype(np.float64) - expected))
    return error < TOLERANCE[found.dtype] * max(scale, np.max(np.abs(expected)))


@SETTINGS
@given(
    st.lists(st.tuples(shapes, trained, layouts, layouts), min_size=1, max_size=4),
    hypers,
    preparations,
    st.floats(0.01, 100.0),
    st.sampled_from(ISAS),
    st.data(),
)
def test_any_training_agrees_with_the_twin(leaves, rule, preparation, grad_scale, isa, data):
    name, hyper = rule
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    arrays = Guarded()
    starts = [rng.normal(size=shape).astype(dtype) for shape, dtype, _, _ in leaves]
    params = [
        arrays.array(start, layout=layout)
        for start, (_, _, layout, _) in zip(starts, leaves, strict=True)
    ]
    opt = CLASSES[name](params, **hyper, **preparation)
    steps, present = [], st.lists(flags, min_size=len(leaves), max_size=len(leaves))
    with on_isa(isa):
        for _ in range(STEPS):
            takes_part = data.draw(present)
            steps.append(
                [
                    rng.normal(0.5, 1, shape).astype(dtype) if part else None
                    for part, (shape, dtype, _, _) in zip(takes_part, leaves, strict=True)
                ]
            )
            laid = [
                None if grad is None else arrays.array(grad, layout=layout)
                for grad, (_, _, _, layout) in zip(steps[-1], leaves, strict=True)
            ]
            report = opt.step(laid, grad_scale=grad_scale)
            if "clip_norm" in preparation:
                _, norm = reference.prepare(steps[-1], grad_scale=grad_scale)
                np.testing.assert_allclose(report.grad_norm, norm, rtol=1e-12)
    arrays.check()
    wanted, states, counts = reference.run(
        reference.RULES[name], starts, steps, grad_scale=grad_scale, **preparation, **hyper
    )
    # 100 times unscaled gradients move far: errors are those of what was added up.
    reach = 1.0 + 2.0 / grad_scale
    for k, (param, master) in enumerate(zip(params, opt.master, strict=True)):
        assert close(master, wanted[k], reach)
        if counts[k]:
            assert_rounded(param, master)
        entry = opt.state.get(str(k), {"step": 0})
        assert entry["step"] == counts[k]
        for key, value in states[k].items():
            assert close(entry[key], value, 0.0 if key == "square_avg" else reach**2), key


@SETTINGS
@given(
    st.lists(st.tuples(st.integers(0, 40), dtypes), min_size=1, max_size=6),
    st.lists(st.sampled_from([0.0, 0.5, 0.9]), min_size=STEPS, max_size=STEPS),
    st.data(),
)
def test_momentum_switched_at_will_with_missing_gradients(leaves, momentum, data):
    """Leaves come to differ in step counts and in whether they have a buffer."""
    rng = np.random.default_rng(7)
    starts = [rng.normal(size=n).astype(dtype) for n, dtype in leaves]
    params = [start.copy() for start in starts]
    opt = instep.SGD(params, lr=0.1, dampening=0.4, weight_decay=0.1)
    steps = []
    for mu in momentum:
        takes_part = data.draw(st.lists(flags, min_size=len(leaves), max_size=len(leaves)))
        steps.append(
            [
                rng.normal(0.5, 1, n).astype(dtype) if part else None
                for part, (n, dtype) in zip(takes_part, leaves, strict=True)
            ]
        )
        opt.param_groups[0]["momentum"] = mu
        if data.draw(flags):  # a save and load in between changes nothing
            saved = opt.state_dict()
            opt = instep.SGD(params)
            opt.load_state_dict(saved)
        opt.step(steps[-1])
    wanted, states, counts = reference.run(
        reference.sgd,
        starts,
        steps,
        lr=0.1,
        dampening=0.4,
        weight_decay=0.1,
        momentum=lambda t: momentum[t],
    )
    for k, param in enumerate(params):
        assert close(param, wanted[k], 1.0)
        entry = opt.state.get(str(k), {"step": 0})
        assert entry["step"] == counts[k]
        assert entry.keys() - {"step"} == states[k].keys()
        for key, value in states[k].items():
            assert close(entry[key], value, 1.0)


def views(draw, base):
    """A view of `base` as slicing and transposing make it, possibly empty or reversed."""
    array = base.transpose(draw(st.permutations(range(base.ndim))))
    index = []
    for length in array.shape:
        if draw(flags):
            index.append(slice(None, None, draw(st.sampled_from([1, 2, 3, -1, -2]))))
        else:
            start, stop = sorted(draw(st.tuples(st.integers(0, length), st.integers(0, length))))
            index.append(slice(start, stop))
    array = array[tuple(index)]
    if draw(flags):
        array = array[..., None]
    return array


@SETTINGS
@given(hnp.array_shapes(min_dims=1, max_dims=4, max_side=8), trained, hypers, st.data())
def test_any_view_is_updated_in_place_and_nothing_else(shape, dtype, rule, data):
    """Bit for bit as a contiguous copy; the rest of the base array stays."""
    name, hyper = rule
    rng = np.random.default_rng(3)
    base = rng.normal(size=shape).astype(dtype)
    before = base.copy()
    outside = np.ones(shape, bool)
    # The same view of the mask: draw once, replay on both.
    choices = []

    def remember(strategy):
        choices.append(data.draw(strategy))
        return choices[-1]

    param = views(remember, base)
    replay = iter(choices)
    views(lambda _: next(replay), outside)[...] = False
    plain = param.copy()
    opt, other = CLASSES[name](param, **hyper), CLASSES[name](plain, **hyper)
    for _ in range(3):
        grad = rng.normal(size=param.shape).astype(dtype)
        opt.step(grad[::-1].copy()[::-1])
        other.step(grad)
    assert everything(opt, param, opt.master) == everything(other, plain, other.master)
    assert bits(base[outside]) == bits(before[outside])
    if param.size and dtype not in LOW:
        assert not np.array_equal(base, before) or hyper["lr"] == 0


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@SETTINGS
@given(hnp.arrays(np.float64, st.integers(0, 60), elements=finite), flags)
def test_the_norm_of_any_finite_gradient(grad, reverse):
    """From 5e-324 to 1.8e308: no overflow, no underflow that the true norm has not."""
    grad = grad[::-1] if reverse else grad
    with np.errstate(over="ignore"):
        wanted = reference.global_norm([grad])
    report = instep.SGD(np.zeros(grad.size), clip_norm=1.0).step(grad)
    np.testing.assert_allclose(report.grad_norm, wanted, rtol=1e-13, atol=5e-324)


@SETTINGS
@given(
    hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(width=64)),
    dtypes,
    st.sampled_from(["skip", "raise"]),
    st.sampled_from([None, 1.0]),
)
def test_nonfinite_gradients_never_reach_a_parameter(grad, dtype, policy, clip):
    """Whatever they are: refused whole, or applied and everything finite stays finite."""
    param = np.ones(grad.size, dtype)
    opt = instep.SGD(param, lr=1e-3, nonfinite=policy, clip_norm=clip)
    bad = int(np.sum(~np.isfinite(grad)))
    try:
        report = opt.step(grad)
        applied = report.applied
        assert applied or report.nonfinite >= bad
    except FloatingPointError:
        applied = False
    assert np.isfinite(param).all()
    assert applied or (param == 1).all()
    assert not applied or not bad
