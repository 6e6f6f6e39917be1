"""What a ReduceOnPlateau observed, with the optimizers that use it: saved, loaded, copied."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from conftest import everything
from test_plateau import plateau_of, through_pickle

import instep
from instep.schedules import (
    Constant,
    LinearDecay,
    PlateauState,
    ReduceOnPlateau,
    Schedule,
    Sequence,
    Warmup,
)

METRICS = [1.0, 0.8, 0.9, 0.85, 0.7, 0.9, 0.9, 0.9, 0.65, 0.9, 0.9, 0.9]

# How a plateau may stand in an optimizer; two values so that sharing shows.
PLACES = {
    "alone": lambda p: {"lr": p},
    "warmed up": lambda p: {"lr": Warmup(p, 2)},
    "scaled": lambda p: {"lr": 0.1 * p},
    "in a sequence": lambda p: {"lr": Sequence([0.1, LinearDecay(0.3, 2), 0.5 * p], [1, 3])},
    "twice": lambda p: {"lr": p, "weight_decay": 0.1 * p},
    "beta": lambda p: {"lr": 0.1, "betas": (p, 0.9)},
    "clip": lambda p: {"lr": p, "clip_norm": Warmup(2 * p, 3), "clip_value": p},
}
places = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)


def make(place, plateau):
    """An optimizer of known parameters that is given the plateau."""
    params = {"w": np.linspace(-1, 1, 5), "b": np.ones(2)}
    return instep.AdamW(params, **place(plateau)), params


def grads_of(t):
    return {"w": np.cos(np.arange(5) + t), "b": np.full(2, 0.3 * t - 1)}


def epochs(opt, plateau, first, last):
    """Two steps and a metric per epoch; what the reports said."""
    reports = []
    for epoch in range(first, last):
        reports += [opt.step(grads_of(2 * epoch)), opt.step(grads_of(2 * epoch + 1))]
        plateau.observe(METRICS[epoch])
    return reports


@places
@pytest.mark.parametrize("stop", range(len(METRICS)))
@pytest.mark.parametrize("way", [lambda s: s, through_pickle, copy.deepcopy])
def test_resume(place, stop, way):
    """In a fresh process: with a plateau of one's own, which goes on being the one to show
    metrics to."""
    plateau = plateau_of()
    opt, params = make(place, plateau)
    epochs(opt, plateau, 0, stop)
    saved = way(opt.state_dict())
    mine = plateau_of()
    other, copies = make(place, mine)
    for name, array in copies.items():
        array[...] = params[name]
    other.load_state_dict(saved)
    assert mine.state == plateau.state
    reports = epochs(opt, plateau, stop, len(METRICS))
    assert epochs(other, mine, stop, len(METRICS)) == reports
    assert mine.state == plateau.state
    assert mine.state.lr == 0.0625  # three reductions
    assert everything(other, *copies.values()) == everything(opt, *params.values())


@places
def test_a_snapshot_stays_what_it_was(place):
    plateau = plateau_of()
    opt, _ = make(place, plateau)
    epochs(opt, plateau, 0, 4)
    saved, before = opt.state_dict(), plateau.state
    frozen = pickle.dumps(saved)
    epochs(opt, plateau, 4, 12)
    assert plateau.state.lr < before.lr
    assert pickle.dumps(saved) == frozen
    opt.load_state_dict(saved)  # back, and loading twice from one snapshot is the same
    assert plateau.state == before
    epochs(opt, plateau, 4, 12)
    assert pickle.dumps(saved) == frozen
    opt.load_state_dict(saved)
    assert plateau.state == before


@places
def test_an_optimizer_without_one_gets_its_own(place):
    plateau = plateau_of()
    opt, params = make(place, plateau)
    epochs(opt, plateau, 0, 4)
    saved = opt.state_dict()
    copies = {name: array.copy() for name, array in params.items()}
    fresh = instep.AdamW(copies)
    fresh.load_state_dict(saved)

    def found(value):
        if isinstance(value, ReduceOnPlateau):
            return [value]
        parts = value if isinstance(value, tuple) else vars(value).values()
        return [p for part in parts if isinstance(part, Schedule | tuple) for p in found(part)]

    options = [*fresh.param_groups[0].values(), fresh.clip_norm, fresh.clip_value]
    own = {id(p): p for v in options if isinstance(v, Schedule | tuple) for p in found(v)}
    assert len(own) == 1  # one, wherever it stands
    (mine,) = own.values()
    assert mine is not plateau and mine.state == plateau.state
    assert epochs(fresh, mine, 4, 12) == epochs(opt, plateau, 4, 12)
    assert everything(fresh, *copies.values()) == everything(opt, *params.values())


@places
@pytest.mark.parametrize("way", [copy.deepcopy, through_pickle])
def test_copies_keep_the_link(place, way):
    """Of a trainer that holds both: the copied plateau drives the copied optimizer alone."""
    plateau = plateau_of()
    opt, params = make(place, plateau)
    epochs(opt, plateau, 0, 4)
    mine, other = way((plateau, opt))
    assert mine is not plateau and mine.state == plateau.state
    before = mine.state
    reports = epochs(opt, plateau, 4, 12)
    assert mine.state == before
    assert epochs(other, mine, 4, 12) == reports
    copied = other.param_groups[0]["params"]
    assert everything(other, *copied.values()) == everything(opt, *params.values())


def test_a_shallow_copy_shares_the_plateau():
    plateau = plateau_of()
    opt, _ = make(PLACES["alone"], plateau)
    plateau.observe(1.0)
    other = copy.copy(opt)
    assert other.param_groups[0]["lr"] is plateau and plateau.state.best == 1.0


def test_groups_share_one():
    plateau = plateau_of(patience=0)
    groups = [
        {"params": np.zeros(1), "lr": plateau},
        {"params": np.zeros(1), "lr": Warmup(0.1 * plateau, 1)},
        {"params": np.zeros(1)},
    ]
    opt = instep.SGD(groups, lr=1.0)
    opt.step([np.ones(1)] * 3)
    saved = through_pickle(opt.state_dict())
    plateau.observe(1.0)
    plateau.observe(1.0)
    opt.step([np.ones(1)] * 3)
    assert [group["params"][0] for group in groups] == pytest.approx([-0.75, -0.075, -2.0])
    # A fresh one that has it in the first group alone shares it with the second from then on.
    mine = plateau_of(patience=0)
    fresh = [{"params": np.zeros(1), "lr": lr} for lr in (mine, 0.1, 1.0)]
    other = instep.SGD(fresh)
    other.load_state_dict(saved)
    for _ in range(2):
        mine.observe(1.0)
    other.step([np.ones(1)] * 3)
    assert [group["params"][0] for group in fresh] == pytest.approx([-0.25, -0.025, -1.0])


def test_one_of_two_optimizers():
    """One plateau may drive several; each saves what was observed."""
    plateau = plateau_of(patience=0)
    one, other = (instep.SGD(np.zeros(1), lr=k * plateau) for k in (1, 2))
    plateau.observe(1.0)
    saved = one.state_dict(), other.state_dict()
    plateau.observe(1.0)
    assert one.step(np.ones(1)).lr == 0.25 and other.step(np.ones(1)).lr == 0.5
    one.load_state_dict(saved[0])
    assert plateau.state == (0.5, 1.0, 0, 0)
    other.load_state_dict(saved[1])
    assert plateau.state == (0.5, 1.0, 0, 0)


def test_a_skipped_step_changes_nothing():
    plateau = plateau_of()
    opt = instep.SGD(np.zeros(2), lr=Warmup(plateau, 4), nonfinite="skip")
    plateau.observe(1.0)
    before = plateau.state
    assert opt.step(np.ones(2)).lr == 0.125
    assert not opt.step(np.array([1.0, math.nan])).applied
    assert plateau.state == before and opt.step(np.ones(2)).lr == 0.25


# ---- what does not fit -----------------------------------------------------------------------


def misfit(change):
    """A snapshot with its plateau, changed, and an optimizer whose own has seen something else."""
    plateau = plateau_of()
    opt, _ = make(PLACES["warmed up"], plateau)
    epochs(opt, plateau, 0, 4)
    saved = opt.state_dict()
    change(saved)
    mine = plateau_of()
    other, copies = make(PLACES["warmed up"], mine)
    epochs(other, mine, 0, 1)
    return saved, mine, other, copies


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(version=99),
        lambda s: s.update(steps=-1),
        lambda s: s["param_groups"][0].update(eps=-1.0),
        lambda s: s["param_groups"][0].update(betas=(0.9, 2.0)),
        lambda s: s["options"].update(clip_norm=-1.0),
        lambda s: s["options"].update(nonfinite="ignore"),
        lambda s: s["state"]["b"].update(exp_avg=np.ones(7)),
        lambda s: s["state"].pop("b") and s["param_groups"][0].update(params=["w"]),
        lambda s: s["param_groups"][0].update(lr=0.1),
        lambda s: s["param_groups"][0].update(lr=plateau_of()),
        lambda s: s["param_groups"][0].update(lr=Warmup(plateau_of(patience=7), 2)),
    ],
)
def test_a_failed_load_changes_nothing(change):
    saved, mine, other, copies = misfit(change)
    before = mine.state, everything(other, *copies.values()), dict(other.param_groups[0])
    with pytest.raises((TypeError, ValueError)):
        other.load_state_dict(saved)
    assert (mine.state, everything(other, *copies.values()), dict(other.param_groups[0])) == before
    assert other.param_groups[0]["lr"].after is mine


@pytest.mark.parametrize(
    "lr", [0.1, Warmup(plateau_of(patience=7), 2), 2 * plateau_of(), Warmup(Constant(0.1), 2)]
)
def test_a_plateau_that_would_be_shown_metrics_in_vain(lr):
    """It is named, and the ways out that the message tells do work."""
    saved, mine, other, _ = misfit(lambda s: s["param_groups"][0].update(lr=lr))
    with pytest.raises(ValueError, match=r"^the schedule of 'lr' has ReduceOnPlateau\(lr=0.5, .*"):
        other.load_state_dict(saved)
    other.param_groups[0]["lr"] = 0.0
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == lr and mine.state.best == 1.0


def test_another_wrapping_of_the_same_plateau():
    """What is around it comes from the snapshot, as all hyperparameters do."""
    saved, mine, other, _ = misfit(
        lambda s: s["param_groups"][0].update(lr=Warmup(plateau_of(), 9))
    )
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == Warmup(plateau_of(), 9)
    assert other.param_groups[0]["lr"].after is mine and mine.state == (0.5, None, 0, 0)


def test_two_states_for_one():
    """Two plateaus were saved where the optimizer has one for both."""
    two = [plateau_of(), plateau_of()]
    opt = instep.SGD([{"params": np.zeros(1), "lr": p} for p in two])
    mine = plateau_of()
    other = instep.SGD([{"params": np.zeros(1), "lr": mine} for _ in two])
    other.load_state_dict(opt.state_dict())  # equal states: nothing is lost
    two[1].observe(1.0)
    before = mine.state
    with pytest.raises(ValueError, match=r"shares a ReduceOnPlateau that the state_dict has twice"):
        other.load_state_dict(opt.state_dict())
    assert mine.state == before
    # The other way round one of the two would be left out.
    one = plateau_of()
    opt = instep.SGD([{"params": np.zeros(1), "lr": one} for _ in two])
    other = instep.SGD([{"params": np.zeros(1), "lr": p} for p in two])
    with pytest.raises(ValueError, match="of its own where the saved optimizer shared one"):
        other.load_state_dict(opt.state_dict())
    assert two[1].state == PlateauState(0.5, 1.0, 0, 0)


def test_through_json_as_a_user_would():
    plateau = plateau_of()
    opt, _ = make(PLACES["twice"], plateau)
    epochs(opt, plateau, 0, 5)
    to_json = {np.ndarray: np.ndarray.tolist, **{c: c.to_dict for c in Schedule._known.values()}}
    text = json.dumps(opt.state_dict(), default=lambda value: to_json[type(value)](value))
    saved = json.loads(text)
    for group in saved["param_groups"]:
        for name, value in group.items():
            group[name] = Schedule.from_dict(value) if isinstance(value, dict) else value
    for entry in saved["state"].values():
        entry.update({k: np.array(v) for k, v in entry.items() if k != "step"})
    mine = plateau_of()
    other, _ = make(PLACES["twice"], mine)
    other.load_state_dict(saved)
    assert mine.state == plateau.state
    assert everything(other)[2] == everything(opt)[2]
    mine.observe(0.0)
    assert other.param_groups[0]["lr"](0) == mine.state.lr
