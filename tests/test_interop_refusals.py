"""What `to_torch` and `from_torch` refuse, and what they say then; PyTorch is not needed here."""

import copy

import numpy as np
import pytest
from interop_common import FIRST, NAMES, THEIRS, loaded, made, of_an_old_version, two_groups

import instep
from instep.interop.torch import from_torch, to_torch


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_another_class_is_refused(name, other):
    if name == other:
        assert from_torch(THEIRS[name], made(other))["optimizer"] == name
        return
    for like in (getattr(instep, other), made(other), made(other).state_dict()):
        with pytest.raises(ValueError, match=f"is of {name}, `like` of {other}"):
            from_torch(THEIRS[name], like)
    if other in ("SGD", "RMSprop") and name.startswith("Adam"):
        with pytest.raises(ValueError, match=f"is of Adam or AdamW, `like` of {other}"):
            from_torch(of_an_old_version(name), made(other))


def group_of(state):
    return state["param_groups"][0]


def entry_of(state):
    return next(iter(state["state"].values()))


REFUSED = {  # what is done to a state of Adam, of either library: what is said
    "no state": (lambda s: s.pop("state"), r"it has no \['state'\]"),
    "state a list": (lambda s: s.update(state=[]), "'state' must be a dict with a dict for each"),
    "entry a list": (lambda s: s["state"].update({0: []}), "'state' must be a dict with a dict"),
    "groups a dict": (lambda s: s.update(param_groups={}), "'param_groups' must be a list of"),
    "no params": (lambda s: group_of(s).pop("params"), "'param_groups' must be a list of dicts"),
    "twice": (lambda s: group_of(s).update(params=[0, 0]), "stands in 'param_groups' twice"),
    "stranger": (lambda s: group_of(s).update(params=[8, 9]), "which are in no group's 'params'"),
    "no lr": (lambda s: group_of(s).pop("lr"), r"param_groups\[0\] lacks 'lr', which Adam has"),
    "bad lr": (lambda s: group_of(s).update(lr=-1), r"param_groups\[0\]\['lr'\] must be at least"),
    "lr text": (lambda s: group_of(s).update(lr="1"), r"\['lr'\] must be a number"),
    "many lr": (lambda s: group_of(s).update(lr=np.ones(2)), r"\['lr'\] must be a number, got"),
    "betas": (lambda s: group_of(s).update(betas=0.9), r"\['betas'\] must be a pair of numbers"),
    "beta": (lambda s: group_of(s).update(betas=(0.9, 1)), r"\['betas'\]\[1\] must be in \[0, 1"),
    "flag": (lambda s: group_of(s).update(amsgrad=1), r"\['amsgrad'\] must be True or False"),
    "unknown state": (lambda s: entry_of(s).update(other=1), r"state\[.*\] has \['other'\]; Adam"),
    "8 bits": (lambda s: entry_of(s).update(exp_avg=FIRST.astype(np.int8)), "kept in 8 bits"),
    "unsigned": (lambda s: entry_of(s).update(exp_avg_sq=FIRST.astype(np.uint8)), "in 8 bits"),
    "complex": (lambda s: entry_of(s).update(exp_avg=1j * FIRST), "floating-point, got complex64"),
    "int": (lambda s: entry_of(s).update(exp_avg=FIRST.astype(int)), "floating-point, got int64"),
    "masked": (lambda s: entry_of(s).update(exp_avg=np.ma.array(FIRST)), "is a masked array"),
    "ragged": (lambda s: entry_of(s).update(exp_avg=[[1], []]), "is list, not readable"),
    "negative": (lambda s: entry_of(s).update(step=-1), r"\['step'\] must be a whole number of at"),
    "half": (
        lambda s: entry_of(s).update(step=np.array(0.5)),
        r"\['step'\] must be a whole number",
    ),
    "NaN": (lambda s: entry_of(s).update(step=float("nan")), r"\['step'\] must be a whole number"),
    "infinite": (lambda s: entry_of(s).update(step=np.inf), r"\['step'\] must be a whole number"),
    "count text": (lambda s: entry_of(s).update(step="3"), r"\['step'\] must be a whole number"),
}


@pytest.mark.parametrize("way", ["from", "to"])
@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_both_ways(what, way):
    change, message = REFUSED[what]
    if way == "from":
        state, function = copy.deepcopy(THEIRS["Adam"]), from_torch
    else:
        state, function = loaded("Adam").state_dict(), to_torch
    change(state)
    with pytest.raises((TypeError, ValueError), match=message):
        function(state)


def test_refused_from_pytorch():
    theirs = THEIRS["Adam"]

    def with_group(**changes):
        return {**theirs, "param_groups": [{**theirs["param_groups"][0], **changes}]}

    with pytest.raises(TypeError, match=r"dict, got int; pass opt\.state_dict\(\)"):
        from_torch(3)
    with pytest.raises(ValueError, match="a state_dict of instep already"):
        from_torch(loaded("Adam").state_dict())
    with pytest.raises(ValueError, match="'param_groups' is empty"):
        from_torch({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match=r"has \['momentum_decay'\], which instep\.Adam does not"):
        from_torch(with_group(momentum_decay=0.1))
    with pytest.raises(ValueError, match=r"different optimizers, \['Adam'\] and \['AdamW'\]"):
        groups = two_groups()
        groups["param_groups"][1]["decoupled_weight_decay"] = True
        from_torch(groups)
    with pytest.raises(ValueError, match=r"PyTorch's groups have \[2\] parameters, .* \[1\]"):
        from_torch(theirs, instep.Adam(np.zeros(2)))
    with pytest.raises(ValueError, match=r"PyTorch's groups have \[1, 1\] parameters, .* \[2\]"):
        from_torch(two_groups(), made("Adam"))
    with pytest.raises(ValueError, match=r"`like` is builtins\.dict; use instep's SGD"):
        from_torch(theirs, dict)
    with pytest.raises(ValueError, match="but no 'step'"):
        from_torch({**theirs, "state": {0: {"exp_avg": FIRST, "exp_avg_sq": FIRST}}})
    with pytest.raises(ValueError, match="steps is 2, but a parameter has taken 3"):
        from_torch(theirs, steps=2)
    with pytest.raises(ValueError, match="steps is 0, but a parameter has taken 1"):
        from_torch(THEIRS["SGD"], steps=0)
    with pytest.raises(TypeError, match="steps must be a whole number, got 'many'"):
        from_torch(theirs, steps="many")


def test_refused_to_pytorch():
    with pytest.raises(ValueError, match=r"not a state_dict of instep: it has no \['version'"):
        to_torch(THEIRS["Adam"])
    with pytest.raises(TypeError, match="a state_dict of instep is a dict, got NoneType"):
        to_torch(None)
    state = {**loaded("Adam").state_dict(), "optimizer": "Lion"}
    with pytest.raises(ValueError, match="is of 'Lion', which PyTorch has not; known: SGD"):
        to_torch(state)


@pytest.mark.parametrize(
    "names, message",
    [
        ("Wb", "names must be a list of strings"),
        ([0, 1], "names must be a list of strings"),
        (["W"], "names must be 2 different ones, one a parameter"),
        (["W", "W"], "names must be 2 different ones"),
        (["W", "b", "c"], "names must be 2 different ones"),
        (["W", "c"], r"gives \['W', 'c'\] for group 0, whose parameters are \['W', 'b'\]"),
    ],
)
def test_refused_names(names, message):
    opt = loaded("Adam")
    with pytest.raises((TypeError, ValueError), match=message):
        to_torch(opt, names=names)
    with pytest.raises((TypeError, ValueError), match=message):
        from_torch(THEIRS["Adam"], opt, names=names)
    if "different" in message:
        with pytest.raises(ValueError, match=message):
            from_torch(THEIRS["Adam"], names=names)


def test_a_state_of_another_shape_is_refused_by_loading():
    opt = instep.Adam([np.zeros(2), np.zeros((2, 2))])
    with pytest.raises(ValueError, match="has shape"):
        opt.load_state_dict(from_torch(THEIRS["Adam"], opt))
