"""The masters of float16 and bfloat16 parameters: who rules, snapshots, loading, copies."""

import copy
import pickle

import numpy as np
import pytest
from conftest import LAYOUTS, LOW, assert_rounded, bits, copy_tree, everything, leaves
from test_optim import ROWS

import instep

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}


def problem(rng, steps=9):
    """Parameters of every dtype, and gradients for some steps."""
    params = {
        "half": rng.normal(size=(5, 4)).astype(np.float16),
        "deep": [rng.normal(size=7).astype(LOW[-1]), rng.normal(size=3)],
        "single": np.asfortranarray(rng.normal(size=(4, 3)).astype(np.float32)),
    }

    def gradient(array):
        return rng.normal(0.4, 1.0, array.shape)

    grads = [
        {
            "half": gradient(params["half"]),
            "deep": [gradient(p) for p in params["deep"]],
            "single": gradient(params["single"]),
        }
        for _ in range(steps)
    ]
    return params, grads


def all_of(opt, params):
    return everything(opt, *leaves(params), *leaves(opt.master))


# ---- who rules -------------------------------------------------------------------------------


def test_what_is_written_into_the_parameter_is_lost_at_its_next_gradient(low):
    param = np.ones(4, low)
    opt = instep.SGD(param, lr=0.25)
    param[...] = 50
    opt.step(np.ones(4))
    assert (param == 0.75).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_refresh_takes_what_was_written_and_nothing_else(layout, low, rng, guarded):
    param = guarded.array(rng.normal(size=(6, 9)).astype(low), layout=layout)
    opt = instep.SGD(param, lr=1e-4, momentum=0.5)
    for _ in range(3):
        opt.step(rng.normal(size=(6, 9)))
    master, state = opt.master.copy(), copy_tree(opt.state)
    assert (master != param.astype(np.float32)).any()
    opt.refresh_master()
    assert bits(opt.master) == bits(master)  # all its low bits
    param[2:4] = 50
    param[5, 5] = np.nan
    opt.refresh_master()
    assert (opt.master[2:4] == 50).all() and np.isnan(opt.master[5, 5])
    kept = np.ones((6, 9), bool)
    kept[2:4] = kept[5, 5] = False
    assert bits(opt.master[kept]) == bits(master[kept])
    found = opt.state["param"]
    assert bits(found["momentum_buffer"]) == bits(state["param"]["momentum_buffer"])
    assert found["step"] == 3
    opt.step(np.zeros((6, 9)))
    assert_rounded(param, opt.master)


def test_refresh_keeps_the_short_way_and_the_masters(low):
    param = np.ones(4, low)
    opt = instep.SGD(param, lr=0.25)
    opt.step(np.ones(4))
    master = opt.master
    param[...] = 8
    opt.refresh_master()
    assert opt._steady.ready and opt.master is master
    opt.step(np.ones(4))
    assert (param == 7.75).all()


def test_what_is_written_into_a_master_holds(low):
    param = np.ones((2, 3), low)[:, ::-1]
    opt = instep.SGD(param, lr=0.25)
    opt.master[0] = 9
    assert (param == 1).all()
    opt.step(np.ones((2, 3)))
    assert param.tolist() == [[8.75] * 3, [0.75] * 3]


def test_refresh_within_a_step_is_refused():
    opt = instep.SGD(np.ones(2, np.float16))
    opt.param_groups[0]["lr"] = lambda t: opt.refresh_master() or 0.1
    with pytest.raises(RuntimeError, match=r"refresh_master\(\) was called within a step"):
        opt.step(np.ones(2))


# ---- snapshots -------------------------------------------------------------------------------


def test_a_snapshot_holds_the_masters_from_the_start(rng):
    params, grads = problem(rng)
    opt = instep.Adam(params, lr=1e-3)
    saved = opt.state_dict()
    assert list(saved["master"]) == ["half", "deep.0"] and saved["state"] == {}
    opt.step(grads[0])
    for name, array in saved["master"].items():
        assert array.dtype == np.float32 and type(array) is np.ndarray, name
    assert bits(saved["master"]["half"]) != bits(opt.master["half"])  # a copy
    assert instep.Adam(np.ones(2)).state_dict()["master"] == {}


def test_a_snapshot_without_copies(rng):
    params, grads = problem(rng)
    opt = instep.Adam(params, lr=1e-3)
    opt.step(grads[0])
    live = opt.state_dict(copy=False)
    assert live["master"]["half"] is opt.master["half"]
    assert live["state"]["single"]["exp_avg"] is opt.state["single"]["exp_avg"]
    with pytest.raises(TypeError, match="copy must be True or False, got 1"):
        opt.state_dict(copy=1)


@pytest.mark.parametrize("way", [lambda state: state, *WAYS.values()])
@pytest.mark.parametrize("name", ROWS)
def test_save_and_load_in_mid_run(name, way, rng):
    """Into fresh parameters: those with masters come with the snapshot, bit for bit."""
    params, grads = problem(rng)
    opt = ROWS[name].make(params, clip_norm=2.0)
    for step in grads[:4]:
        step["deep"][0] = None if step is grads[2] else step["deep"][0]
        opt.step(step)
    saved = way(opt.state_dict())
    fresh = copy_tree(params)
    fresh["half"][...], fresh["deep"][0][...] = 9, -3
    other = ROWS[name].optimizer(fresh)
    assert other.load_state_dict(saved) == ((), ())
    assert all_of(other, fresh) == all_of(opt, params)
    for step in grads[4:]:
        assert opt.step(step) == other.step(step)
    assert all_of(other, fresh) == all_of(opt, params)


def test_loading_writes_into_the_masters_that_are_there(rng):
    params, grads = problem(rng)
    opt = instep.SGD(params, lr=0.1)
    saved, masters = opt.state_dict(), leaves(opt.master)
    before = all_of(opt, params)[1]
    for step in grads[:3]:
        opt.step({**step, "single": None, "deep": [step["deep"][0], None]})
    opt.load_state_dict(saved)
    assert all_of(opt, params)[1] == before
    assert all(a is b for a, b in zip(masters, leaves(opt.master), strict=True))


def test_loading_its_own_live_arrays_changes_nothing(rng):
    params, grads = problem(rng)
    opt = instep.Adam(params, lr=0.1, state_factory=lambda n, s, d: np.empty(s, d))
    for step in grads[:3]:
        opt.step(step)
    before = all_of(opt, params)
    opt.load_state_dict(opt.state_dict(copy=False))
    assert all_of(opt, params) == before
    state = opt.state_dict(copy=False)  # exchanged: each is still what it was
    entry = state["state"]["half"]
    entry["exp_avg"], entry["exp_avg_sq"] = entry["exp_avg_sq"], entry["exp_avg"]
    kept = bits(entry["exp_avg"]), bits(entry["exp_avg_sq"])
    opt.load_state_dict(state)
    found = opt.state["half"]
    assert (bits(found["exp_avg"]), bits(found["exp_avg_sq"])) == kept


def test_masters_that_one_side_alone_has():
    """A float32 model goes on in bfloat16, and the other way round: said, unless allowed."""
    half, single = np.ones(3, np.float16), np.full(3, 2.0, np.float32)
    opt, other = instep.Adam({"w": half}, lr=0.5), instep.Adam({"w": single}, lr=0.25)
    opt.step({"w": np.ones(3)})
    other.step({"w": np.ones(3)})
    for target, source, message in [
        (opt, other, r"missing \['w\.master'\], unexpected \[\].*strict=False"),
        (other, opt, r"missing \[\], unexpected \['w\.master'\].*strict=False"),
    ]:
        arrays = half, single, opt.master["w"]
        before = everything(target, *arrays)
        with pytest.raises(ValueError, match=message):
            target.load_state_dict(source.state_dict())
        assert everything(target, *arrays) == before
    saved = opt.state_dict()
    report = opt.load_state_dict(other.state_dict(), strict=False)
    assert report == (("w.master",), ()) and opt.param_groups[0]["lr"] == 0.25
    assert everything(opt, *arrays)[1] == before[1]  # it keeps its values
    assert other.load_state_dict(saved, strict=False) == ((), ("w.master",))
    assert everything(other, *arrays)[1] == before[1]


def test_a_parameter_that_the_snapshot_does_not_know_keeps_its_master(low):
    source = instep.SGD({"a": np.ones(2, low)})
    params = {"a": np.full(2, 3.0, low), "b": np.full(2, 4.0, low)}
    opt = instep.SGD(params, lr=1e-4)
    opt.step({"a": np.ones(2), "b": np.ones(2)})
    kept = bits(opt.master["b"])
    assert opt.load_state_dict(source.state_dict(), strict=False) == (("b",), ())
    assert bits(opt.master["b"]) == kept and (params["b"] == 4).all()
    assert (opt.master["a"] == 1).all() and (params["a"] == 1).all()


def test_a_snapshot_from_before_there_were_masters():
    param = np.ones(3, np.float32)
    opt = instep.SGD(param, lr=0.5)
    state = opt.state_dict()
    del state["master"]
    assert instep.SGD(np.ones(3)).load_state_dict(state) == ((), ())


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (np.ones(4), ValueError, r"master\['b'\] has shape \(4,\), the parameter \(3,\)"),
        (np.ones(3, int), TypeError, r"master\['b'\] must be floating-point, got int64"),
        ("text", TypeError, r"master\['b'\] must be floating-point"),
    ],
)
def test_a_bad_master_changes_nothing(value, kind, message, low):
    params = {"a": np.ones(2, low), "b": np.ones(3, low)}
    opt = instep.SGD(params, momentum=0.5)
    grads = {"a": np.ones(2), "b": np.ones(3)}
    state = opt.state_dict()
    opt.step(grads)
    before = all_of(opt, params)
    for master in ({**state["master"], "b": value}, [1]):
        expected = (kind, message) if isinstance(master, dict) else (TypeError, "'master' must be")
        with pytest.raises(expected[0], match=expected[1]):
            opt.load_state_dict({**state, "master": master})
        assert all_of(opt, params) == before
    params["b"].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['b'\] is a read-only"):
        opt.load_state_dict(state)
    params["b"].flags.writeable = True
    opt.master["b"].flags.writeable = False
    with pytest.raises(ValueError, match=r"the master of params\['b'\] is read-only"):
        opt.load_state_dict(state)
    opt.master["b"].flags.writeable = True
    assert all_of(opt, params) == before
    opt.load_state_dict(state)
    assert (opt.master["a"] == 1).all()


# ---- copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("layout", ["C", "F", "sliced", "reversed_sliced_F", "record"])
def test_a_copy_goes_on_as_the_original(layout, way, low, rng, guarded):
    param = guarded.array(rng.normal(size=(3, 4, 5)).astype(low), layout=layout)
    opt = instep.AdamW(param, lr=1e-3)
    opt.step(rng.normal(size=(3, 4, 5)))
    opt.step(rng.normal(size=(3, 4, 5)))
    other = way(opt)
    copied = other.param_groups[0]["params"]
    assert copied.dtype == low and not np.shares_memory(other.master, opt.master)
    assert everything(other, copied, other.master) == everything(opt, param, opt.master)
    for _ in range(3):
        grad = rng.normal(size=(3, 4, 5))
        assert opt.step(grad) == other.step(grad)
    assert everything(other, copied, other.master) == everything(opt, param, opt.master)


def test_a_shallow_copy_has_masters_of_its_own(low):
    """It shares the parameter; each writes what its own master says."""
    opt = instep.SGD(param := np.ones(2, low), lr=0.25)
    opt.step(np.ones(2))
    other = copy.copy(opt)
    other.step(np.ones(2))
    assert other.param_groups[0]["params"] is param and param.tolist() == [0.5, 0.5]
    assert opt.master.tolist() == [0.75, 0.75]
