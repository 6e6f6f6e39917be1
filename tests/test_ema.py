"""Moving averages of the parameters: their values and options."""

import numpy as np
import pytest
from conftest import bits, everything

import instep
from instep.schedules import CosineAnnealing


def one_step(opt, grad=None):
    return opt.step(np.ones(3) if grad is None else grad)


def make(**options):
    """Values so that every average of a few steps is exact."""
    w = np.array([8.0, 16.0, 32.0])
    return w, instep.SGD(w, **{"lr": 8.0, "ema_decay": 0.5, **options})


# ---- values ----------------------------------------------------------------------------------


def test_a_few_steps_by_hand():
    w, opt = make()
    average = opt.ema
    assert average.tolist() == [8, 16, 32] and not np.shares_memory(average, w)
    one_step(opt)
    assert w.tolist() == [0, 8, 24] and average.tolist() == [4, 12, 28]
    opt.ema_decay = 0.75
    one_step(opt)
    assert average.tolist() == [1, 9, 25] and opt.ema is average  # w is now -8, 0, 16


def test_a_parameter_without_gradient_is_followed():
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    opt = instep.SGD(params, lr=1.0, ema_decay=0.5)
    params["b"][...] = 8  # somebody sets it
    opt.step({"a": -np.ones(2), "b": None})
    opt.step({"a": None, "b": None})
    assert opt.ema["a"].tolist() == [0.75] * 2 and opt.ema["b"].tolist() == [6] * 2


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.97, 0.999])
def test_the_formula_in_the_type_of_the_parameter(decay, dtype, isa, rng):
    """torch's lerp without contraction to FMA, bit for bit."""
    w = rng.normal(size=1000).astype(dtype)
    wanted = w.copy()
    opt = instep.AdamW(w, lr=0.05, ema_decay=decay)
    weight = dtype.type(1 - decay)
    for _ in range(20):
        opt.step(rng.normal(size=1000).astype(dtype))
        if weight < 0.5:
            wanted = wanted + weight * (w - wanted)
        else:
            wanted = w - (1 - weight) * (w - wanted)
    assert bits(opt.ema) == bits(wanted)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.97, 0.999])
def test_as_the_averages_of_torch(decay, dtype, rng):
    """Of which each step may contract a multiplication and an addition."""
    torch = pytest.importorskip("torch")
    swa = torch.optim.swa_utils
    w = rng.normal(size=(50, 7)).astype(dtype)
    module = torch.nn.Module()
    module.w = torch.nn.Parameter(torch.tensor(w))
    twin = swa.AveragedModel(module, multi_avg_fn=swa.get_ema_multi_avg_fn(decay))
    twin.update_parameters(module)  # the first call copies
    opt = instep.AdamW(w, lr=0.05, ema_decay=decay)
    for _ in range(30):
        opt.step(rng.normal(0.5, 1, w.shape).astype(dtype))
        with torch.no_grad():
            module.w.copy_(torch.tensor(w))
        twin.update_parameters(module)
    bound = np.finfo(dtype).eps * np.abs(w).max() * 2 / (1 - decay)
    assert np.abs(opt.ema - twin.module.w.detach().numpy()).max() <= min(bound, 1e-5)


@pytest.mark.parametrize("warmup", [False, True])
def test_schedules_and_warmup(warmup):
    """The decay is that of the 0-based step of the optimizer."""
    w, opt = make(ema_decay=CosineAnnealing(0.5, 8, 0.1), ema_warmup=warmup)
    expected = w.copy()
    for t in range(20):
        decay = CosineAnnealing(0.5, 8, 0.1)(t)
        decay = min(decay, (1 + t) / (10 + t)) if warmup else decay
        one_step(opt)
        expected = expected + (1 - decay) * (w - expected)
        np.testing.assert_allclose(opt.ema, expected, rtol=1e-14)


def test_warmup_begins_at_a_tenth_and_ends_at_the_decay():
    w, opt = make(ema_decay=0.25, ema_warmup=True, lr=1.0)
    before = opt.ema.copy()
    for t in range(6):
        one_step(opt)
        found = 1 - (opt.ema - before) / (w - before)
        np.testing.assert_allclose(found, min(0.25, (1 + t) / (10 + t)), rtol=1e-12)
        before = opt.ema.copy()


def test_a_skipped_step_moves_no_average():
    _w, opt = make(nonfinite="skip")
    before = opt.ema.copy()
    assert not one_step(opt, np.array([1, np.nan, 1])).applied
    assert bits(opt.ema) == bits(before)


# ---- options ---------------------------------------------------------------------------------


def test_switched_off_and_on_again():
    w, opt = make()
    one_step(opt)
    opt.ema_decay = None
    assert opt.ema is None
    one_step(opt)
    opt.ema_decay = 0.5
    assert bits(opt.ema) == bits(w) and opt.ema is not w
    one_step(opt)
    assert (opt.ema - w).tolist() == [4] * 3


def test_nested_like_the_parameters():
    params = {"a": [np.ones(2), np.ones((2, 3), order="F")], "b": (np.ones(()),)}
    ema = instep.SGD(params, ema_decay=0.5).ema
    assert list(ema) == ["a", "b"] and type(ema["b"]) is tuple
    assert ema["a"][1].flags.f_contiguous and ema["b"][0].shape == ()
    groups = [{"params": params}, {"params": np.ones(4)}]
    first, second = instep.SGD(groups, ema_decay=0.5).ema
    assert list(first) == ["a", "b"] and second.shape == (4,)


def test_a_group_added_later_is_averaged_from_then_on():
    _w, opt = make()
    one_step(opt)
    kept = opt.ema
    late = np.array([2.0])
    opt.add_param_group({"params": late})
    assert opt.ema[0] is kept and bits(opt.ema[1]) == bits(late)
    opt.step([np.ones(3), -np.ones(1)])
    assert opt.ema[1].tolist() == [6] and opt.ema[0].tolist() == [-2, 6, 22]
    with pytest.raises(ValueError, match="overlaps"):
        opt.add_param_group({"params": late})
    assert len(opt.ema) == 2


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"ema_decay": 1.0}, ValueError, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"ema_decay": -0.1}, ValueError, r"ema_decay must be in \[0, 1\), got -0.1"),
        ({"ema_decay": np.nan}, ValueError, "ema_decay must be finite"),
        ({"ema_decay": "0.9"}, TypeError, "ema_decay must be a number or a schedule, got '0.9'"),
        ({"ema_decay": True}, TypeError, "ema_decay must be a number"),
        ({"ema_decay": 0.9, "ema_warmup": 1}, TypeError, "ema_warmup must be True or False"),
        ({"ema_decay": 0.9, "ema_warmup": None}, TypeError, "ema_warmup must be True or False"),
        ({"ema_warmup": True}, ValueError, "ema_warmup=True needs ema_decay"),
    ],
)
def test_bad_options(options, kind, text):
    with pytest.raises(kind, match=text):
        instep.Adam(np.ones(2), **options)


def test_warmup_needs_a_decay_at_any_time():
    w, opt = make(ema_decay=None)
    message = "ema_warmup=True needs ema_decay.*set ema_decay, or ema_warmup=False first"
    with pytest.raises(ValueError, match=message):
        opt.ema_warmup = True
    plain = opt.state_dict()
    opt.ema_decay, opt.ema_warmup = 0.5, True
    warm = opt.state_dict()
    one_step(opt)
    kept, before = opt.ema, everything(opt, w)
    with pytest.raises(ValueError, match=message):
        opt.ema_decay = None
    broken = {**warm, "options": {**warm["options"], "ema_decay": None}}
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(broken, strict=False)
    assert everything(opt, w) == before and opt.ema is kept
    assert (opt.ema_decay, opt.ema_warmup) == (0.5, True)
    opt.load_state_dict(plain)
    assert (opt.ema_decay, opt.ema_warmup, opt.ema) == (None, False, None)
    opt.load_state_dict(warm)
    assert (opt.ema_decay, opt.ema_warmup) == (0.5, True)
    opt.ema_warmup = False
    opt.ema_decay = None
    assert opt.ema is None


def test_a_bad_value_changes_nothing():
    w, opt = make()
    kept = opt.ema
    with pytest.raises(ValueError, match="ema_decay"):
        opt.ema_decay = 2
    assert opt.ema_decay == 0.5 and opt.ema is kept
    opt.ema_decay = lambda t: 0.5 if t < 1 else 1.5
    one_step(opt)
    before = everything(opt, w)
    with pytest.raises(ValueError, match=r"ema_decay \(its schedule at step 1\).*1.5"):
        one_step(opt)
    assert everything(opt, w) == before


def test_a_gradient_over_an_average_is_refused():
    _w, opt = make()
    with pytest.raises(ValueError, match=r"grads overlaps ema\['param'\] in memory"):
        opt.step(opt.ema)
    one_step(opt)
    with pytest.raises(ValueError, match=r"grads overlaps ema\['param'\]"):
        opt.step(opt.ema[::-1])
    freed = opt.ema
    opt.ema_decay = None
    opt.step(freed)


def test_a_schedule_may_change_the_decay_but_not_switch_it():
    _w, opt = make(ema_decay=None)

    def switch(step):
        opt.ema_decay = 0.5
        return 1.0

    opt.param_groups[0]["lr"] = switch
    with pytest.raises(RuntimeError, match="switch of ema_decay was called within a step"):
        one_step(opt)
    assert opt.ema is None and opt.steps == 0
    opt.param_groups[0]["lr"] = 1.0
    opt.ema_decay = 0.25
    opt.param_groups[0]["lr"] = switch
    one_step(opt)
    assert opt.ema_decay == 0.5 and opt.ema.tolist() == [7.5, 15.5, 31.5]
