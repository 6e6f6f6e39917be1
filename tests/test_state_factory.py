"""`state_factory`: states and masters in arrays that the caller provides."""

import numpy as np
import pytest
from conftest import (
    LAYOUTS,
    LOW,
    Shelf,
    bits,
    copy_tree,
    everything,
    leaves,
    tiny_problem,
    walk_order,
)
from test_optim import ROWS

import instep


def misaligned(shape, dtype):
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(bytearray(size + 1), np.uint8)[1:].view(dtype).reshape(shape)


# ---- what is asked ---------------------------------------------------------------------------


def test_names_shapes_and_dtypes():
    """Masters when the parameter is added, states at the first gradient, each once."""
    shelf = Shelf()
    params = {
        "layers": [{"W": np.ones((2, 3), np.float16)}, {"W": np.ones((4, 5))}],
        "scale": np.ones((), np.float32)[...],
        "none": np.ones((0, 3), np.float16),
    }
    opt = instep.Adam(params, amsgrad=True, state_factory=shelf)
    assert shelf.asked == [("layers.0.W.master", (2, 3), np.float32)]
    shelf.asked.clear()
    grads = {
        "layers": [{"W": np.ones((2, 3))}, {"W": None}],
        "scale": 1.0,
        "none": np.ones((0, 3)),
    }
    for _ in range(3):
        opt.step(grads)
    states = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    wanted = [(f"layers.0.W.{state}", (2, 3), np.float32) for state in states]
    wanted += [(f"scale.{state}", (), np.float32) for state in states]
    assert shelf.asked == wanted and type(shelf.asked[0][2]) is type(np.dtype("f4"))
    shelf.asked.clear()
    grads["layers"][1]["W"] = np.ones((4, 5))
    opt.step(grads)
    assert shelf.asked == [(f"layers.1.W.{state}", (4, 5), np.float64) for state in states]
    assert opt.state["none"]["exp_avg"].shape == (0, 3)


def test_single_arrays_and_groups():
    shelf = Shelf()
    opt = instep.SGD(np.ones(2), momentum=0.5, state_factory=shelf)
    opt.step(np.ones(2))
    opt.add_param_group({"params": {"W": np.ones(3, np.float16)}})
    opt.step([np.ones(2), {"W": np.ones(3)}])
    names = [name for name, _, _ in shelf.asked]
    assert names == ["param.momentum_buffer", "1.W.master", "1.W.momentum_buffer"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_are_in_the_order_of_memory(layout, guarded):
    """An array in C order is walked from its start to its end, as the parameter is."""
    shelf = Shelf()
    param = guarded.array(np.ones((3, 4, 5), LOW[-1]), layout=layout)
    opt = instep.SGD(param, lr=1.0, momentum=0.5, state_factory=shelf)
    ramp = np.arange(60.0).reshape(3, 4, 5)
    opt.step(ramp)
    axes = walk_order(param)
    for name, array in shelf.arrays.items():
        assert array.shape == tuple(param.shape[axis] for axis in axes), name
        assert array.flags.c_contiguous
    buffer = shelf.arrays["param.momentum_buffer"]
    assert bits(buffer) == bits(ramp.transpose(axes).astype(np.float32))
    assert np.shares_memory(opt.state["param"]["momentum_buffer"], buffer)
    assert bits(shelf.arrays["param.master"].transpose(np.argsort(axes))) == bits(opt.master)


def test_what_was_returned_is_what_the_state_shows(tmp_path):
    """A memmap stays one, to be flushed; what a snapshot holds is an array in memory."""

    def mapped(name, shape, dtype):
        return np.memmap(tmp_path / name, dtype, "w+", shape=shape)

    opt = instep.SGD({"w": np.ones((2, 3))}, momentum=0.5, state_factory=mapped)
    opt.step({"w": np.ones((2, 3))})
    assert type(opt.state["w"]["momentum_buffer"]) is np.memmap
    assert type(opt.state_dict()["state"]["w"]["momentum_buffer"]) is np.ndarray


@pytest.mark.parametrize("make", [None, misaligned], ids=["dense", "misaligned"])
@pytest.mark.parametrize("name", ROWS)
def test_the_bits_of_ordinary_memory(name, make, isa):
    tree, steps = tiny_problem(steps=5)
    tree["half"] = np.linspace(-1, 1, 700).astype(LOW[-1])
    for grads in steps:
        grads["half"] = np.linspace(0, 2, 700)
    params, plain = copy_tree(tree), copy_tree(tree)
    shelf = Shelf() if make is None else Shelf(make)
    opt = ROWS[name].make(params, clip_norm=3.0, state_factory=shelf)
    other = ROWS[name].make(plain, clip_norm=3.0)
    for t, grads in enumerate(steps):
        grads["layers"][0] = None if t < 2 else grads["layers"][0]
        assert opt.step(grads) == other.step(grads)
    found = everything(opt, *leaves(params), *leaves(opt.master))
    assert found == everything(other, *leaves(plain), *leaves(other.master))


def test_the_short_way_stays_open():
    opt = instep.Adam(np.ones(3), state_factory=Shelf())
    opt.step(np.ones(3))
    assert opt._steady.ready


def test_the_attribute():
    shelf = Shelf()
    opt = instep.SGD({"a": np.ones(2), "b": np.ones(2)}, momentum=0.5)
    assert opt.state_factory is None
    opt.step({"a": np.ones(2), "b": None})
    opt.state_factory = shelf
    assert opt.state_factory is shelf
    opt.step({"a": np.ones(2), "b": np.ones(2)})
    assert list(shelf.arrays) == ["b.momentum_buffer"]
    for bad in ("memmap", 3, {}):
        with pytest.raises(TypeError, match=r"state_factory must be a function \(name, shape"):
            opt.state_factory = bad
        with pytest.raises(TypeError, match="state_factory must be a function"):
            instep.Adam(np.ones(2), state_factory=bad)
    assert opt.state_factory is shelf


# ---- what is refused -------------------------------------------------------------------------


def read_only(array):
    array.flags.writeable = False
    return array


def overlapping_itself(shape, dtype):
    return np.lib.stride_tricks.as_strided(np.zeros(100, dtype), shape, (4, 4))


BAD = {
    "none": (lambda s, d: None, TypeError, "returned NoneType"),
    "list": (lambda s, d: [0.0], TypeError, r"returned list \(\[0.0\]\)"),
    "scalar": (lambda s, d: d.type(0), TypeError, "returned float32"),
    "masked": (lambda s, d: np.ma.zeros(s, d), TypeError, "returned MaskedArray"),
    "dtype": (lambda s, d: np.zeros(s), TypeError, "returned dtype <f8; return one of <f4"),
    "swapped": (lambda s, d: np.zeros(s, ">f4"), TypeError, "returned dtype >f4"),
    "int": (lambda s, d: np.zeros(s, np.int32), TypeError, "returned dtype <i4"),
    "shape": (lambda s, d: np.zeros((3, 2), d), ValueError, r"shape \(3, 2\).*shape \(2, 3\)"),
    "flat": (lambda s, d: np.zeros(6, d), ValueError, r"shape \(6,\)"),
    "read_only": (lambda s, d: read_only(np.zeros(s, d)), ValueError, "read-only"),
    "itself": (overlapping_itself, ValueError, "overlaps itself"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(case):
    """Named with the call; no step is taken, no state made, and the next one is as the first."""
    make, kind, message = BAD[case]
    with pytest.raises(kind, match=r"state_factory\('w.master', \(2, 3\), float32\).*" + message):
        instep.SGD({"w": np.ones((2, 3), LOW[-1])}, state_factory=Shelf(make))

    def sometimes(name, shape, dtype):
        return (
            make(shape, dtype)
            if name == "w.exp_avg_sq" and not good
            else good_shelf(name, shape, dtype)
        )

    good, good_shelf = False, Shelf()
    params = {"v": np.ones(4), "w": np.ones((2, 3), np.float32)}
    grads = {"v": np.ones(4), "w": np.ones((2, 3))}
    opt = instep.Adam(params, lr=0.1, state_factory=sometimes)
    before = everything(opt, *params.values())
    with pytest.raises(
        kind, match=r"state_factory\('w.exp_avg_sq', \(2, 3\), float32\).*" + message
    ):
        opt.step(grads)
    assert everything(opt, *params.values()) == before and opt.state == {}
    good = True
    opt.step(grads)
    plain = copy_tree({"v": np.ones(4), "w": np.ones((2, 3), np.float32)})
    other = instep.Adam(plain, lr=0.1)
    other.step(grads)
    assert everything(opt, *params.values()) == everything(other, *plain.values())


def test_arrays_that_overlap():
    """Each other, parameters, masters, present states, and the gradients of the step."""
    room = np.zeros(40, np.float32)
    params = {"a": np.ones(4, np.float32), "b": np.ones(4, np.float16)}
    grads = {"a": np.full(4, 0.5, np.float32), "b": np.full(4, 0.5, np.float32)}
    give = {}
    opt = instep.Adam(params, lr=0.1, state_factory=lambda n, s, d: give.get(n, room[:4]))
    assert np.shares_memory(opt.master["b"], room)
    fine = {
        f"{name}.{state}": room[4 * k + 4 : 4 * k + 8]
        for k, (name, state) in enumerate(
            (name, state) for name in "ab" for state in ("exp_avg", "exp_avg_sq")
        )
    }
    others = {
        r"what state_factory returned for 'a.exp_avg'": fine["a.exp_avg"][::-1],
        r"what state_factory returned for 'a.exp_avg_sq'": room[11:15],
        r"params\['a'\]": params["a"],
        r"the master of params\['b'\]": room[0:4],
        r"grads\['a'\]": grads["a"],
        r"grads\['b'\]": grads["b"],
    }
    for place, array in others.items():
        give.clear()
        give.update(fine)
        give["b.exp_avg_sq"] = array
        before = everything(opt, *params.values(), *grads.values(), room)
        message = (
            f"what state_factory returned for '.*' overlaps {place} in memory|{place} overlaps"
        )
        with pytest.raises(ValueError, match=message):
            opt.step(grads)
        assert everything(opt, *params.values(), *grads.values(), room) == before
    give.clear()
    give.update(fine)
    opt.step({"a": grads["a"], "b": None})
    give["b.exp_avg"] = opt.state["a"]["exp_avg_sq"]
    with pytest.raises(ValueError, match=r"'b.exp_avg' overlaps state\['a'\]\['exp_avg_sq'\]"):
        opt.step(grads)
    assert opt.steps == 1
    with pytest.raises(ValueError, match=r"for '1.master' overlaps the master of params\[0\]"):
        opt.state_factory = lambda n, s, d: room[:2]
        opt.add_param_group({"params": np.ones(2, np.float16)})
    assert len(opt.param_groups) == 1


def test_a_master_may_not_lie_on_a_parameter():
    weights = np.ones(4, np.float32)
    params = {"a": weights, "b": np.ones(4, np.float16)}
    with pytest.raises(ValueError, match=r"'b.master' overlaps params\['a'\]"):
        instep.SGD(params, state_factory=lambda n, s, d: weights)
    assert (weights == 1).all()


def test_gradients_in_what_a_factory_returned_are_refused():
    shelf = Shelf()
    opt = instep.SGD({"w": np.ones(3)}, momentum=0.5, state_factory=shelf)
    opt.step({"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"overlaps state\['w'\]\['momentum_buffer'\]"):
        opt.step({"w": shelf.arrays["w.momentum_buffer"]})


def test_an_exception_in_the_factory_changes_nothing():
    def failing(name, shape, dtype):
        if name == "b.momentum_buffer":
            raise OSError("disk full")
        return np.empty(shape, dtype)

    params = {"a": np.ones(2), "b": np.ones(3)}
    opt = instep.SGD(params, momentum=0.5, state_factory=failing)
    with pytest.raises(OSError, match="disk full"):
        opt.step({"a": np.ones(2), "b": np.ones(3)})
    assert opt.steps == 0 and opt.state == {} and (params["a"] == 1).all()
    opt.step({"a": np.ones(2), "b": None})


def test_a_refused_step_asks_for_nothing():
    shelf = Shelf()
    opt = instep.Adam(np.ones(2), nonfinite="skip", state_factory=shelf)
    assert not opt.step(np.array([1, np.nan])).applied
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.ones(3))
    assert shelf.asked == []


def test_a_factory_may_not_step_its_optimizer():
    opt = instep.Adam(np.ones(2), state_factory=lambda n, s, d: opt.step(np.ones(2)))
    with pytest.raises(RuntimeError, match="within a step"):
        opt.step(np.ones(2))
    assert opt.steps == 0 and opt.state == {}


def test_a_factory_may_not_change_its_optimizer():
    """Whatever asks it: the inner change would be lost, or counted twice."""
    refused = []

    def meddling(name, shape, dtype):
        for attempt in (
            lambda: opt.step(ones),
            lambda: opt.add_param_group({"params": np.ones(1)}),
            lambda: opt.load_state_dict(saved),
            lambda: opt.swap_ema().__enter__(),
        ):
            with pytest.raises(RuntimeError, match="or another change of it") as raised:
                attempt()
            refused.append((name, str(raised.value).split(" ")[0]))
        return np.empty(shape, dtype)

    opt = instep.Adam([np.ones(2)], ema_decay=0.5)
    opt.add_param_group({"params": [np.ones(2, np.float16)]})
    ones, saved = [[np.ones(2)], [np.ones(2)]], opt.state_dict()
    opt.step(ones)
    with_states = opt.state_dict()
    opt.load_state_dict(saved)
    opt.state_factory = meddling
    what = ["step()", "add_param_group()", "load_state_dict()", "swap_ema()"]
    for change, names in [
        (lambda: opt.load_state_dict(with_states), ["0.0.exp_avg", "0.0.exp_avg_sq"]),
        (lambda: opt.add_param_group({"params": [np.ones(2, np.float16)]}), ["2.0.master"]),
        (lambda: (setattr(opt, "ema_decay", None), setattr(opt, "ema_decay", 0.9)), ["0.0.ema"]),
    ]:
        refused.clear()
        change()
        assert [(name, call) for name in names for call in what] == refused[: 4 * len(names)]
    assert opt.steps == 1 and len(opt.param_groups) == 3
    opt.step([*ones, [np.ones(2)]])


BAD_OPTIONS = [
    {"clip_norm": -1},
    {"clip_value": 0},
    {"nonfinite": "never"},
    {"ema_decay": 1.0},
    {"ema_warmup": True},
    {"zero_grads": 1},
    {"stats": None},
    {"threads": 0},
    {"seed": -1},
    {"state_dtype": "4bit"},
    {"lr": -1.0},
]


@pytest.mark.parametrize("bad", BAD_OPTIONS, ids=lambda bad: next(iter(bad)))
def test_a_refused_constructor_asks_for_nothing(bad):
    """A file that it opens may hold the masters of an earlier run."""
    shelf = Shelf()
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        options = {"ema_decay": 0.9, **bad}
        if "ema_warmup" in bad:
            options.pop("ema_decay")
        instep.SGD(np.ones(2, np.float16), state_factory=shelf, **options)
    assert shelf.asked == []


def test_a_refused_group_lets_none_ask():
    shelf = Shelf()
    first = {"params": np.ones(2, np.float16)}
    for bad in (
        {"params": np.ones(2), "lr": -1},
        {"params": np.arange(2)},
        {"params": first["params"][:1]},
        {"params": []},
    ):
        with pytest.raises((TypeError, ValueError)):
            instep.SGD([first, bad], state_factory=shelf)
    assert shelf.asked == []
