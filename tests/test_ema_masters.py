"""Averages beside float32 masters, and in arrays that a `state_factory` returns."""

import numpy as np
import pytest
from conftest import LAYOUTS, Shelf, assert_rounded, bits, everything
from test_optim import ROWS

import instep

# ---- float16 and bfloat16 parameters ---------------------------------------------------------


def train(param, grads, **options):
    opt = ROWS["adamw-amsgrad"].make(param, ema_decay=0.8, **options)
    for grad in grads:
        opt.step(grad)
    return opt


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_average_is_that_of_the_master(layout, low, rng, guarded):
    start = rng.normal(size=(6, 9)).astype(low)
    param = guarded.array(start, layout=layout)
    grads = [rng.normal(size=(6, 9)) for _ in range(5)]
    opt, twin = train(param, grads), train(start.astype(np.float32), grads)
    assert opt.ema.dtype == np.float32 and bits(opt.ema) == bits(twin.ema)
    shown, master, average = bits(param), bits(opt.master), opt.ema.copy()
    assert master != bits(average)
    with opt.swap_ema():
        assert bits(opt.master) == bits(average) and bits(opt.ema) == master
        assert_rounded(param, average)
        assert bits(param) != shown
    assert (bits(param), bits(opt.master), bits(opt.ema)) == (shown, master, bits(average))


def test_a_snapshot_within_the_exchange(low, rng):
    param = rng.normal(size=7).astype(low)
    opt = train(param, [rng.normal(size=7) for _ in range(3)])
    outside = opt.state_dict()
    with opt.swap_ema():
        inside = opt.state_dict()
        shared = opt.state_dict(copy=False)
        assert shared["master"]["param"] is opt.ema and shared["ema"]["param"] is opt.master
    for key in ("master", "ema"):
        assert bits(inside[key]["param"]) == bits(outside[key]["param"])
    other_param = np.zeros(7, low)
    other = ROWS["adamw-amsgrad"].optimizer(other_param)
    other.load_state_dict(inside)
    assert everything(other, other_param) == everything(opt, param)
    grad = rng.normal(size=7)
    opt.step(grad)
    other.step(grad)
    assert everything(other, other_param) == everything(opt, param)


def test_what_may_not_happen_to_masters_meanwhile(low):
    param = np.ones(3, low)
    opt = train(param, [np.ones(3)])
    with (
        opt.swap_ema(),
        pytest.raises(RuntimeError, match=r"refresh_master\(\) was called within swap_ema"),
    ):
        opt.refresh_master()
    param.flags.writeable = False
    before = everything(opt, param, opt.master)
    with pytest.raises(ValueError, match="params is read-only, and swap_ema"), opt.swap_ema():
        pass
    assert everything(opt, param, opt.master) == before


def test_statistics_and_zeros(low, rng):
    """update_norm is that of the master: what the rounded parameter shows may be nothing."""
    param, grad = np.ones(4, low), np.full(4, 0.5, low)
    opt = instep.SGD(param, lr=1e-5, zero_grads=True, stats=True)
    (found,) = opt.step(grad).stats
    np.testing.assert_allclose(found.update_norm, 1e-5, rtol=0.02)
    assert (param == 1).all() and not grad.any() and found.grad_norm == 1


# ---- state_factory ---------------------------------------------------------------------------


def test_averages_are_asked_for_when_they_begin():
    shelf = Shelf()
    params = {"a": np.ones((2, 3), order="F"), "b": np.ones(2, np.float16), "c": np.ones(0)}
    opt = instep.SGD(params, lr=1.0, state_factory=shelf)
    shelf.asked.clear()
    opt.ema_decay = 0.5
    assert shelf.asked == [("a.ema", (3, 2), np.float64), ("b.ema", (2,), np.float32)]
    assert np.shares_memory(opt.ema["a"], shelf.arrays["a.ema"]) and opt.ema["a"].shape == (2, 3)
    assert all((average == 1).all() for average in opt.ema.values())
    shelf.asked.clear()
    opt.add_param_group({"params": np.full(4, 2.0)})
    assert [name for name, _, _ in shelf.asked] == ["1.ema"] and (opt.ema[1] == 2).all()
    grads = [{name: np.ones_like(p, np.float64) for name, p in params.items()}, np.ones(4)]
    opt.step(grads)
    assert (shelf.arrays["a.ema"] == 0.5).all() and (opt.ema[1] == 1.5).all()


@pytest.mark.parametrize("way", ["constructor", "attribute", "group"])
def test_an_array_that_is_not_its_own_changes_nothing(way):
    param, late = np.ones(4), np.ones(4)

    def factory(name, shape, dtype):
        return late if way == "group" and name == "1.ema" else param

    if way == "constructor":
        with pytest.raises(ValueError, match=r"returned for 'param.ema' overlaps params"):
            instep.SGD(param, ema_decay=0.5, state_factory=factory)
        return
    opt = instep.SGD(param, ema_decay=0.5 if way == "group" else None)
    opt.state_factory = factory
    before = everything(opt, param)
    with pytest.raises(ValueError, match=r"state_factory returned for '.*ema' overlaps params"):
        if way == "attribute":
            opt.ema_decay = 0.5
        else:
            opt.add_param_group({"params": late})
    assert everything(opt, param) == before and (late == 1).all()
    assert opt.ema_decay == (0.5 if way == "group" else None)


def test_loaded_into_the_same_arrays(tmp_path, rng):
    """And what starts anew begins there too."""

    def mapped(name, shape, dtype):
        return np.memmap(tmp_path / name, dtype, "w+", shape=shape)

    param = rng.normal(size=5)
    opt = instep.Adam(param, ema_decay=0.5, state_factory=mapped)
    grads = [rng.normal(size=5) for _ in range(4)]
    opt.step(grads[0])
    saved, average = opt.state_dict(), opt.ema
    assert type(saved["ema"]["param"]) is np.ndarray
    kept, there = param.copy(), everything(opt)
    opt.step(grads[1])
    opt.load_state_dict(saved)
    assert opt.ema is average and everything(opt) == there
    opt.load_state_dict(opt.state_dict(copy=False))  # its own arrays
    assert opt.ema is average and everything(opt) == there
    del saved["ema"]
    assert opt.load_state_dict(saved, strict=False).missing == ("param.ema",)
    assert opt.ema is average and bits(average) == bits(param) != bits(kept)
    average.flags.writeable = False
    saved["ema"] = {"param": kept}
    with pytest.raises(ValueError, match=r"ema\['param'\] of the optimizer is read-only"):
        opt.load_state_dict(saved)


def test_a_checkpoint_has_the_averages(tmp_path, rng):
    param = rng.normal(size=5)
    opt = instep.Adam(param, ema_decay=0.5, ema_warmup=True)
    opt.step(rng.normal(size=5))
    instep.save(tmp_path / "run.npz", opt, params=param)
    read = instep.load(tmp_path / "run.npz")
    other_param = read.extra["params"]
    other = instep.Adam(other_param)
    assert other.load_state_dict(read.state_dict) == ((), ())
    assert everything(other, other_param) == everything(opt, param)


def test_a_loss_scaler_skips_and_zeroes():
    param, grad = np.ones(2), np.array([np.inf, 1.0])
    opt = instep.SGD(param, lr=1.0, ema_decay=0.5, zero_grads=True, stats=True)
    scaler = instep.LossScaler(4.0)
    scaler.scale(1.0)
    assert not scaler.step(opt, grad).applied and not grad.any()
    grad[...] = scaler.scale(2.0)
    report = scaler.step(opt, grad)
    assert report.stats[0].grad_norm == pytest.approx(8**0.5) and not grad.any()
    assert opt.ema.tolist() == [0, 0]


def test_a_read_only_average_that_would_start_anew():
    """It is found out before the master of another is written."""
    params = {"a": np.ones(3, np.float16), "b": np.ones(3)}
    opt = train(params, [{"a": np.ones(3), "b": np.ones(3)}], state_factory=Shelf())
    saved = opt.state_dict()
    del saved["ema"]["b"]
    opt.step({"a": np.ones(3), "b": np.ones(3)})
    before = everything(opt, *params.values())
    opt.ema["b"].flags.writeable = False
    with pytest.raises(ValueError, match=r"ema\['b'\] of the optimizer is read-only"):
        opt.load_state_dict(saved, strict=False)
    assert everything(opt, *params.values()) == before
    opt.ema["b"].flags.writeable = True
    opt.load_state_dict(saved, strict=False)
    assert bits(opt.ema["b"]) == bits(params["b"])
