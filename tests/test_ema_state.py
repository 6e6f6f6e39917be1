"""Averages in snapshots, copies and pickles."""

import copy
import pickle

import numpy as np
import pytest
from conftest import bits, copy_tree, everything, leaves, tiny_problem
from test_ema import make, one_step

import instep


def trained(**options):
    tree, steps = tiny_problem(steps=8)
    opt = instep.AdamW(tree, lr=0.1, **options)
    for grads in steps[:4]:
        opt.step(grads)
    return tree, steps, opt


@pytest.mark.parametrize("way", [lambda s: s, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("other", [{}, {"ema_decay": 0.5}])
def test_resumed_in_the_middle(way, other):
    tree, steps, opt = trained(ema_decay=0.95, ema_warmup=True)
    resumed = copy_tree(tree)
    again = instep.AdamW(resumed, **other)
    saved = way(opt.state_dict())
    assert again.load_state_dict(saved) == ((), ())
    assert (again.ema_decay, again.ema_warmup) == (0.95, True)
    for grads in steps[4:]:
        opt.step(grads)
        again.step(grads)
    assert everything(opt, *leaves(tree)) == everything(again, *leaves(resumed))
    saved["ema"]["scale"][...] = 7  # the snapshot stays the caller's
    assert again.ema["scale"] != 7


def test_a_snapshot_without_averages_switches_them_off():
    _, _, source = trained()
    saved = source.state_dict()
    assert saved["ema"] == {} and saved["options"]["ema_decay"] is None
    _, _, opt = trained(ema_decay=0.9)
    assert opt.load_state_dict(saved) == ((), ())
    assert opt.ema is None and opt.ema_decay is None


def without_averages(saved):
    """As it was saved before there were any."""
    options = {key: saved["options"][key] for key in ("clip_norm", "clip_value", "nonfinite")}
    return {key: value for key, value in saved.items() if key != "ema"} | {"options": options}


def test_an_old_snapshot_keeps_the_options_and_starts_the_averages_anew():
    _tree, _, source = trained()
    old = without_averages(source.state_dict())
    _, _, plain = trained(zero_grads=True)
    assert plain.load_state_dict(old) == ((), ()) and plain.zero_grads is True
    _, _, opt = trained(ema_decay=0.9, ema_warmup=True)
    before = everything(opt)
    with pytest.raises(ValueError, match=r"missing \['layers.0.W.ema', .*strict=False"):
        opt.load_state_dict(old)
    assert everything(opt) == before
    report = opt.load_state_dict(old, strict=False)
    assert report.missing[0] == "layers.0.W.ema" and len(report.missing) == 5
    assert (opt.ema_decay, opt.ema_warmup) == (0.9, True)
    params = opt.param_groups[0]["params"]
    for average, param in zip(leaves(opt.ema), leaves(params), strict=True):
        assert bits(average) == bits(param)


def test_names_that_do_not_match():
    """As with states: what the snapshot does not know is kept."""
    source = instep.SGD({"a": np.zeros(2), "x": np.ones(2)}, lr=1.0, ema_decay=0.5)
    source.step({"a": np.ones(2), "x": None})
    params = {"a": np.zeros(2), "b": np.ones(2)}
    opt = instep.SGD(params, lr=1.0, ema_decay=0.25)
    opt.step({"a": None, "b": np.full(2, 4.0)})
    kept = opt.ema["b"]
    saved = source.state_dict()
    assert opt.load_state_dict(saved, strict=False) == (("b",), ("x",))
    assert opt.ema["a"].tolist() == [-0.5] * 2 and opt.ema["b"] is kept and (kept == -2).all()
    fresh = instep.SGD(copy_tree(params))
    fresh.load_state_dict(saved, strict=False)
    assert bits(fresh.ema["b"]) == bits(params["b"])  # there was no average of it
    saved["options"]["ema_decay"] = None
    with pytest.raises(ValueError, match=r"unexpected \['x', 'a.ema'\]"):
        opt.load_state_dict(saved)
    assert opt.load_state_dict(saved, strict=False).unexpected == ("x", "a.ema")


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda s: s.update(ema=[1]), TypeError, "'ema' must be a dict, got list"),
        (
            lambda s: s["ema"].update(scale=np.ones(2)),
            ValueError,
            r"ema\['scale'\] has shape \(2,\), the parameter \(\)",
        ),
        (
            lambda s: s["ema"].update(scale=np.ones((), int)),
            TypeError,
            r"ema\['scale'\] must be floating-point, got int64",
        ),
        (lambda s: s["options"].update(ema_decay=3), ValueError, "ema_decay"),
        (lambda s: s["options"].update(more=3), ValueError, "'options' of the state_dict needs"),
        (lambda s: s["options"].pop("clip_norm"), ValueError, "'options' of the state_dict needs"),
    ],
)
def test_what_does_not_fit_changes_nothing(change, kind, text):
    tree, _, opt = trained(ema_decay=0.9)
    saved, before = opt.state_dict(), everything(opt, *leaves(tree))
    change(saved)
    with pytest.raises(kind, match=text):
        opt.load_state_dict(saved)
    assert everything(opt, *leaves(tree)) == before and opt.ema_decay == 0.9


def test_averages_of_another_dtype_and_layout():
    w, opt = make()
    one_step(opt)
    wide = w.astype(np.float32)[::-1]
    other = instep.SGD(wide)
    saved = opt.state_dict()
    saved["ema"]["param"] = saved["ema"]["param"][::-1]
    other.load_state_dict(saved)
    assert other.ema.dtype == np.float32 and other.ema.tolist() == [28, 12, 4]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_copies_have_averages_of_their_own(way):
    tree, steps, opt = trained(ema_decay=0.95, ema_warmup=True, stats=True)
    other = way(opt)
    copied = other.param_groups[0]["params"]
    assert everything(other, *leaves(copied)) == everything(opt, *leaves(tree))
    reports = [opt.step(grads) for grads in steps[4:]]
    assert [other.step(grads) for grads in steps[4:]] == reports
    assert everything(other, *leaves(copied)) == everything(opt, *leaves(tree))
    for a, b in zip(leaves(other.ema), leaves(opt.ema), strict=True):
        assert not np.shares_memory(a, b)


def test_a_parameter_called_like_the_average_of_another():
    params = {"W": np.ones(2), "W.ema": np.ones(2)}
    grads = {name: np.ones(2) for name in params}
    opt = instep.SGD(params, lr=1.0, ema_decay=0.5)
    opt.step(grads)
    saved = opt.state_dict()
    del saved["ema"]["W"]
    opt.step(grads)
    assert opt.load_state_dict(saved, strict=False).missing == ("W.ema",)
    assert opt.ema["W.ema"].tolist() == [0.5, 0.5] and opt.ema["W"].tolist() == [-1, -1]
