"""States in fewer bits: what is shown, saved and loaded; memory of the caller."""

import copy
import json
import pickle

import numpy as np
import pytest
from conftest import Shelf, bits, copy_tree, everything, leaves, run_python, tiny_problem
from storage_common import SCALED, STORAGES, rows_without_difference
from test_optim import ROWS

import instep

CALM = rows_without_difference(ROWS)

# ---- what is shown ---------------------------------------------------------------------------


@pytest.mark.parametrize("state_dtype", SCALED)
def test_bytes_of_a_parameter(state_dtype):
    """Adam's, scales included."""
    param = np.zeros(1 << 16, np.float32)
    opt = instep.Adam(param, state_dtype=state_dtype)
    opt.step(np.ones(1 << 16, np.float32))
    entry = opt.state["param"]
    size = sum(array.nbytes for name, array in entry.items() if name != "step")
    assert size / param.size == SCALED[state_dtype] and opt.state_dtype == state_dtype


def test_names_shapes_and_dtypes():
    params = {"W": np.ones((3, 50), np.float32), "s": np.ones(()), "none": np.ones((0, 2))}
    opt = instep.Adam(params, amsgrad=True, state_dtype="8bit")
    assert opt.state == {} and opt.seed == 0
    opt.step(copy_tree(params))
    for name, blocks in (("W", 2), ("s", 1), ("none", 0)):
        entry = opt.state[name]
        found = {key: (v.dtype.str[1:], v.shape) for key, v in entry.items() if key != "step"}
        shape = params[name].shape
        assert found == {
            "exp_avg": ("i1", shape),
            "exp_avg_scale": ("f4", (blocks,)),
            "exp_avg_sq": ("u1", shape),
            "exp_avg_sq_scale": ("f4", (blocks,)),
            "max_exp_avg_sq": ("u1", shape),
            "max_exp_avg_sq_scale": ("f4", (blocks,)),
        }
    ml_dtypes = pytest.importorskip("ml_dtypes")
    opt = instep.Adam(params, state_dtype="bfloat16")
    opt.step(copy_tree(params))
    assert list(opt.state["W"]) == ["step", "exp_avg", "exp_avg_sq"]
    assert opt.state["s"]["exp_avg"].dtype == ml_dtypes.bfloat16


def test_float32_states_of_float64_parameters():
    params = [np.ones(3), np.ones(3, np.float32)]
    opt = instep.SGD(params, momentum=0.5, state_dtype="float32")
    opt.step([np.full(3, 1 / 3), np.ones(3)])
    assert [opt.state[k]["momentum_buffer"].dtype for k in "01"] == [np.float32] * 2
    assert opt.state["0"]["momentum_buffer"][0] == np.float32(1 / 3)


def test_states_of_low_precision_parameters(rng):
    """They belong to the float32 master."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    start, grads = rng.normal(size=200), [rng.normal(size=200) for _ in range(5)]
    for dtype in (np.float16, ml_dtypes.bfloat16):
        low = start.astype(dtype)
        master = low.astype(np.float32)
        one, two = instep.Adam(low, state_dtype="8bit"), instep.Adam(master, state_dtype="8bit")
        for grad in grads:
            one.step(grad)
            two.step(grad)
        assert bits(one.master) == bits(master)
        assert everything(one)[2] == everything(two)[2]


def test_the_array_shown_is_the_one_that_is_used():
    opt = instep.SGD(param := np.zeros(4), lr=1.0, momentum=1.0, state_dtype="8bit")
    opt.step(np.zeros(4))
    opt.state["param"]["momentum_buffer"][...] = [0, 1, -2, 127]
    opt.state["param"]["momentum_buffer_scale"][...] = 0.5
    assert opt.decoded_state("param")["momentum_buffer"].tolist() == [0, 0.5, -1, 63.5]
    opt.step(np.zeros(4))
    assert param.tolist() == [0, -0.5, 1, -63.5]


@pytest.mark.parametrize("state_dtype", SCALED)
def test_decoded_states(state_dtype, rng):
    """The values in the parameter's shape, as copies, whatever the layout."""
    values = rng.normal(size=(30, 20)).astype(np.float32)
    for array in (values, np.asfortranarray(values)):
        opt = instep.SGD({"w": array.copy("K")}, momentum=0.5, state_dtype=state_dtype)
        with pytest.raises(KeyError, match="'w' has no state"):
            opt.decoded_state("w")
        opt.step({"w": array})
        found = opt.decoded_state("w")
        assert list(found) == ["step", "momentum_buffer"] and found["step"] == 1
        error = np.abs(found["momentum_buffer"] - values)
        assert found["momentum_buffer"].dtype == np.float32 and error.max() < 0.04
        assert (error.max() == 0) == (state_dtype in (None, "float32"))
        found["momentum_buffer"][...] = 9
        assert (opt.decoded_state("w")["momentum_buffer"] != 9).all()
    with pytest.raises(KeyError, match=r"'v' has no state.*opt\.state"):
        opt.decoded_state("v")
    assert instep.SGD(p := np.ones(2)).step(p * 2).applied  # without states


# ---- saving and loading ----------------------------------------------------------------------


def through_json(state):
    """As a list of numbers and back, with the dtypes restored."""
    text = json.dumps(state, default=lambda array: [str(array.dtype), array.tolist()])
    read = json.loads(text)
    for entry in read["state"].values():
        for key in entry.keys() - {"step", "axes"}:
            name, numbers = entry[key]
            dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name
            entry[key] = np.array(numbers, dtype)
    return read


WAYS = [lambda s: s, lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy, through_json]


@pytest.mark.parametrize("way", WAYS, ids=["same", "pickle", "deepcopy", "json"])
@pytest.mark.parametrize("state_dtype", STORAGES)
@pytest.mark.parametrize("name", CALM)
def test_save_and_load_in_mid_run(name, state_dtype, way, dtype):
    tree, steps = tiny_problem(dtype=dtype, steps=12)
    tree["layers"][0]["W"] = np.asfortranarray(tree["layers"][0]["W"])
    for t, grads in enumerate(steps):
        if t < 5:
            grads["layers"][1]["b"] = None
    straight, broken = copy_tree(tree), copy_tree(tree)
    opt = CALM[name].make(straight, state_dtype=state_dtype, seed=11)
    first = CALM[name].make(broken, state_dtype=state_dtype, seed=11)
    for stop in (3, 8):
        for grads in steps[:3] if stop == 3 else steps[3:8]:
            assert opt.step(grads) == first.step(grads)
        saved = first.state_dict()
        broken = copy_tree(broken)
        first = CALM[name].optimizer(broken, state_dtype=state_dtype)  # with another seed
        assert first.load_state_dict(way(saved)) == ((), ()) and first.seed == 11
        assert everything(first, *leaves(broken)) == everything(opt, *leaves(straight))
    for grads in steps[8:]:
        assert opt.step(grads) == first.step(grads)
    assert everything(opt, *leaves(straight)) == everything(first, *leaves(broken))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("state_dtype", STORAGES)
def test_copies_and_pickles_of_optimizers(state_dtype, way, rng):
    opt = instep.Adam(
        {"w": rng.normal(size=(40, 30)).astype("f4")}, state_dtype=state_dtype, seed=5
    )
    grads = [rng.normal(size=(40, 30)) for _ in range(6)]
    for grad in grads[:3]:
        opt.step({"w": grad})
    other = way(opt)
    assert other.state_dtype == state_dtype and other.seed == 5
    for grad in grads[3:]:
        opt.step({"w": grad})
        other.step({"w": grad})
    found, wanted = other.param_groups[0]["params"]["w"], opt.param_groups[0]["params"]["w"]
    assert everything(other, found) == everything(opt, wanted)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("state_dtype", STORAGES)
def test_checkpoints(state_dtype, suffix, tmp_path, rng):
    """Also of parameters in Fortran order, which files may lay out anew."""
    if state_dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    param = np.asfortranarray(rng.normal(size=(30, 40)).astype(np.float32))
    opt = instep.Adam(param, state_dtype=state_dtype, seed=3)
    grads = [rng.normal(size=(30, 40)) for _ in range(4)]
    for grad in grads[:2]:
        opt.step(grad)
    instep.save(tmp_path / f"run{suffix}", opt)
    again = np.array(param, order="K")
    other = instep.Adam(again, state_dtype=state_dtype)
    other.load_state_dict(instep.load(tmp_path / f"run{suffix}").state_dict)
    for grad in grads[2:]:
        opt.step(grad)
        other.step(grad)
    assert everything(opt, param) == everything(other, again)


def test_snapshots_without_a_seed_keep_the_present_one():
    opt = instep.Adam(np.ones(3))
    opt.step(np.ones(3))
    saved = opt.state_dict()
    assert saved["options"].pop("seed") == 0
    other = instep.Adam(np.ones(3), seed=9)
    other.load_state_dict(saved)
    assert other.seed == 9


def test_the_seed_may_change_between_steps(rng):
    grads = [rng.normal(size=500) for _ in range(4)]

    def run(seeds):
        param = np.zeros(500, np.float32)
        opt = instep.Adam(param, state_dtype="8bit")
        for seed, grad in zip(seeds, grads, strict=True):
            opt.seed = seed
            opt.step(grad)
        return everything(opt, param)

    assert run([1, 2, 2, 2]) == run([1, 2, 2, 2]) != run([1, 1, 2, 2])


# ---- memory of the caller --------------------------------------------------------------------


@pytest.mark.parametrize("state_dtype", STORAGES)
def test_a_factory_is_asked_for_codes_and_scales(state_dtype, rng):
    shelf = Shelf(lambda shape, dtype: np.full(shape, 77, dtype))
    start, grads = rng.normal(size=(40, 20)), [rng.normal(size=(40, 20)) for _ in range(4)]
    param, plain = (np.asfortranarray(start.astype(np.float32)) for _ in range(2))
    opt = instep.Adam(param, state_dtype=state_dtype, state_factory=shelf)
    other = instep.Adam(plain, state_dtype=state_dtype)
    for grad in grads[:2]:
        opt.step(grad)
        other.step(grad)
    assert everything(opt, param) == everything(other, plain)
    asked = {name: (shape, np.dtype(dtype).itemsize) for name, shape, dtype in shelf.asked}
    size = {"float32": 4, "bfloat16": 2, "8bit": 1}[state_dtype]
    wanted = {f"param.{state}": ((20, 40), size) for state in ("exp_avg", "exp_avg_sq")}
    if state_dtype == "8bit":
        wanted |= {f"param.{s}_scale": ((7,), 4) for s in ("exp_avg", "exp_avg_sq")}
    assert asked == wanted
    saved = opt.state_dict()
    for grad in grads[2:]:
        opt.step(grad)
    opt.load_state_dict(saved)
    for name, array in shelf.arrays.items():
        there = opt.state["param"][name.removeprefix("param.")]
        assert np.shares_memory(array, there)
    assert everything(opt)[2] == everything(other)[2]


WITHOUT = """
import sys
sys.modules["ml_dtypes"] = None  # importing it fails
import numpy as np, instep
opt = instep.Adam(param := np.ones(300, np.float32), state_dtype="bfloat16", seed=4)
for k in range(5):
    opt.step(np.sin(np.arange(300.0) + k))
entry = opt.state["param"]
assert entry["exp_avg"].dtype == np.uint16, entry["exp_avg"].dtype
again = instep.Adam(np.ones(300, np.float32), state_dtype="bfloat16")
again.load_state_dict(opt.state_dict())
assert (again.state["param"]["exp_avg"] == entry["exp_avg"]).all() and again.seed == 4
wide = instep.Adam(np.ones(300, np.float32))
wide.load_state_dict(opt.state_dict())
assert (wide.state["param"]["exp_avg"] == opt.decoded_state("param")["exp_avg"]).all()
print(param.tobytes().hex(), entry["exp_avg_sq"].tobytes().hex())
"""


def test_without_ml_dtypes_the_bits_are_uint16():
    pytest.importorskip("ml_dtypes")
    done = run_python(WITHOUT)
    assert done.returncode == 0, done.stderr
    opt = instep.Adam(param := np.ones(300, np.float32), state_dtype="bfloat16", seed=4)
    for k in range(5):
        opt.step(np.sin(np.arange(300.0) + k))
    states = opt.state["param"]["exp_avg_sq"]
    assert done.stdout.split() == [param.tobytes().hex(), states.tobytes().hex()]
