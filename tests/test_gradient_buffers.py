"""The gradient buffers of an optimizer: `opt.grads`, and steps without arguments."""

import numpy as np
import pytest
from conftest import copy_tree, everything, leaves, tiny_problem
from test_optim import ADAM

import instep


def test_step_with_the_own_gradient_buffers():
    """Buffers that backward code fills: the same bits as passing the gradients."""
    tree, steps = tiny_problem(steps=6)
    ours, theirs = copy_tree(tree), copy_tree(tree)
    opt, other = instep.Adam(ours, **ADAM), instep.Adam(theirs, **ADAM)
    buffers = opt.grads
    assert all((leaf == 0).all() for leaf in leaves(buffers))
    for grads in steps:
        for buffer, grad in zip(leaves(buffers), leaves(grads), strict=True):
            np.copyto(buffer, grad)
        assert opt.step() == other.step(grads)
        assert opt.grads["layers"][0]["W"] is buffers["layers"][0]["W"]
    assert everything(opt, *leaves(ours)) == everything(other, *leaves(theirs))


def test_gradient_buffers_are_like_the_parameters():
    params = [np.zeros((3, 4), np.float32), np.zeros((2, 5), order="F"), np.zeros(8)[::-2]]
    for param, buffer in zip(params, instep.SGD(params).grads, strict=True):
        assert (buffer.shape, buffer.dtype) == (param.shape, param.dtype)
        assert buffer.flags.f_contiguous == param.flags.f_contiguous or param.ndim == 1
        assert buffer.flags.writeable and not np.may_share_memory(buffer, param)


def test_step_before_the_buffers_were_used():
    param = np.ones(3)
    opt = instep.SGD(param, lr=0.5)
    with pytest.raises(ValueError, match=r"opt\.grads"):
        opt.step()
    assert opt.steps == 0 and (param == 1).all()
    opt.grads[...] = 2
    opt.step()
    assert (param == 0).all()
    opt.add_param_group({"params": {"b": np.ones(2)}})  # the old buffers do not fit any more
    with pytest.raises(ValueError, match=r"opt\.grads"):
        opt.step()
    assert [np.shape(leaf) for leaf in leaves(opt.grads)] == [(3,), (2,)]
    opt.grads[1]["b"][...] = 1
    opt.step()
    assert (param == 0).all() and (opt.param_groups[1]["params"]["b"] == 0.5).all()
