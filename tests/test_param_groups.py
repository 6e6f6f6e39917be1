"""What a user may do to param_groups, and what is refused: before anything is written."""

import copy
import pickle
import re

import numpy as np
import pytest
from conftest import everything

import instep


def make():
    param = np.ones(3, np.float32)
    return param, instep.SGD({"w": param}, lr=0.5)


def lr_of(opt, param):
    """The learning rate that a step really takes."""
    before = param.copy()
    report = opt.step({"w": np.ones(3, np.float32)})
    assert report.lr == pytest.approx(before[0] - param[0], abs=1e-7)
    return report.lr


CHANGES = {
    "set": lambda group: group.__setitem__("lr", 0.25),
    "update": lambda group: group.update(lr=0.25),
    "or": lambda group: group.__ior__({"lr": 0.25}),
    "pop and set": lambda group: (group.pop("lr"), group.setdefault("lr", 0.25)),
    "delete and set": lambda group: (group.__delitem__("lr"), group.update({"lr": 0.25})),
    "clear and restore": lambda group: (
        kept := dict(group),
        group.clear(),
        group.update(kept, lr=0.25),
    ),
    "schedule": lambda group: group.__setitem__("lr", lambda t: 0.5**t / 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_way_to_change_a_value_is_noticed(change):
    param, opt = make()
    assert lr_of(opt, param) == 0.5
    CHANGES[change](opt.param_groups[0])
    assert lr_of(opt, param) == 0.25


BAD = {
    "negative": (lambda group: group.update(lr=-1), ValueError, "lr.*-1"),
    "bool": (lambda group: group.update(lr=True), TypeError, "lr"),
    "deleted": (lambda group: group.pop("lr"), TypeError, "lost.*'lr'"),
    "emptied": (lambda group: group.clear(), ValueError, "'params'"),
    "popitem": (lambda group: group.popitem(), ValueError, "'params'"),
    "misspelt": (lambda group: group.update(learning_rate=0.1), TypeError, "'learning_rate'.*lr"),
    "other params": (
        lambda group: group.update(params={"w": np.ones(3, np.float32)}),
        ValueError,
        "can't be replaced.*add_param_group",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_change_is_refused_until_it_is_mended(case):
    change, error, message = BAD[case]
    param, opt = make()
    lr_of(opt, param)
    group = opt.param_groups[0]
    good, before = dict(group), param.copy()
    change(group)
    for _ in range(2):
        with pytest.raises(error, match=message):
            opt.step({"w": np.ones(3, np.float32)})
        with pytest.raises(error, match=message):
            opt.state_dict()
        assert (param == before).all() and opt.steps == 1
    group.clear()
    group.update(good)
    assert lr_of(opt, param) == 0.5


def test_groups_can_not_be_added_or_replaced_unnoticed():
    param, opt = make()
    with pytest.raises(AttributeError, match="append"):
        opt.param_groups.append({"params": np.ones(2), "lr": 0.1})
    with pytest.raises(TypeError, match="item assignment"):
        opt.param_groups[0] = {"params": {"w": param}, "lr": 0.1}
    with pytest.raises(AttributeError, match="param_groups"):
        opt.param_groups = [{"params": {"w": param}, "lr": 0.1}]
    with pytest.raises(TypeError):
        del opt.param_groups[0]
    for group in opt.param_groups:
        group["lr"] = 0.25
    assert len(opt.param_groups) == 1 and lr_of(opt, param) == 0.25


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))]
)
def test_a_copy_of_a_group_is_a_plain_dict(duplicate):
    param, opt = make()
    found = duplicate(opt.param_groups[0])
    assert type(found) is dict and found["lr"] == 0.5
    found["lr"] = 0.1
    assert lr_of(opt, param) == 0.5


def test_saving_between_a_change_and_a_step():
    param, opt = make()
    for rate in (0.25, lambda t: 0.125 if t == 1 else 1.0, 0.0625):
        opt.param_groups[0]["lr"] = rate
        assert opt.state_dict()["param_groups"][0]["lr"] is rate
        assert lr_of(opt, param) == (rate(1) if callable(rate) else rate)


@pytest.mark.parametrize("case", ["misspelt", "other params"])
def test_a_bad_change_stops_a_load_before_anything_is_replaced(case):
    """Here of the last group, seen when the first one is still as it was."""
    change, error, message = BAD[case]

    def make(lr):
        return instep.SGD([{"params": np.ones(3)}, {"params": np.ones(2)}], lr=lr, clip_norm=lr)

    source, opt = make(0.25), make(0.5)
    source.step([np.ones(3), np.ones(2)])
    first, last = opt.param_groups
    good = dict(last)
    change(last)
    with pytest.raises(error, match=message):
        opt.load_state_dict(source.state_dict())
    assert (first["lr"], last["lr"], opt.clip_norm, opt.steps) == (0.5, 0.5, 0.5, 0)
    last.clear()
    last.update(good)
    opt.load_state_dict(source.state_dict())
    assert opt.param_groups[0] is first and opt.param_groups[1] is last
    assert (first["lr"], last["lr"], opt.clip_norm, opt.steps) == (0.25, 0.25, 0.25, 1)


def test_loading_mends_a_hyperparameter_that_was_lost():
    param, opt = make()
    saved = opt.state_dict()
    opt.param_groups[0].pop("lr")
    opt.param_groups[0]["momentum"] = -3
    opt.load_state_dict(saved)
    assert lr_of(opt, param) == 0.5


def test_a_list_of_betas_can_not_change_unnoticed():
    betas = [0.5, 0.9]
    opt = instep.Adam(np.ones(2), betas=betas)
    betas[0] = 7.0
    assert opt.param_groups[0]["betas"] == (0.5, 0.9)
    assert opt.step(np.ones(2)).applied


@pytest.mark.parametrize("lone", [False, True])
def test_a_group_added_later_is_named_as_if_it_had_been_there(lone):
    """So the checkpoint of either optimizer loads into the other, and messages name the place."""

    def make():
        first = np.ones(3) if lone else {"a": [np.ones(3)], "1": {"c": np.ones(1)}}
        return first, {"c": np.ones(2)}

    first, second = make()
    grown = instep.SGD(first, lr=0.5, momentum=0.5)
    grown.step(copy.deepcopy(first))
    buffer = grown.state["param" if lone else "a.0"]["momentum_buffer"]
    grown.add_param_group({"params": second, "lr": 0.25})
    assert grown.state["0" if lone else "0.a.0"]["momentum_buffer"] is buffer
    grads = [copy.deepcopy(first), copy.deepcopy(second)]
    grown.step(grads)
    groups = copy.deepcopy([{"params": first}, {"params": second}])
    whole = instep.SGD(groups)
    assert whole.load_state_dict(grown.state_dict()) == ((), ())
    assert grown.load_state_dict(whole.state_dict()) == ((), ())
    names = ["0", "1.c"] if lone else ["0.a.0", "0.1.c", "1.c"]
    assert list(whole.state) == list(grown.state) == names
    assert whole.step(grads) == grown.step(grads)
    assert everything(whole) == everything(grown)
    bad = np.ones(9) if lone else {"a": [np.ones(9)], "1": None}
    place = "grads[0]" if lone else "grads[0]['a'][0]"
    with pytest.raises(ValueError, match=f"^{re.escape(place)} has shape"):
        grown.step([bad, None])


def test_a_group_that_is_refused_renames_nothing():
    opt = instep.SGD({"a": np.ones(3)}, momentum=0.5)
    opt.step({"a": np.ones(3)})
    for bad in ({"params": np.ones(2), "lr": -1}, {"params": opt.param_groups[0]["params"]["a"]}):
        with pytest.raises(ValueError):
            opt.add_param_group(bad)
        assert list(opt.state) == ["a"] and opt.step({"a": np.ones(3)}).applied


def test_a_parameter_made_read_only_is_not_written():
    """Unless it has no gradient."""
    params = {"frozen": np.ones(2), "w": np.ones(2)}
    opt = instep.SGD(params, lr=0.5)
    params["frozen"].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['frozen'\] is a read-only .*None"):
        opt.step({"frozen": np.ones(2), "w": np.ones(2)})
    assert (params["w"] == 1).all() and opt.steps == 0
    opt.step({"frozen": None, "w": np.ones(2)})
    assert (params["frozen"] == 1).all() and (params["w"] == 0.5).all()
