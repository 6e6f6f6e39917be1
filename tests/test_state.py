"""State, snapshots, saving and loading: bit-exact, by name, whole or not at all."""

import copy
import json
import pickle

import numpy as np
import pytest
from conftest import bits, copy_tree, everything, leaves, tiny_problem
from test_optim import ROWS

import instep
from instep.schedules import Constant, CosineAnnealing, Warmup

NAMES = ["layers.0.W", "layers.0.b", "layers.1.W", "layers.1.b", "scale"]
TORCH_NAMES = {
    "sgd": [],
    "momentum": ["momentum_buffer"],
    "rmsprop": ["square_avg"],
    "rmsprop-momentum": ["square_avg", "momentum_buffer"],
    "rmsprop-centered": ["square_avg", "grad_avg"],
    "rmsprop-centered-momentum": ["square_avg", "grad_avg", "momentum_buffer"],
    "adam": ["exp_avg", "exp_avg_sq"],
    "adamw-amsgrad": ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
}


def through_pickle(state):
    return pickle.loads(pickle.dumps(state))


def with_gaps(steps):
    """Leaf layers.1.b is late, layers.0.W misses every third step."""
    for t, grads in enumerate(steps):
        if t < 5:
            grads["layers"][1]["b"] = None
        if t % 3 == 1:
            grads["layers"][0]["W"] = None
    return steps


# ---- the state -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_names_and_layout_of_states(name):
    params = {
        "W": np.asfortranarray(np.ones((3, 4), np.float32)),
        "b": np.ones(5),
        "s": np.ones((6, 4), np.float32)[::2, ::-1],
    }
    opt = ROWS[name].make(params)
    assert opt.state == {}
    opt.step({key: np.ones_like(value) for key, value in params.items()})
    assert list(opt.state) == ["W", "b", "s"]
    for key, entry in opt.state.items():
        assert list(entry) == ["step", *TORCH_NAMES[name]]
        assert entry["step"] == 1 and type(entry["step"]) is int
        for array in [entry[state] for state in TORCH_NAMES[name]]:
            assert (array.shape, array.dtype) == (params[key].shape, params[key].dtype)
            assert array.flags.f_contiguous if key == "W" else array.flags.c_contiguous


def test_state_shows_the_arrays_that_the_step_updates():
    opt = instep.SGD({"w": np.ones(2)}, lr=0.1, momentum=0.5)
    opt.step({"w": np.ones(2)})
    buffer = opt.state["w"]["momentum_buffer"]
    opt.step({"w": np.ones(2)})
    assert buffer.tolist() == [1.5, 1.5] and opt.state["w"]["momentum_buffer"] is buffer
    buffer[...] = 0  # what is written there is used
    opt.step({"w": np.ones(2)})
    assert buffer.tolist() == [1.0, 1.0]


def test_names_of_groups_and_of_a_single_array():
    opt = instep.SGD(np.ones(2))
    opt.step(np.ones(2))
    assert list(opt.state) == ["param"]
    opt = instep.SGD([{"params": {"a": [np.ones(1)]}}, {"params": np.ones(2)}])
    opt.step([{"a": [np.ones(1)]}, np.ones(2)])
    assert list(opt.state) == ["0.a.0", "1"]


# ---- snapshots -------------------------------------------------------------------------------


def test_a_snapshot_does_not_change_with_later_steps():
    tree, steps = tiny_problem()
    opt = instep.AdamW(tree, lr=0.1, betas=(0.8, 0.9), clip_norm=1.0, ema_decay=0.5)
    opt.step(steps[0])
    saved = opt.state_dict()
    frozen = copy.deepcopy(saved)
    for grads in steps[1:]:
        opt.param_groups[0]["lr"] = 0.2
        opt.step(grads)
    opt.clip_norm = 3.0
    assert saved.keys() == frozen.keys()
    for key in saved.keys() - {"state", "ema"}:
        assert saved[key] == frozen[key]
    for name, average in frozen["ema"].items():
        np.testing.assert_array_equal(saved["ema"][name], average)
    for name, entry in frozen["state"].items():
        for key, value in entry.items():
            np.testing.assert_array_equal(saved["state"][name][key], value)
    assert saved["steps"] == 1 and saved["param_groups"][0]["lr"] == 0.1
    assert saved["param_groups"][0]["params"] == NAMES
    saved["state"]["scale"]["exp_avg"][...] = 99  # nor the other way round
    assert opt.state["scale"]["exp_avg"] != 99


@pytest.mark.parametrize("way", [lambda s: s, through_pickle, copy.deepcopy])
@pytest.mark.parametrize("name", ROWS)
def test_save_and_load_in_mid_run(name, way, dtype):
    """A run that was interrupted ends with the bits of one that was not."""
    tree, steps = tiny_problem(dtype=dtype, steps=12)
    steps = with_gaps(steps)
    straight, broken = copy_tree(tree), copy_tree(tree)
    options = {"clip_norm": 2.0, "clip_value": 0.7, "nonfinite": "skip"}
    options |= {"ema_decay": 0.8, "ema_warmup": True}
    opt, first = ROWS[name].make(straight, **options), ROWS[name].make(broken, **options)
    for stop in (3, 8):
        for grads in steps[:stop] if stop == 3 else steps[3:8]:
            assert opt.step(grads) == first.step(grads)
        saved = way(first.state_dict())
        broken = copy_tree(broken)  # as if it had been read from disk
        first = ROWS[name].optimizer(broken)  # with the defaults
        report = first.load_state_dict(saved)
        assert report == ((), ())
        assert everything(first, *leaves(broken)) == everything(opt, *leaves(straight))
    for grads in steps[8:]:
        assert opt.step(grads) == first.step(grads)
    assert everything(opt, *leaves(straight)) == everything(first, *leaves(broken))


def test_loading_brings_hyperparameters_schedules_and_options():
    tree, steps = tiny_problem(steps=10)
    straight, broken = copy_tree(tree), copy_tree(tree)
    hyper = {
        "lr": Warmup(CosineAnnealing(0.3, 9, 0.01), 3),
        "betas": (Constant(0.7), 0.95),
        "weight_decay": CosineAnnealing(0.2, 5),
    }
    opt = instep.AdamW(straight, **hyper, clip_norm=CosineAnnealing(2.0, 7, 0.1))
    for grads in steps[:4]:
        opt.step(grads)
    opt.param_groups[0].update(eps=1e-3, amsgrad=True)
    opt.clip_value = 0.6
    opt.step(steps[4])
    for array, source in zip(leaves(broken), leaves(straight), strict=True):
        array[...] = source
    other = instep.AdamW(broken, lr=7.0, maximize=True, clip_norm=5.0, nonfinite="raise")
    other.load_state_dict(through_pickle(opt.state_dict()))
    assert other.param_groups[0]["lr"] == hyper["lr"]
    assert other.param_groups[0]["maximize"] is False
    assert (other.clip_value, other.nonfinite, other.steps) == (0.6, "propagate", 5)
    for grads in steps[5:]:
        assert opt.step(grads) == other.step(grads)
    assert everything(opt, *leaves(straight)) == everything(other, *leaves(broken))


def test_loading_keeps_groups_apart():
    rng = np.random.default_rng(3)
    values = [rng.normal(size=4), rng.normal(size=3)]

    def make(rates):
        params = [v.copy() for v in values]
        groups = [{"params": p, "lr": lr} for p, lr in zip(params, rates, strict=True)]
        return params, instep.RMSprop(groups, alpha=0.8, momentum=0.5)

    steps = [[rng.normal(size=4), rng.normal(size=3)] for _ in range(6)]
    params, opt = make((0.1, 0.2))
    others, other = make((0.5, 0.6))
    for t, grads in enumerate(steps):
        if t == 2:
            for found, source in zip(others, params, strict=True):
                found[...] = source
            other.load_state_dict(opt.state_dict())
        opt.step(grads)
        if t >= 2:
            other.step(grads)
    assert everything(opt, *params) == everything(other, *others)


def test_loading_into_the_same_optimizer_goes_back():
    tree, steps = tiny_problem()
    opt = instep.Adam(tree, lr=0.1, amsgrad=True)
    opt.step(steps[0])
    saved, kept = opt.state_dict(), copy_tree(tree)
    there = everything(opt, *leaves(tree))
    ends = []
    for _ in range(2):
        for grads in with_gaps(copy_tree(steps)):
            opt.step(grads)
        ends.append(everything(opt, *leaves(tree)))
        opt.load_state_dict(saved)
        for array, source in zip(leaves(tree), leaves(kept), strict=True):
            array[...] = source
        assert everything(opt, *leaves(tree)) == there
    assert ends[0] == ends[1]


def test_states_of_another_layout_or_dtype_are_copied():
    """A checkpoint of a C-ordered float32 model goes on as a Fortran-ordered float64 one."""
    rng = np.random.default_rng(4)
    start, grad = rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=(5, 6))
    opt = instep.Adam(start, lr=0.1)
    opt.step(grad)
    saved = opt.state_dict()
    wide = np.asfortranarray(start, np.float64)
    other = instep.Adam(wide)
    other.load_state_dict(saved)
    found = other.state["param"]["exp_avg"]
    assert found.dtype == np.float64 and found.flags.f_contiguous
    np.testing.assert_array_equal(found, opt.state["param"]["exp_avg"])
    saved["state"]["param"]["exp_avg"][...] = 7  # the snapshot stays the caller's
    assert (found != 7).all()
    opt.step(grad)
    other.step(grad)
    np.testing.assert_allclose(wide, start, rtol=1e-6)


def test_a_state_dict_is_plain_data():
    """No class of instep in it unless a schedule is: JSON with arrays as lists works."""
    tree, steps = tiny_problem()
    opt = instep.SGD(tree, lr=0.1, momentum=0.5)
    opt.step(steps[0])
    text = json.dumps(opt.state_dict(), default=lambda array: array.tolist())
    other = instep.SGD(copy_tree(tree))
    read = json.loads(text)
    for entry in read["state"].values():
        entry["momentum_buffer"] = np.array(entry["momentum_buffer"])
    other.load_state_dict(read)
    assert everything(other)[2] == everything(opt)[2]


# ---- strict ----------------------------------------------------------------------------------


def test_strict_and_the_report():
    rng = np.random.default_rng(6)
    opt = instep.SGD({"a": np.ones(2), "b": np.ones(3), "x": np.ones(1)}, momentum=0.5)
    opt.step({"a": rng.normal(size=2), "b": rng.normal(size=3), "x": np.ones(1)})
    saved = opt.state_dict()
    params = {"a": np.ones(2), "c": np.ones(3), "x": np.ones(1)}
    other = instep.SGD(params, lr=0.3)
    before = everything(other, *params.values())
    with pytest.raises(ValueError, match=r"missing \['c'\], unexpected \['b'\].*strict=False"):
        other.load_state_dict(saved)
    assert everything(other, *params.values()) == before
    assert other.param_groups[0]["lr"] == 0.3
    report = other.load_state_dict(saved, strict=False)
    assert (report.missing, report.unexpected) == (("c",), ("b",))
    assert list(other.state) == ["a", "x"] and other.steps == 1
    assert bits(other.state["a"]["momentum_buffer"]) == bits(opt.state["a"]["momentum_buffer"])
    other.step({"a": np.ones(2), "c": np.ones(3), "x": None})
    assert {name: entry["step"] for name, entry in other.state.items()} == {"a": 2, "c": 1, "x": 1}


def test_what_is_missing_keeps_its_state():
    """And goes on from it, with its own step count; what was saved without state starts anew."""
    names = ["a", "b", "c"]
    grads = {name: np.random.default_rng(k).normal(size=4) for k, name in enumerate(names)}
    source = instep.Adam({name: np.ones(4) for name in "ab"}, lr=0.25)
    for _ in range(3):
        source.step({"a": grads["a"], "b": None})
    params = {name: np.ones(4) for name in names}
    opt = instep.Adam(params, lr=0.5)
    for _ in range(5):
        opt.step(grads)
    kept, here = everything(opt, params["c"])[2]["c"], opt.state["c"]["exp_avg"]
    assert opt.load_state_dict(source.state_dict(), strict=False) == (("c",), ())
    assert list(opt.state) == ["a", "c"] and opt.steps == 3
    assert everything(opt)[2]["a"] == everything(source)[2]["a"]
    assert everything(opt)[2]["c"] == kept and opt.state["c"]["exp_avg"] is here
    assert opt.step(grads).lr == 0.25
    assert [opt.state[name]["step"] for name in names] == [4, 1, 6]
    twin = instep.Adam(alone := np.ones(4), lr=0.5)
    for t in range(6):
        twin.param_groups[0]["lr"] = 0.5 if t < 5 else 0.25
        twin.step(grads["c"])
    assert bits(alone) == bits(params["c"])


@pytest.mark.parametrize("steps", [0, 3])
def test_a_loaded_buffer_without_steps_takes_its_first_gradient_undamped(steps):
    opt = instep.SGD(param := np.ones(2), lr=1.0, momentum=0.5, dampening=0.75)
    state = opt.state_dict()
    state["state"]["param"] = {"step": steps, "momentum_buffer": np.full(2, 2.0)}
    opt.load_state_dict(state)
    opt.step(np.ones(2))
    assert param.tolist() == [1 - (1.0 + (1.0 if steps == 0 else 0.25))] * 2


def test_parameters_without_state_are_not_missing():
    opt = instep.Adam({"a": np.ones(2), "b": np.ones(3)})
    opt.step({"a": np.ones(2), "b": None})
    other = instep.Adam({"a": np.ones(2), "b": np.ones(3)})
    other.step({"a": np.ones(2), "b": np.ones(3)})
    assert other.load_state_dict(opt.state_dict()) == ((), ())
    assert list(other.state) == ["a"]  # b starts anew, as it was saved
