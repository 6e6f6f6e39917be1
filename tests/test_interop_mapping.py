"""instep's state_dicts and PyTorch's, key by key; PyTorch is not needed here."""

import copy
import json

import numpy as np
import pytest
from conftest import run_python
from interop_common import (
    FIRST,
    NAMES,
    SECOND,
    THEIRS,
    loaded,
    made,
    of_an_old_version,
    plain,
    two_groups,
)

import instep
from instep import schedules
from instep.interop.torch import from_torch, to_torch

# ---- the mapping -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_from_pytorch(name):
    opt = loaded(name)
    group = THEIRS[name]["param_groups"][0]
    for key in opt.hyperparameters.keys() | {"maximize"}:
        assert opt.param_groups[0][key] == group[key], key
    assert opt.steps == (1 if name == "SGD" else 3)
    for leaf, index in (("W", 0), ("b", 1)):
        theirs = THEIRS[name]["state"].get(index, {})
        ours = opt.state.get(leaf, {})
        assert ours.keys() - {"step"} == theirs.keys() - {"step"}
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_to_pytorch(name):
    for given in (loaded(name), loaded(name).state_dict()):
        assert plain(to_torch(given)) == plain(THEIRS[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_result_shares_no_memory(name):
    saved, theirs = loaded(name).state_dict(), copy.deepcopy(THEIRS[name])
    there, back = to_torch(saved), from_torch(theirs)
    for one, other in ((saved, there), (theirs, back)):
        for entry, result in zip(one["state"].values(), other["state"].values(), strict=True):
            for key in entry.keys() & result.keys() - {"step"}:
                assert not np.shares_memory(entry[key], result[key])


def test_arrays_are_in_c_order_as_given_by_as_tensor():
    opt = made("Adam")
    opt.step({"W": np.asfortranarray(FIRST), "b": None})
    opt.load_state_dict(from_torch(THEIRS["Adam"], opt))
    given = []
    there = to_torch(opt, as_tensor=lambda array: given.append(array) or len(given))
    assert [type(v) for entry in there["state"].values() for v in entry.values()] == [int] * 8
    assert all(array.flags.c_contiguous and type(array) is np.ndarray for array in given)


def test_transposed_parameters_are_written_in_c_order():
    params = np.zeros((3, 2), np.float32).T
    opt = instep.Adam(params)
    opt.step(np.arange(6, dtype=np.float32).reshape(2, 3))
    there = to_torch(opt)["state"][0]["exp_avg"]
    assert there.flags.c_contiguous and not opt.state["param"]["exp_avg"].flags.c_contiguous
    np.testing.assert_array_equal(there, opt.state["param"]["exp_avg"])


def test_float64_states_stay_float64():
    params = np.zeros(3)
    opt = instep.Adam(params)
    opt.step(np.ones(3) / 3)
    there = to_torch(opt)
    assert there["state"][0]["exp_avg"].dtype == np.float64
    back = from_torch(there, opt)
    np.testing.assert_array_equal(
        back["state"]["param"]["exp_avg"], opt.state["param"]["exp_avg"], strict=True
    )


def test_parameters_without_gradient_have_no_entry():
    opt = made("AdamW")
    assert to_torch(opt)["state"] == {}
    opt.step({"W": None, "b": SECOND})
    there = to_torch(opt)
    assert list(there["state"]) == [1]
    assert list(from_torch(there, opt)["state"]) == ["b"]


def test_states_before_the_first_gradient_are_left_out():
    """instep takes the next gradient for the first, which is not damped; so must PyTorch."""
    for name in NAMES:
        state = loaded(name).state_dict()
        state["state"]["W"]["step"] = 0
        assert 0 not in to_torch(state)["state"]


def test_long_runs_are_counted_exactly():
    state = loaded("Adam").state_dict()
    for step, dtype in ((2**24, np.float32), (2**24 + 1, np.float64)):
        state["state"]["W"]["step"] = step
        found = to_torch(state)["state"][0]["step"]
        assert (found.dtype, int(found)) == (dtype, step)


def test_schedules_are_evaluated_at_the_next_step():
    lr = schedules.StepDecay(0.5, step_size=3, gamma=0.5)
    opt = made("AdamW", lr=lr, betas=(schedules.LinearDecay(0.75, 4), 0.5))
    for _ in range(3):
        opt.step({"W": FIRST, "b": SECOND})
    group = to_torch(opt)["param_groups"][0]
    assert group["lr"] == lr(3) == 0.25 != lr(2)
    assert group["betas"] == (schedules.LinearDecay(0.75, 4)(3), 0.5)
    json.dumps(group)  # numbers, and nothing else


def test_what_only_instep_has_is_kept_by_like():
    opt = made("AdamW", clip_norm=schedules.Constant(2.0), nonfinite="skip")
    state = from_torch(THEIRS["AdamW"], opt)
    assert state["options"] == opt.state_dict()["options"]
    later = {**opt.state_dict(), "ema": {"W": FIRST}, "seed": 7}  # keys of another version
    state = from_torch(THEIRS["AdamW"], later)
    assert state["seed"] == 7 and state["ema"]["W"] is FIRST


def test_float32_masters_are_those_of_like():
    """They are parameters, of which PyTorch's state has none."""
    params = {"W": FIRST.astype(np.float16), "b": SECOND.copy()}
    opt = instep.AdamW(params)
    opt.step({"W": FIRST, "b": SECOND})
    assert to_torch(opt)["state"][0]["exp_avg"].dtype == np.float32
    master = opt.state_dict()["master"]["W"]
    assert opt.load_state_dict(from_torch(THEIRS["AdamW"], opt)) == ((), ())
    np.testing.assert_array_equal(opt.state_dict()["master"]["W"], master, strict=True)
    np.testing.assert_array_equal(opt.state["W"]["exp_avg"], FIRST, strict=True)


# ---- names, groups, steps ----------------------------------------------------------------------


def test_without_an_optimizer_names_are_those_of_a_list():
    state = from_torch(THEIRS["AdamW"])
    opt = instep.AdamW([np.zeros((2, 2), np.float32), np.zeros(2, np.float32)])
    opt.load_state_dict(state)
    assert plain(to_torch(opt)) == plain(THEIRS["AdamW"])


def test_names_make_a_checkpoint_without_an_optimizer(tmp_path):
    state = from_torch(THEIRS["AdamW"], names=["W", "b"])
    instep.save(tmp_path / "run.npz", state)
    opt = made("AdamW")
    opt.load_state_dict(instep.load(tmp_path / "run.npz").state_dict)
    assert plain(to_torch(opt)) == plain(THEIRS["AdamW"])


def test_names_say_another_order():
    params = {"b": np.zeros(2, np.float32), "W": np.zeros((2, 2), np.float32)}
    opt = instep.Adam(params)
    opt.load_state_dict(from_torch(THEIRS["Adam"], opt, names=["W", "b"]))
    np.testing.assert_array_equal(opt.state["b"]["exp_avg"], SECOND)
    assert plain(to_torch(opt, names=["W", "b"])) == plain(THEIRS["Adam"])
    assert plain(to_torch(opt)) != plain(THEIRS["Adam"])


def test_groups():
    theirs = two_groups()
    first, second = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    opt = instep.Adam([{"params": {"W": first}}, {"params": second}])
    opt.load_state_dict(from_torch(theirs, opt))
    assert [group["lr"] for group in opt.param_groups] == [0.5, 0.75]
    np.testing.assert_array_equal(opt.state["1"]["exp_avg"], SECOND)
    assert plain(to_torch(opt)) == plain(theirs)
    assert [group["params"] for group in from_torch(theirs)["param_groups"]] == [["0.0"], ["1.0"]]


def test_parameters_are_counted_over_all_groups():
    params = [
        {"params": [np.zeros(n, np.float32) for n in sizes]} for sizes in ((1, 2), (3,), (4,))
    ]
    opt = instep.SGD(params, momentum=0.5)
    grads = [[np.ones(array.shape) for array in group["params"]] for group in params]
    opt.step(grads)
    there = to_torch(opt)
    assert [group["params"] for group in there["param_groups"]] == [[0, 1], [2], [3]]
    assert [entry["momentum_buffer"].size for entry in there["state"].values()] == [1, 2, 3, 4]
    names = ["0.1", "0.0", "1.0", "2.0"]
    there = to_torch(opt, names=names)
    assert [entry["momentum_buffer"].size for entry in there["state"].values()] == [2, 1, 3, 4]
    assert plain(from_torch(there, opt, names=names)) == plain(opt.state_dict())


def test_indices_may_be_anything():
    """As after adding groups, or as the tools for distributed training name them."""
    theirs = copy.deepcopy(THEIRS["Adam"])
    theirs["state"] = {"w": theirs["state"][0], 17: theirs["state"][1]}
    theirs["param_groups"][0]["params"] = ["w", 17]
    assert plain(from_torch(theirs)) == plain(from_torch(THEIRS["Adam"]))


def test_steps_of_sgd():
    opt = made("SGD", lr=schedules.LinearDecay(1.0, 100))
    state = from_torch(THEIRS["SGD"], opt, steps=30)
    assert state["steps"] == state["state"]["W"]["step"] == 30
    plain_sgd = copy.deepcopy(THEIRS["SGD"])
    plain_sgd["state"] = {0: {"momentum_buffer": None}, 1: {}}  # of old versions
    assert from_torch(plain_sgd)["steps"] == 0
    assert from_torch(plain_sgd)["state"] == {}
    assert from_torch(plain_sgd, steps=30)["steps"] == 30


def test_a_buffer_of_momentum_is_not_the_first_gradient():
    """Which would not be damped."""
    opt = loaded("SGD")
    opt.step({"W": np.zeros((2, 2)), "b": None})
    np.testing.assert_array_equal(opt.state["W"]["momentum_buffer"], 0.25 * FIRST)


# ---- which class -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_class_is_told_by_the_hyperparameters(name):
    assert from_torch(THEIRS[name])["optimizer"] == name


@pytest.mark.parametrize("name", NAMES)
def test_states_of_old_versions(name):
    """Ints as counts, no `maximize`; nothing that tells Adam from AdamW."""
    theirs = of_an_old_version(name)
    if name in ("SGD", "RMSprop"):
        assert from_torch(theirs)["optimizer"] == name
    else:
        with pytest.raises(ValueError, match=r"of Adam or of AdamW.*like=instep\.Adam or"):
            from_torch(theirs)
    for like in (getattr(instep, name), made(name), made(name).state_dict()):
        state = from_torch(theirs, like)
        assert state["optimizer"] == name
        assert state["param_groups"][0]["maximize"] is False
        assert state["steps"] == (1 if name == "SGD" else 3)


# ---- kinds of arrays ---------------------------------------------------------------------------


class Tensor:
    """What a tensor on a device is to NumPy: nothing before it is on the CPU."""

    def __init__(self, array, dtype="torch.float32", where="device"):
        self.array, self.dtype, self.where = array, dtype, where

    def detach(self):
        return Tensor(self.array, self.dtype, self.where + ", detached")

    def cpu(self):
        return Tensor(self.array, self.dtype, self.where.replace("device", "cpu"))

    def float(self):
        return Tensor(self.array, "torch.float32", self.where)

    def numpy(self):
        if self.dtype == "torch.bfloat16" or self.where != "cpu, detached":
            raise TypeError(f"a {self.dtype} tensor on {self.where}")
        return self.array


class OnlyDLPack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def kinds():
    exact = FIRST.astype(np.float32)
    yield "lists", FIRST.tolist(), np.float64
    yield "float16", FIRST.astype(np.float16), np.float32
    yield "float64", FIRST.astype(np.float64), np.float64
    yield "big-endian", FIRST.astype(">f4"), np.float32
    yield "bits of bfloat16", (exact.view(np.uint32) >> 16).astype(np.uint16), np.float32
    yield "tensor", Tensor(FIRST), np.float32
    yield "bfloat16 tensor", Tensor(FIRST, "torch.bfloat16"), np.float32
    yield "dlpack", OnlyDLPack(FIRST), np.float32
    yield "array", OnlyArray(FIRST), np.float32


@pytest.mark.parametrize("value, dtype", [k[1:] for k in kinds()], ids=[k[0] for k in kinds()])
def test_kinds_of_arrays(value, dtype):
    theirs = {**THEIRS["SGD"], "state": {0: {"momentum_buffer": value}}}
    found = from_torch(theirs)["state"]["0"]["momentum_buffer"]
    np.testing.assert_array_equal(found, FIRST.astype(dtype), strict=True)
    ours = made("SGD").state_dict()
    ours["state"] = {"W": {"step": 2, "momentum_buffer": value}}
    found = to_torch(ours)["state"][0]["momentum_buffer"]
    np.testing.assert_array_equal(found, FIRST.astype(dtype), strict=True)


def test_bfloat16_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    ours = made("SGD").state_dict()
    ours["state"] = {"W": {"step": 2, "momentum_buffer": FIRST.astype(ml_dtypes.bfloat16)}}
    found = to_torch(ours)["state"][0]["momentum_buffer"]
    np.testing.assert_array_equal(found, FIRST, strict=True)


# ---- the module --------------------------------------------------------------------------------


def test_pytorch_is_never_imported():
    done = run_python(
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import instep.interop.torch\n"
        "import numpy as np\n"
        "opt = instep.AdamW(np.ones(3))\n"
        "opt.step(np.ones(3))\n"
        "there = instep.interop.torch.to_torch(opt)\n"
        "print(opt.load_state_dict(instep.interop.torch.from_torch(there, opt)))\n"
    )
    assert done.stdout.strip() == "LoadReport(missing=(), unexpected=())", done.stderr
    done = run_python("import instep; print(instep.interop.torch.to_torch.__name__)")
    assert done.stdout.strip() == "to_torch", done.stderr
