"""Copies and pickles of whole optimizers: with their parameters, and they go on bit for bit."""

import copy
import pickle

import numpy as np
import pytest
from conftest import LAYOUTS, Guarded, bits, copy_tree, everything, leaves, tiny_problem
from test_optim import ROWS

import instep
from instep.schedules import CosineAnnealing, Warmup


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


COPIES = {"deepcopy": copy.deepcopy, "pickle": through_pickle}
ways = pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)


@ways
@pytest.mark.parametrize("name", ROWS)
def test_a_copy_goes_on_as_the_original(name, way, dtype):
    """Made with states, gaps, a schedule and options; neither sees the steps of the other."""
    tree, steps = tiny_problem(dtype=dtype, steps=10)
    opt = ROWS[name].make(
        tree, clip_norm=2.0, clip_value=0.7, nonfinite="skip", ema_decay=0.9, threads=2
    )
    opt.param_groups[0]["lr"] = Warmup(CosineAnnealing(0.1, 8), 3)
    for t, grads in enumerate(steps[:5]):
        grads["layers"][0]["W"] = None if t % 3 == 1 else grads["layers"][0]["W"]
        grads["layers"][1]["b"] = None
        opt.step(grads)
    other = way(opt)
    assert type(other) is type(opt) and other.threads == 2
    copied = other.param_groups[0]["params"]
    assert everything(other, *leaves(copied)) == everything(opt, *leaves(tree))
    before = everything(other, *leaves(copied))
    reports = [opt.step(grads) for grads in steps[5:]]
    assert everything(other, *leaves(copied)) == before
    assert [other.step(grads) for grads in steps[5:]] == reports
    assert everything(other, *leaves(copied)) == everything(opt, *leaves(tree))


@ways
@pytest.mark.parametrize("later", [False, True])
def test_groups_and_buffers(way, later):
    """Also where a group alone would be refused by the constructor's defaults."""
    params = [{"a": np.ones(3), "b": np.ones((2, 2))}, np.full(4, 2.0)]
    groups = [{"params": p, "momentum": 0.5 + k / 4} for k, p in enumerate(params)]
    if later:
        opt = instep.SGD(params[0], lr=0.5, momentum=0.5, nesterov=True)
        opt.add_param_group(groups[1])
    else:
        opt = instep.SGD(groups, lr=0.5, nesterov=True)
    opt.grads[1][...] = 0.25
    opt.step()
    opt.param_groups[1]["lr"] = 0.125
    other = way(opt)
    assert bits(other.grads[1]) == bits(opt.grads[1])
    assert not np.shares_memory(other.grads[1], opt.grads[1])
    opt.grads[0]["a"][...] = other.grads[0]["a"][...] = 3.0
    assert opt.step() == other.step()
    assert other.param_groups[1]["lr"] == 0.125 and list(other.state) == ["0.a", "0.b", "1"]
    copied = [group["params"] for group in other.param_groups]
    assert everything(opt, *leaves(params)) == everything(other, *leaves(copied))
    other.add_param_group({"params": np.ones(1), "momentum": 0.5})
    assert len(opt.param_groups) == 2


@ways
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_of_any_layout(layout, way, rng):
    guarded = Guarded()
    values = rng.normal(size=(3, 4, 5))
    opt = instep.Adam(param := guarded.array(values, layout=layout), lr=0.1)
    opt.step(values)
    other = way(opt)
    assert opt.step(values) == other.step(values)
    assert bits(other.param_groups[0]["params"]) == bits(param)
    guarded.check()


@ways
def test_copied_together_with_its_parameters(way):
    """As a model and its optimizer are: the copy still trains the copied model."""
    model = {"W": np.ones((2, 3), np.float32), "b": np.zeros(3)}
    opt = instep.SGD(model, lr=0.5)
    twin, other = way((model, opt))
    other.step({"W": np.ones((2, 3)), "b": np.ones(3)})
    assert (twin["W"] == 0.5).all() and (twin["b"] == -0.5).all()
    assert (model["W"] == 1).all() and other.param_groups[0]["params"] is twin


def test_a_shallow_copy_shares_the_parameters_alone():
    opt = instep.SGD(param := np.ones(2), lr=0.5, momentum=0.5)
    opt.step(np.ones(2))
    other = copy.copy(opt)
    assert other.param_groups[0]["params"] is param
    other.param_groups[0]["lr"] = 1.0
    other.step(np.ones(2))
    assert (opt.steps, other.steps, opt.param_groups[0]["lr"]) == (1, 2, 0.5)
    assert opt.state["param"]["momentum_buffer"].tolist() == [1, 1]


def test_a_shallow_copy_has_gradient_buffers_of_its_own():
    opt = instep.SGD(param := np.zeros(2), lr=1.0)
    opt.grads[...] = 1
    other = copy.copy(opt)
    opt.grads[...] = 4
    other.step()
    assert param.tolist() == [-1, -1] and opt.grads.tolist() == [4, 4]


@pytest.mark.parametrize("way", [copy.copy, *COPIES.values()], ids=["copy", *COPIES])
def test_what_was_written_into_a_low_precision_parameter_stays(way):
    """A copy changes nothing in the original, and `refresh_master` takes it over in both."""
    opt = instep.SGD(param := np.ones(2, np.float16), lr=1.0)
    opt.step(np.full(2, 2.0**-13))
    param[0] = 5
    other = way(opt)
    copied = other.param_groups[0]["params"]
    assert param.tolist() == copied.tolist() == [5, 1]
    assert other.master.tolist() == opt.master.tolist() == [1 - 2.0**-13] * 2
    for one in (opt, other):
        one.refresh_master()
        assert one.master.tolist() == [5, 1 - 2.0**-13]


class Noted(instep.SGD):
    """A user's class with an attribute and a constructor of its own."""

    def __init__(self, note, params):
        super().__init__(params, lr=0.5)
        self.note = note


@ways
def test_attributes_of_a_derived_class(way):
    other = way(Noted(["a note"], np.ones(2)))
    assert other.note == ["a note"] and other.step(np.ones(2)).lr == 0.5


def test_what_can_not_be_copied_is_named():
    opt = instep.SGD(np.ones(2), lr=lambda t: 0.5)
    assert copy.deepcopy(opt).step(np.ones(2)).lr == 0.5
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(opt)
    opt.param_groups[0]["lr"] = -1
    with pytest.raises(ValueError, match=r"^lr .*-1"):
        copy.deepcopy(opt)


@ways
def test_a_copy_of_a_copy(way):
    tree, steps = tiny_problem(steps=3)
    opt = instep.AdamW(copy_tree(tree), lr=0.1)
    opt.step(steps[0])
    other = way(way(opt))
    assert [opt.step(g) for g in steps[1:]] == [other.step(g) for g in steps[1:]]
