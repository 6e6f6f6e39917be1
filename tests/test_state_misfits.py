"""Snapshots that do not fit: refused by name, and nothing is changed."""

import re

import numpy as np
import pytest
from conftest import copy_tree, everything, leaves, tiny_problem

import instep
from instep.schedules import Warmup


def change(*path, to=None, drop=False):
    def apply(state):
        for key in path[:-1]:
            state = state[key]
        if drop:
            del state[path[-1]]
        else:
            state[path[-1]] = to

    return apply


STATE, GROUP = ("state", "layers.1.W"), ("param_groups", 0)
MISFITS = {
    "version": (change("version", to=99), ValueError, "version 99"),
    "no_version": (change("version", drop=True), ValueError, "'version'"),
    "class": (change("optimizer", to="SGD"), ValueError, "of SGD.*is Adam"),
    "no_steps": (change("steps", drop=True), ValueError, "'steps'"),
    "negative_steps": (change("steps", to=-1), ValueError, "steps.*-1"),
    "float_steps": (change("steps", to=2.0), TypeError, "steps.*2.0"),
    "bool_steps": (change("steps", to=True), TypeError, "steps.*True"),
    "many_steps": (change("steps", to=2**63), ValueError, r"^steps .*2\*\*62.*9223372036854775808"),
    "state_list": (change("state", to=[]), TypeError, "'state'.*list"),
    "no_groups": (change("param_groups", to=[]), ValueError, "0 groups.*1"),
    "groups_dict": (change("param_groups", to={}), ValueError, "dict groups"),
    "group_none": (change(*GROUP, to=None), ValueError, "None"),
    "no_lr": (change(*GROUP, "lr", drop=True), ValueError, "'lr'"),
    "extra": (change(*GROUP, "momentum", to=0.5), ValueError, "momentum"),
    "bad_lr": (change(*GROUP, "lr", to=-1.0), ValueError, "lr.*-1.0"),
    "text_lr": (change(*GROUP, "lr", to="fast"), TypeError, "lr.*'fast'"),
    "bad_betas": (change(*GROUP, "betas", to=(0.9, 1.5)), ValueError, r"betas\[1\].*1.5"),
    "bad_flag": (change(*GROUP, "amsgrad", to=1), TypeError, "amsgrad.*1"),
    "options": (change("options", to={}), ValueError, "'options'"),
    "clip": (change("options", "clip_norm", to=-3.0), ValueError, "clip_norm.*-3.0"),
    "policy": (change("options", "nonfinite", to="ignore"), ValueError, "nonfinite.*'ignore'"),
    "shape": (change(*STATE, "exp_avg", to=np.ones((3, 4))), ValueError, r"\(3, 4\).*\(4, 3\)"),
    "int": (change(*STATE, "exp_avg", to=np.ones((4, 3), int)), TypeError, "int64"),
    "complex": (change(*STATE, "exp_avg", to=np.ones((4, 3), complex)), TypeError, "complex128"),
    "object": (change(*STATE, "exp_avg", to=None), TypeError, r"exp_avg'\].*object"),
    "unknown": (change(*STATE, "velocity", to=np.ones((4, 3))), ValueError, "'velocity'"),
    "foreign": (change(*STATE, "grad_avg", to=np.ones((4, 3))), ValueError, "'grad_avg'"),
    "incomplete": (change(*STATE, "exp_avg_sq", drop=True), ValueError, "'exp_avg_sq'"),
    "no_step": (change(*STATE, "step", drop=True), ValueError, "'step'"),
    "bad_step": (change(*STATE, "step", to=-4), ValueError, r"'step'\].*-4"),
    "float_step": (change(*STATE, "step", to=3.5), TypeError, r"'step'\].*3.5"),
    "many_step": (change(*STATE, "step", to=2**63), ValueError, r"'step'\].*2\*\*62"),
    "entry": (change(*STATE, to=[1, 2]), ValueError, r"layers\.1\.W.*\[1, 2\]"),
    "missing": (
        lambda state: [
            change(*STATE, drop=True)(state),
            state["param_groups"][0]["params"].remove("layers.1.W"),
        ],
        ValueError,
        r"missing \['layers\.1\.W'\]",
    ),
    "unexpected": (change("state", "layer", to={"step": 1}), ValueError, r"unexpected \['layer'\]"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_misfit_changes_nothing(case):
    """Refused before anything is replaced; the run goes on bit for bit."""
    spoil, kind, message = MISFITS[case]
    tree, steps = tiny_problem()
    params, clean = copy_tree(tree), copy_tree(tree)
    hyper = {"lr": Warmup(0.1, 5), "amsgrad": True, "clip_norm": 1.0, "nonfinite": "skip"}
    opt, other = instep.Adam(params, **hyper), instep.Adam(clean, **hyper)
    for grads in steps[:3]:
        opt.step(grads)
        other.step(grads)
    source = instep.Adam(copy_tree(tree), lr=5.0, clip_value=0.1)
    source.step(steps[0])
    state = source.state_dict()
    spoil(state)
    before = everything(opt, *leaves(params))
    with pytest.raises(kind, match=re.compile(message, re.DOTALL)):
        opt.load_state_dict(state)
    assert everything(opt, *leaves(params)) == before
    for grads in steps[3:]:
        assert opt.step(grads) == other.step(grads)
    assert everything(opt, *leaves(params)) == everything(other, *leaves(clean))
    assert (opt.clip_norm, opt.clip_value, opt.nonfinite) == (1.0, None, "skip")


def test_the_largest_number_of_steps():
    opt = instep.Adam(param := np.ones(2), lr=0.5)
    opt.step(np.ones(2))
    state = opt.state_dict()
    state["steps"] = state["state"]["param"]["step"] = 2**62
    opt.load_state_dict(state)
    assert opt.step(np.ones(2)).step == 2**62 + 1 == opt.state["param"]["step"]
    assert np.isfinite(param).all()


@pytest.mark.parametrize("state", [None, "state.npz", [], 3], ids=repr)
def test_a_state_dict_is_a_dict(state):
    with pytest.raises(TypeError, match="dict"):
        instep.SGD(np.ones(2)).load_state_dict(state)
    with pytest.raises(ValueError, match="not a state_dict"):
        instep.SGD(np.ones(2)).load_state_dict({"state": {}, "param_groups": []})
