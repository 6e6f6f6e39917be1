"""Averages, zeroed gradients and statistics in one step: every rule, type and layout against the
float64 twin, and the bits of the step without them."""

import itertools

import numpy as np
import pytest
import reference
from conftest import (
    ISAS,
    LAYOUTS,
    assert_close_to_twin,
    average_error,
    bits,
    everything,
    leaves,
    on_isa,
    tiny_problem,
)
from test_layouts import gradient_dtypes
from test_optim import ROWS

import instep

STEPS = 12
CLIPS = {"clip_norm": 14.0, "clip_value": 0.9}
DECAY = 0.8
EXTRAS = {"ema_decay": DECAY, "zero_grads": True, "stats": True}
SHAPES = [(6, 9), (), (2, 3, 0), (600,)]


def problem(rng, dtype, given):
    starts = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
    steps = [[rng.normal(1.5, 2.0, shape).astype(given) for shape in SHAPES] for _ in range(STEPS)]
    for grads in steps[::5]:
        grads[3] = None  # its average moves all the same
    return starts, steps


def check_stats(stats, before, params, grads, clips):
    """Of a step of one group: as the twin finds them in the stored numbers."""
    (found,) = stats
    wanted = reference.statistics(before, params, grads, grad_scale=3.0, **clips)
    np.testing.assert_allclose(found[:3], wanted[:3], rtol=1e-12)
    assert found.clipped == wanted[3] and 0 < found.clipped < 1
    assert type(found) is instep.GroupStats


def train(row, starts, steps, options, clips, lay=lambda values, kind: values.copy()):
    """The optimizer at the end and its parameters; `lay` makes the arrays."""
    params = [lay(start, "param") for start in starts]
    opt = row.make(params, **clips, **options)
    for grads in steps:
        given = [None if grad is None else lay(grad, "grad") for grad in grads]
        before = [p.copy() for p in params]
        report = opt.step(given, grad_scale=3.0)
        if options:
            check_stats(report.stats, before, params, grads, clips)
            assert all((g == 0).all() for g in given if g is not None)
            assert not any(np.signbit(g).any() for g in given if g is not None)
    return opt, params


@pytest.mark.parametrize("given", gradient_dtypes(), ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_twin(name, given, dtype, isa, rng):
    """Parameters, states, averages and statistics."""
    row = ROWS[name]
    starts, steps = problem(rng, dtype, given)
    plain, plain_params = train(row, starts, steps, {}, CLIPS)
    trace = []
    wanted, states, _ = row.expect(starts, steps, grad_scale=3.0, trace=trace, **CLIPS)
    moved = [k for k, start in enumerate(starts) if start.size > 0]
    for warmup in (False, True):
        opt, params = train(row, starts, steps, {**EXTRAS, "ema_warmup": warmup}, CLIPS)
        assert everything(opt, *params)[:3] == everything(plain, *plain_params)[:3]
        lists = [[each[k] for k in moved] for each in (params, starts, wanted, states)]
        assert_close_to_twin(opt, *lists, [str(k) for k in moved])
        averages = reference.ema(starts, trace, decay=DECAY, warmup=warmup)
        for found, average, start in zip(opt.ema, averages, starts, strict=True):
            assert found.dtype == dtype and average_error(found, average, start, DECAY) < 1


@pytest.mark.parametrize("given", gradient_dtypes(), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop-centered-momentum", "adamw-amsgrad"])
def test_layouts(name, layout, given, dtype, rng, guarded):
    """The bits of the dense run; no byte beside the arrays. Without clip_norm: the sum of a norm
    follows the parameter's order."""
    starts, steps = problem(rng, dtype, given)
    clips = {"clip_value": CLIPS["clip_value"]}
    opt, params = train(ROWS[name], starts, steps, EXTRAS, clips)
    expected = everything(opt, *params)
    for other in LAYOUTS:

        def lay(values, kind, other=other):
            return guarded.array(values, layout=layout if kind == "param" else other)

        opt, params = train(ROWS[name], starts, steps, EXTRAS, clips, lay)
        assert everything(opt, *params) == expected, other


@pytest.mark.parametrize("extras", [*itertools.product([False, True], repeat=3)])
@pytest.mark.parametrize("name", ["nesterov", "rmsprop-centered-momentum", "adamw-amsgrad"])
def test_no_extra_changes_another(name, extras, dtype):
    """Nor the update, with every combination of them."""
    averaged, zeroed, measured = extras
    tree, steps = tiny_problem(dtype=dtype, steps=6)
    plain, _ = tiny_problem(dtype=dtype)
    opt = ROWS[name].make(
        tree, ema_decay=0.9 if averaged else None, zero_grads=zeroed, stats=measured
    )
    all_of_them = ROWS[name].make(plain, ema_decay=0.9, zero_grads=True, stats=True)
    for grads in steps:
        given = [np.array(g) for g in leaves(grads)]
        other = [np.array(g) for g in leaves(grads)]
        report = opt.step(nested(given))
        assert (report.stats is not None) == measured
        for found, grad in zip(given, leaves(grads), strict=True):
            assert bits(found) == bits(np.zeros_like(grad) if zeroed else grad)
        reference_report = all_of_them.step(nested(other))
        assert report[:5] == reference_report[:5]
        assert report.stats in (None, reference_report.stats)
    found, wanted = everything(opt, *leaves(tree)), everything(all_of_them, *leaves(plain))
    assert found[:3] == wanted[:3] and found[3] == (wanted[3] if averaged else None)


def nested(flat):
    W0, b0, W1, b1, scale = flat
    return {"layers": [{"W": W0, "b": b0}, {"W": W1, "b": b1}], "scale": scale}


@pytest.mark.parametrize("name", ["momentum", "adamw-amsgrad"])
def test_threads_and_instruction_sets(name, dtype, rng):
    """Beyond pieces and blocks; a large leaf that only follows; the same bits."""
    sizes = [40_000, 16_385, 100, 70_001]
    starts = [rng.normal(size=n).astype(dtype) for n in sizes]
    steps = [[rng.normal(size=n).astype(dtype) for n in sizes[:3]] + [None] for _ in range(3)]
    ends = []
    for level, threads in itertools.product(ISAS, (1, 2, 4)):
        params = [start.copy() for start in starts]
        with on_isa(level):
            opt = ROWS[name].make(
                params, ema_decay=0.7, zero_grads=True, stats=True, threads=threads, **CLIPS
            )
            reports = [opt.step([g if g is None else g.copy() for g in s]) for s in steps]
            with opt.swap_ema():
                swapped = [bits(p) for p in params]
        ends.append((reports, swapped, everything(opt, *params)))
    assert all(end == ends[0] for end in ends)
    assert swapped[3] == bits(starts[3])  # an average of what stands still


def test_groups_are_measured_apart(rng):
    params = [rng.normal(size=5), rng.normal(size=(3, 2)), rng.normal(size=4)]
    groups = [
        {"params": {"a": params[0], "b": params[1]}, "lr": 0.5},
        {"params": params[2], "lr": 0.0},
    ]
    opt = instep.SGD(groups, clip_value=0.6, stats=True)
    grads = [rng.normal(size=p.shape) for p in params]
    before = [p.copy() for p in params]
    first, second = opt.step([{"a": grads[0], "b": grads[1]}, grads[2]]).stats
    for found, part in ((first, slice(0, 2)), (second, slice(2, 3))):
        wanted = reference.statistics(before[part], params[part], grads[part], clip_value=0.6)
        np.testing.assert_allclose(found, wanted, rtol=1e-13)
    assert second.update_norm == 0 < first.update_norm
    none, second = opt.step([None, grads[2]]).stats
    assert none == (0, 0, 0, 0) and second.grad_norm == pytest.approx(np.linalg.norm(grads[2]))


@pytest.mark.parametrize(
    ("dtype", "grad", "wanted"),
    [
        (np.float32, [3e19, 4e19], 5e19),
        (np.float32, [3e-30, 4e-30], 5e-30),
        (np.float64, [3e160, 4e160], np.inf),  # as documented
        (np.float64, [3e-170, 4e-170], 0),
        (np.float64, [np.inf, 0], np.inf),
        (np.float64, [np.nan, np.inf], np.nan),
    ],
)
def test_range_of_the_norms(dtype, grad, wanted):
    opt = instep.SGD(np.zeros(2, dtype), lr=0.0, stats=True)
    (found,) = opt.step(np.array(grad, dtype)).stats
    np.testing.assert_allclose(found.grad_norm, wanted, rtol=1e-6)


def test_an_extreme_scale_is_measured_in_float64():
    opt = instep.SGD(np.zeros(2, np.float32), lr=1.0, clip_value=0.9, stats=True)
    (found,) = opt.step(np.array([3e-300, -4e-301]), grad_scale=5e-300).stats
    np.testing.assert_allclose(found.grad_norm, np.hypot(0.6, 0.08), rtol=1e-14)
    (found,) = opt.step(np.array([5e-300, -4e-301]), grad_scale=5e-300).stats
    assert found.clipped == 0.5 and found.update_norm == pytest.approx(np.hypot(0.9, 0.08))


def test_no_stats_unless_asked_or_taken():
    opt = instep.SGD(np.ones(2), nonfinite="skip")
    assert opt.step(np.ones(2)).stats is None
    opt.stats = True
    assert opt.step(np.ones(2)).stats[0].clipped == 0
    assert opt.step(np.array([np.nan, 1])).stats is None
    opt.stats = False
    assert opt.step(np.ones(2)).stats is None
    with pytest.raises(TypeError, match="stats must be True or False, got 1"):
        opt.stats = 1
