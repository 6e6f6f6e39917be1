"""Dynamic loss scaling: what is scaled, what is skipped, and how the scale moves."""

import copy
import json
import math
import pickle
import threading

import numpy as np
import pytest
from conftest import bits, copy_tree, everything, leaves, tiny_problem

import instep
from instep.losses import cross_entropy
from instep.schedules import CosineAnnealing, ReduceOnPlateau, Warmup

LARGE = {"max_scale": 2.0**127, "min_scale": 2.0**-126}


def scaled(tree, factor):
    return {"layers": [{k: v * factor for k, v in d.items()} for d in tree["layers"]]} | {
        "scale": tree["scale"] * factor
    }


def iterate(scaler, opt, *good, **options):
    """One iteration per flag: gradients that are finite or not."""
    reports = []
    for fine in good:
        grad = np.full(2, 0.25, np.float16)
        grad[1] = 0.25 if fine else np.inf
        scaler.scale(np.float16(1))
        reports.append(scaler.step(opt, grad, **options))
    return reports


def plain(**options):
    return instep.SGD(np.zeros(2, np.float32), **options)


# ---- scaling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "longdouble"])
def test_scaling_rounds_nothing_and_keeps_the_dtype(name, rng):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)
    scaler = instep.LossScaler()
    given = (rng.normal(0, 1e-6, (5, 7))).astype(dtype)  # subnormal in float16
    before = bits(given)
    found = scaler.scale(given[:, ::2])
    assert found.dtype == dtype and bits(given) == before
    wide = np.longdouble
    assert (found.astype(wide) == given[:, ::2].astype(wide) * 65536).all()
    assert np.abs(found).max() > 0.05  # 65536 itself is infinite in float16


def test_scaling_writes_where_it_is_told():
    scaler = instep.LossScaler(1024.0)
    given = np.float16([1.5, -2.0, 1e-7])
    out = np.empty(3, np.float16)
    assert scaler.scale(given, out=out) is out and out[0] == 1536 and given[0] == 1.5
    assert scaler.scale(given, out=given) is given
    assert bits(given) == bits(out)
    base = np.float16([1, 2, 3, 4])  # overlapping, as if it was not
    scaler.scale(base[:3], out=base[1:])
    assert (base == [1, 1024, 2048, 3072]).all()


def test_scaling_overflows_to_infinity_without_a_warning():
    found = instep.LossScaler().scale(np.float16([-2, 2, 0.5, 0]))
    assert (found == np.float16([-np.inf, np.inf, 32768, 0])).all()


def test_scaling_numbers_and_scalars():
    scaler = instep.LossScaler(4.0)
    for given in (0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5), np.array(0.5)):
        found = scaler.scale(given)
        assert found == 2.0 and type(found) is type(given)
    assert scaler.scale(3) == 12.0
    out = np.zeros((), np.float32)
    for given in (np.float32(0.5), np.array(0.5, np.float32)):
        assert scaler.scale(given, out=out) is out and out == 2.0


@pytest.mark.parametrize(
    ("given", "out", "kind", "message"),
    [
        (np.arange(3), None, TypeError, "gradient.*int64.*floating-point"),
        (True, None, TypeError, "gradient"),
        ("1", None, TypeError, "gradient"),
        ([1.0], None, TypeError, "one array, got list"),
        ({"W": np.ones(2)}, None, TypeError, "one array, got dict"),
        (np.ones(2, ">f4"), None, TypeError, "gradient.*byte order"),
        (np.ones(2), [0.0, 0.0], TypeError, "out must be a NumPy array, got list"),
        (np.ones(2), np.ones(2, np.float32), TypeError, "out.*float64, got float32"),
        (np.ones(2), np.ones((2, 2)), ValueError, r"out.*\(2,\), got \(2, 2\)"),
        (np.ones(2), np.broadcast_to(1.0, 2), ValueError, "out is read-only"),
        (1.0, np.ones(2), ValueError, r"out.*\(\), got \(2,\)"),
    ],
)
def test_what_cannot_be_scaled(given, out, kind, message):
    before = copy.deepcopy(out)
    with pytest.raises(kind, match=message):
        instep.LossScaler().scale(given, out=out)
    assert np.array_equal(before, out)


def test_out_that_overlaps_itself_is_refused():
    out = np.lib.stride_tricks.as_strided(np.zeros(3), (2, 2), (8, 8))
    with pytest.raises(ValueError, match="out overlaps itself"):
        instep.LossScaler().scale(np.ones((2, 2)), out=out)


def test_a_loss_with_its_gradient_is_pointed_to_the_gradient():
    pair = instep.losses.mse(np.ones(2), np.zeros(2))
    with pytest.raises(TypeError, match=r"LossGrad.*\.grad"):
        instep.LossScaler().scale(pair)


# ---- steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [instep.SGD, instep.RMSprop, instep.Adam, instep.AdamW])
@pytest.mark.parametrize("policy", ["propagate", "skip"])
def test_a_scaled_step_has_the_bits_of_an_unscaled_one(make, policy):
    """Also with clipping, which acts on unscaled gradients."""
    params, steps = tiny_problem()
    other = copy_tree(params)
    options = {"lr": Warmup(0.1, 4), "clip_norm": 2.0, "clip_value": 0.7}
    opt, plain = make(params, **options, nonfinite=policy), make(other, **options, nonfinite="skip")
    scaler = instep.LossScaler(growth_interval=3)
    for grads in steps:
        report = scaler.step(opt, scaled(grads, np.float32(scaler.value)))
        assert report == plain.step(grads)
        assert report.nonfinite == 0 and report.grad_norm > 2.0
    assert everything(opt, *leaves(params)) == everything(plain, *leaves(other))
    assert scaler.value == 2.0**18 and opt.nonfinite == policy


def test_gradients_of_any_dtype():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype in (np.float16, bfloat16, np.float32, np.float64, np.longdouble):
        scaler, param = instep.LossScaler(256.0), np.zeros(2, np.float32)
        opt = instep.SGD(param, lr=1.0)
        assert scaler.step(opt, scaler.scale(np.array([0.5, -2], dtype))).applied
        assert (param == [-0.5, 2]).all()
        for bad in (np.inf, -np.inf, np.nan):
            report = scaler.step(opt, scaler.scale(np.array([0.5, bad], dtype)))
            assert not report.applied and report.nonfinite == 1
        assert (param == [-0.5, 2]).all() and scaler.value == 32.0


def test_what_overflows_in_float16_is_skipped_until_it_fits():
    scaler, param = instep.LossScaler(), np.zeros(1, np.float32)
    opt = instep.SGD(param, lr=1.0)
    reports = [scaler.step(opt, scaler.scale(np.float16([8.0]))) for _ in range(6)]
    assert [r.applied for r in reports] == [False] * 4 + [True] * 2
    assert [r.nonfinite for r in reports] == [1] * 4 + [0] * 2
    assert [r.step for r in reports] == [0, 0, 0, 0, 1, 2]
    assert scaler.value == 4096.0 and param == -16


@pytest.mark.parametrize("make", [instep.SGD, instep.RMSprop, instep.Adam, instep.AdamW])
@pytest.mark.parametrize("policy", ["propagate", "skip"])
def test_a_skipped_step_leaves_everything_and_no_schedule_advances(make, policy):
    params, steps = tiny_problem()
    plateau = ReduceOnPlateau(0.1, factor=0.5, patience=0)
    cosine = CosineAnnealing(0.2, 10)
    groups = [
        {"params": params["layers"], "lr": cosine},
        {"params": params["scale"], "lr": Warmup(plateau, 3)},
    ]
    opt = make(groups, nonfinite=policy)
    scaler = instep.LossScaler()
    applied = 0
    for t, grads in enumerate(steps):
        if t == 4:
            plateau.observe(1.0)
            plateau.observe(2.0)
        grads = scaled(grads, np.float32(scaler.value))
        if t % 3 != 1:
            grads["layers"][1]["b"][2] = np.nan
            before = everything(opt, *leaves(params)), pickle.dumps(opt.state_dict())
        state = plateau.state
        report = scaler.step(opt, [grads["layers"], grads["scale"]])
        assert plateau.state is state
        assert report.lr == cosine(applied)
        assert report.applied is (t % 3 == 1)
        applied += report.applied
        assert report.step == opt.steps == applied
        if not report.applied:
            after = everything(opt, *leaves(params)), pickle.dumps(opt.state_dict())
            assert after == before
    assert applied == 3 and plateau.state.lr == 0.05
    assert scaler.value == 2.0 ** (16 - 5)


def test_plain_steps_between_scaled_ones_are_the_optimizers_own():
    """In both orders, the short way of a step included."""
    opt, scaler = plain(lr=1.0), instep.LossScaler()
    with np.errstate(all="ignore"):
        for _ in range(3):
            opt.step(np.ones(2, np.float32))
        assert not iterate(scaler, opt, False)[0].applied
        assert opt.steps == 3
        opt.step(np.ones(2, np.float32))
        assert opt.step(np.float32([1, np.inf])).applied  # "propagate": the damage is loud
    assert opt.param_groups[0]["params"][1] == -np.inf


def test_gradient_buffers():
    scaler, param = instep.LossScaler(8.0), np.zeros(2, np.float32)
    opt = instep.SGD(param, lr=1.0)
    with pytest.raises(ValueError, match=r"opt\.grads"):
        scaler.scale(1.0)
        scaler.step(opt)
    opt.grads[...] = scaler.value
    assert scaler.step(opt).applied and (param == -1).all()


def test_accumulated_gradients_are_divided_by_both():
    scaler, param = instep.LossScaler(8.0), np.zeros(2, np.float32)
    opt = instep.SGD(param, lr=1.0)
    total = sum(scaler.scale(np.float32([1, 2])) for _ in range(4))
    scaler.step(opt, total, grad_scale=4)
    assert (param == [-1, -2]).all()


# ---- the scale -------------------------------------------------------------------------------


def test_the_scale_grows_and_backs_off():
    scaler, opt = instep.LossScaler(16.0, growth_interval=3), plain()
    seen = []
    for fine in [True] * 4 + [False] + [True] * 2 + [False] + [True] * 3:
        iterate(scaler, opt, fine)
        seen.append((scaler.value, scaler.growth_tracker))
    assert seen == [
        *[(16, 1), (16, 2), (32, 0), (32, 1)],
        *[(16, 0), (16, 1), (16, 2), (8, 0)],
        *[(8, 1), (8, 2), (16, 0)],
    ]


@pytest.mark.parametrize("good_share", [0.5, 0.9, 0.99])
def test_the_scale_goes_where_that_of_pytorch_goes(good_share, rng):
    torch = pytest.importorskip("torch")
    options = {"init_scale": 2.0**10, "growth_interval": 7}
    theirs = torch.amp.GradScaler("cpu", **options)
    ours = instep.LossScaler(**options, **LARGE)
    param = torch.nn.Parameter(torch.zeros(2))
    their_opt, our_opt = torch.optim.SGD([param], lr=0.125), plain(lr=0.125)
    visited = set()
    # Between 2**-126 and 2**127: beyond, PyTorch's float32 scale underflows to 0.
    for good in rng.random(700) < good_share:
        assert ours.value == theirs.get_scale()
        assert ours.growth_tracker == theirs._get_growth_tracker()
        if ours.value == 2.0**-126 and not good:
            break
        visited.add(ours.value)
        grad = np.float32([1.0, 1.0 if good else rng.choice([np.nan, np.inf, -np.inf])])
        theirs.scale(torch.zeros(()))
        param.grad = torch.from_numpy(grad * np.float32(theirs.get_scale()))
        theirs.step(their_opt)
        theirs.update()
        assert ours.step(our_opt, ours.scale(grad)).applied == good
        assert np.array_equal(param.detach().numpy(), our_opt.param_groups[0]["params"])
    assert len(visited) >= 10 and our_opt.steps > 20


def test_defaults_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    theirs, ours = torch.amp.GradScaler("cpu"), instep.LossScaler()
    assert ours.value == theirs.get_scale()
    for name in ("growth_factor", "backoff_factor", "growth_interval"):
        assert getattr(ours, name) == getattr(theirs, f"get_{name}")()
    assert ours.enabled is theirs.is_enabled() is True


def test_the_scale_stays_between_its_bounds():
    scaler = instep.LossScaler(8.0, growth_interval=1, min_scale=3.0, max_scale=24.0)
    opt, seen = plain(), []
    for fine in [True] * 3 + [False] * 5 + [True]:
        iterate(scaler, opt, fine)
        seen.append(scaler.value)
    assert seen == [16, 24, 24, 12, 6, 3, 3, 3, 6]
    scaler, opt = instep.LossScaler(**LARGE, growth_interval=1, growth_factor=1e300), plain()
    iterate(scaler, opt, True)
    assert scaler.value == 2.0**127
    scaler, opt = instep.LossScaler(**LARGE, backoff_factor=1e-300), plain()
    iterate(scaler, opt, False, False)
    assert scaler.value == 2.0**-126 and scaler.scale(np.float32(2.0**126)) == 1.0


def test_by_default_it_falls_to_1_and_rises_to_2_to_the_32():
    scaler, opt = instep.LossScaler(growth_interval=1), plain()
    iterate(scaler, opt, *[False] * 40)
    assert scaler.value == 1.0
    iterate(scaler, opt, *[True] * 40)
    assert scaler.value == 2.0**32


# ---- several optimizers ----------------------------------------------------------------------


def test_several_optimizers_share_one_update():
    scaler, first, second = instep.LossScaler(16.0, growth_interval=2), plain(), plain()
    iterate(scaler, first, True, update=False)
    assert not iterate(scaler, second, False, update=False)[0].applied
    assert scaler.value == 16.0  # until the iteration ends
    scaler.update()
    assert (scaler.value, scaler.growth_tracker) == (8.0, 0)
    assert (first.steps, second.steps) == (1, 0)
    iterate(scaler, first, False, update=False)
    iterate(scaler, second, True)  # the last one may update
    assert scaler.value == 4.0
    for _ in range(2):
        iterate(scaler, first, True, update=False)
        iterate(scaler, second, True, update=False)
        scaler.update()
    assert (scaler.value, scaler.growth_tracker) == (8.0, 0)


def test_optimizers_may_step_in_several_threads():
    scaler = instep.LossScaler(16.0)
    optimizers = [instep.Adam(np.ones(50_000, np.float32)) for _ in range(4)]
    for round_ in range(10):
        grads = [np.full(50_000, scaler.value) for _ in optimizers]
        grads[round_ % 4][-1] = np.inf if round_ < 2 else 1.0
        threads = [
            threading.Thread(target=scaler.step, args=pair, kwargs={"update": False})
            for pair in zip(optimizers, grads, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        scaler.update()
    assert scaler.value == 4.0 and scaler.growth_tracker == 8
    assert [opt.steps for opt in optimizers] == [9, 9, 10, 10]


def test_gradients_scaled_before_an_update_are_refused():
    """As when `update=False` was forgotten, or the scale was read once before the loop."""
    scaler, first, second = instep.LossScaler(), plain(), plain()
    grad = scaler.scale(np.ones(2, np.float32))
    scaler.step(first, grad)
    before = scaler.state_dict()
    with pytest.raises(RuntimeError, match="update=False"):
        scaler.step(second, grad)
    assert second.steps == 0 and scaler.state_dict() == before
    assert scaler.value == 65536.0
    assert scaler.step(second, grad).applied


def test_update_needs_a_step():
    scaler = instep.LossScaler()
    with pytest.raises(RuntimeError, match=r"update\(\) without a step"):
        scaler.update()
    iterate(scaler, plain(), True)
    with pytest.raises(RuntimeError, match=r"step\(\) calls it by itself"):
        scaler.update()
    assert scaler.growth_tracker == 1


# ---- refusals --------------------------------------------------------------------------------


def test_an_optimizer_that_raises_is_refused_with_the_fix():
    opt, scaler = plain(nonfinite="raise"), instep.LossScaler()
    scaler.scale(1.0)
    for grad in (np.ones(2), np.array([1, np.nan])):
        with pytest.raises(ValueError, match=r"optimizer\.nonfinite = 'skip'"):
            scaler.step(opt, grad)
    assert opt.steps == 0 and scaler.growth_tracker == 0
    opt.nonfinite = "skip"
    assert scaler.step(opt, np.ones(2)).applied


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([np.ones(2)],), TypeError, r"grads"),
        ((np.ones(3),), ValueError, r"grads.*shape \(3,\)"),
        ((np.arange(2),), TypeError, r"grads.*floating-point"),
        ((None,), TypeError, "grads is None"),
    ],
)
def test_a_refused_step_leaves_the_scaler(arguments, kind, message):
    opt, scaler = plain(), instep.LossScaler(growth_interval=1)
    before, _ = scaler.state_dict(), scaler.value
    with pytest.raises(kind, match=message):
        scaler.step(opt, *arguments)
    assert scaler.state_dict() == before and opt.steps == 0
    assert scaler.step(opt, np.ones(2)).applied  # and the iteration can go on


def test_refused_arguments_of_step():
    scaler = instep.LossScaler()
    scaler.scale(1.0)
    with pytest.raises(TypeError, match="optimizer must be one of instep's, got ndarray"):
        scaler.step(np.ones(2), np.ones(2))
    with pytest.raises(TypeError, match="update must be True or False"):
        scaler.step(plain(), np.ones(2), update=1)
    for wrong, kind in (
        (0, ValueError),
        (-1.0, ValueError),
        (math.nan, ValueError),
        ("2", TypeError),
    ):
        for enabled in (True, False):
            scaler = instep.LossScaler(enabled=enabled)
            scaler.scale(1.0)
            with pytest.raises(kind, match="grad_scale"):
                scaler.step(plain(), np.ones(2), grad_scale=wrong)


WRONG = [
    ("init_scale", 0.0, ValueError),
    ("init_scale", 0.5, ValueError),  # below min_scale
    ("init_scale", 2.0**33, ValueError),
    ("init_scale", math.nan, ValueError),
    ("init_scale", "65536", TypeError),
    ("init_scale", True, TypeError),
    ("growth_factor", 1.0, ValueError),
    ("growth_factor", math.inf, ValueError),
    ("growth_factor", None, TypeError),
    ("backoff_factor", 1.0, ValueError),
    ("backoff_factor", 0.0, ValueError),
    ("backoff_factor", -0.5, ValueError),
    ("backoff_factor", [0.5], TypeError),
    ("growth_interval", 0, ValueError),
    ("growth_interval", 2000.0, TypeError),
    ("growth_interval", True, TypeError),
    ("min_scale", 0.0, ValueError),
    ("min_scale", 2.0**-127, ValueError),
    ("min_scale", 2.0**20, ValueError),  # above init_scale
    ("max_scale", 2.0**128, ValueError),
    ("max_scale", math.inf, ValueError),
    ("max_scale", 0.5, ValueError),  # below min_scale
    ("enabled", 1, TypeError),
]


@pytest.mark.parametrize(("name", "value", "kind"), WRONG)
def test_refused_settings(name, value, kind):
    with pytest.raises(
        kind, match=r"init_scale" if name == "min_scale" and value == 2**20 else name
    ):
        instep.LossScaler(**{name: value})


def test_settings_can_be_read_and_not_set():
    scaler = instep.LossScaler(np.float32(512), growth_interval=np.int64(5), min_scale=2)
    assert repr(scaler) == (
        "LossScaler(scale=512.0, growth_tracker=0, growth_factor=2.0, backoff_factor=0.5, "
        "growth_interval=5, min_scale=2.0, max_scale=4294967296.0, enabled=True)"
    )
    for name in ("value", "growth_interval", "min_scale", "growth_tracker", "enabled"):
        with pytest.raises(AttributeError):
            setattr(scaler, name, 1)


def test_not_enabled_it_changes_nothing():
    scaler = instep.LossScaler(enabled=False)
    given = np.float16([1, 2])
    found = scaler.scale(given)
    assert scaler.value == 1.0 and bits(found) == bits(given) and found is not given
    opt, other = plain(lr=0.5, nonfinite="raise"), plain(lr=0.5, nonfinite="raise")
    assert scaler.step(opt, given) == other.step(given)
    assert scaler.step(opt, given, grad_scale=2.0) == other.step(given, grad_scale=2.0)
    with pytest.raises(FloatingPointError):
        scaler.step(opt, np.float16([1, np.inf]))
    scaler.update()
    assert everything(opt, opt.param_groups[0]["params"]) == everything(
        other, other.param_groups[0]["params"]
    )
    assert scaler.growth_tracker == 0


# ---- state -----------------------------------------------------------------------------------


def training():
    """Gradients whose sizes ask for scales that differ; a step is bits that can be compared."""
    rng = np.random.default_rng(3)
    steps = [rng.normal(0, 10.0 ** rng.uniform(-4, 1), 6).astype(np.float16) for _ in range(40)]

    def run(param, opt, scaler, first, last):
        return [
            (scaler.step(opt, scaler.scale(grad)), scaler.value) for grad in steps[first:last]
        ], bits(param)

    return run


@pytest.mark.parametrize("form", [json.dumps, pickle.dumps])
def test_resumed_at_any_step_bit_for_bit(form):
    read = json.loads if form is json.dumps else pickle.loads
    run = training()
    settings = {"growth_interval": 2, "growth_factor": 3.0, "backoff_factor": 0.3}

    def make():
        param = np.zeros(6, np.float32)
        return param, instep.Adam(param, lr=Warmup(0.1, 9)), instep.LossScaler(700.0, **settings)

    whole, end = run(*make(), 0, 40)
    assert 5 < sum(report.applied for report, _ in whole) < 35
    for middle in range(1, 40, 3):
        param, opt, scaler = make()
        run(param, opt, scaler, 0, middle)
        saved = form(scaler.state_dict())
        other, resumed = instep.Adam(param.copy()), instep.LossScaler()
        other.load_state_dict(opt.state_dict())
        resumed.load_state_dict(read(saved))
        assert resumed.state_dict() == scaler.state_dict()
        continued, found = run(other.param_groups[0]["params"], other, resumed, middle, 40)
        assert continued == whole[middle:] and found == end


def test_state_dict_of_the_numbers():
    scaler, opt = instep.LossScaler(8.0, growth_interval=9, enabled=True), plain()
    iterate(scaler, opt, False, True, True)
    assert scaler.state_dict() == {
        "version": 1,
        "scale": 4.0,
        "growth_tracker": 2,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 9,
        "min_scale": 1.0,
        "max_scale": 2.0**32,
    }
    unused = instep.LossScaler(enabled=False)
    unused.load_state_dict(scaler.state_dict())
    assert unused.value == 1.0 and unused.state_dict() == scaler.state_dict()


def test_copies_and_pickles_go_on_alike():
    scaler, opt = instep.LossScaler(8.0, growth_interval=2), plain()
    iterate(scaler, opt, True)
    for twin in (copy.copy(scaler), copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        iterate(twin, plain(), True)
        assert (twin.value, twin.growth_tracker) == (16.0, 0)
    assert (scaler.value, scaler.growth_tracker) == (8.0, 1)


def test_a_state_within_an_iteration_is_refused():
    scaler, opt = instep.LossScaler(), plain()
    iterate(scaler, opt, False, update=False)
    with pytest.raises(RuntimeError, match=r"update\(\)"):
        scaler.state_dict()
    scaler.update()
    saved = scaler.state_dict()
    iterate(scaler, opt, False, update=False)
    scaler.load_state_dict(saved)  # what was begun is forgotten
    assert scaler.state_dict() == saved
    with pytest.raises(RuntimeError, match="not scaled"):
        scaler.step(opt, np.ones(2))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        *[
            ({"scale" if name == "init_scale" else name: value}, kind, name.replace("init_", ""))
            for name, value, kind in WRONG
            if name != "enabled" and value != 2.0**20
        ],
        ({"min_scale": 128.0}, ValueError, "scale must be between 128.0"),
        ({"version": 2}, ValueError, "version 2"),
        ({"growth_tracker": -1}, ValueError, "growth_tracker.*-1"),
        ({"growth_tracker": 1.0}, TypeError, "growth_tracker"),
        ({"growth_tracker": 5}, ValueError, "growth_tracker.*below growth_interval"),
        ({"surplus": 1}, ValueError, "needs.*surplus"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, kind, message):
    scaler, opt = instep.LossScaler(64.0, growth_interval=5), plain()
    iterate(scaler, opt, True, True)
    before = scaler.state_dict()
    good = instep.LossScaler(32.0, growth_interval=5, max_scale=2.0**20).state_dict()
    with pytest.raises(kind, match=message):
        scaler.load_state_dict(good | change)
    assert scaler.state_dict() == before


def test_what_is_no_state_is_refused():
    scaler = instep.LossScaler()
    state = scaler.state_dict()
    for key in state:
        with pytest.raises(ValueError, match=f"needs.*{key}"):
            scaler.load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(TypeError, match="got list"):
        scaler.load_state_dict(list(state.items()))
    with pytest.raises(ValueError, match="LossScaler"):
        scaler.load_state_dict(plain().state_dict())
    assert scaler.state_dict() == state


# ---- a network -------------------------------------------------------------------------------

WEIGHT = np.float32(1e-6)  # of this loss among others: its gradients are below float16


def forward(params, x, dtype):
    """tanh(x W + b) V, all of it in `dtype`."""
    copies = {name: value.astype(dtype) for name, value in params.items()}
    hidden = np.tanh(x.astype(dtype) @ copies["W"] + copies["b"])
    return hidden @ copies["V"], (x.astype(dtype), hidden, copies["V"])


def backward(cache, delta):
    x, hidden, last = cache
    inner = (delta @ last.T) * (1 - hidden * hidden)
    return {"W": x.T @ inner, "b": inner.sum(0, dtype=inner.dtype), "V": hidden.T @ delta}


def train(dtype, scaler, steps=400):
    """Tell the quadrants apart. Returns the losses, the reports and what became of the start."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (512, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    shapes = {"W": (2, 16), "b": (16,), "V": (16, 2)}
    params = {k: rng.normal(0, 0.5, shape).astype(np.float32) for k, shape in shapes.items()}
    start = copy_tree(params)
    opt = instep.AdamW(params, lr=0.02, eps=1e-16, weight_decay=0)
    losses, reports = [], []
    for _ in range(steps):
        outputs, cache = forward(params, x, dtype)
        loss, delta = cross_entropy(outputs.astype(np.float32), labels)
        losses.append(loss)
        with np.errstate(over="ignore", invalid="ignore"):
            grads = backward(cache, scaler.scale(delta * WEIGHT).astype(dtype))
        assert all(grad.dtype == dtype for grad in grads.values())
        reports.append(scaler.step(opt, grads))
    moved = [not np.array_equal(params[name], start[name]) for name in params]
    return losses, reports, moved


def test_a_float16_network_trains_with_a_scaler_alone():
    """Without one all its gradients are 0; with one it ends where float32 does."""
    losses, _, moved = train(np.float16, instep.LossScaler(enabled=False), 20)
    assert moved == [False] * 3 and losses[-1] == losses[0] > 0.6

    # Growing so fast it overflows again and again, and is never further off than a factor of 2.
    scaler = instep.LossScaler(growth_interval=10, max_scale=2.0**60)
    losses, reports, moved = train(np.float16, scaler)
    expected, _, _ = train(np.float32, instep.LossScaler(enabled=False))
    assert all(moved) and losses[-1] < 0.1
    assert losses[-1] == pytest.approx(expected[-1], rel=0.15)
    skipped = [report for report in reports if not report.applied]
    assert 3 <= len(skipped) <= 40 and all(report.nonfinite > 0 for report in skipped)
    assert reports[-1].step == len(reports) - len(skipped)
    assert scaler.value > 2.0**30
