"""Saving and loading an optimizer by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instep import _check
from instep._check import Array
from instep.optim import averages, storage
from instep.optim.groups import Checked
from instep.optim.leaves import RULES, Cohort, Leaf, given
from instep.optim.memory import Loading
from instep.optim.precision import publish

if TYPE_CHECKING:
    from instep.optim.base import Optimizer
    from instep.optim.plateaus import Memo, Options, Restoration

VERSION = 1
_MOST_STEPS = 2**62  # far below where the core's int64 ends
# First snapshots had none of these.
_LATER_OPTIONS = ("ema_decay", "ema_warmup", "zero_grads", "seed")
_OPTIONS = ("clip_norm", "clip_value", "nonfinite", *_LATER_OPTIONS)
_KEYS = ("version", "optimizer", "steps", "state", "param_groups", "options")


class LoadReport(NamedTuple):
    """What `load_state_dict` did not find (`missing`) or could not use (`unexpected`)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def save(opt: Optimizer, copies: bool = True) -> dict[str, Any]:
    """The state_dict. Without copies, its arrays are the ones that steps go on updating."""
    from instep.optim.plateaus import copied  # with it come the schedules, a third of an import

    with opt._steady.lock:
        for group in opt._groups:
            if group.options.changed:
                group.check(group.options)  # what is saved can be loaded
        memo: Memo = {}
        leaves = averages.now(opt._leaves)
        walks = {leaf.name: storage.walk(leaf) for leaf in opt._leaves.all}
        return {
            "version": VERSION,
            "optimizer": type(opt).__name__,
            "steps": opt.steps,
            "options": {name: copied(getattr(opt, name), memo) for name in _OPTIONS},
            "param_groups": [
                {name: copied(_fixed(group.options[name]), memo) for name in opt._checks}
                | {"params": [opt._leaves.all[i].name for i in group.leaves]}
                for group in opt._groups
            ],
            "state": {
                name: {
                    key: _saved(value, copies) if isinstance(value, np.ndarray) else value
                    for key, value in entry.items()
                }
                | walks[name]
                for name, entry in opt.state.items()
            },
            "master": {
                leaf.name: _saved(parameter, copies)
                for leaf, parameter, _ in leaves
                if leaf.has_master
            },
            "ema": {
                leaf.name: _saved(average, copies)
                for leaf, _, average in leaves
                if average is not None
            },
        }


def _saved(array: Array, copies: bool) -> Array:
    return np.array(array, order="K") if copies else array  # the copy of a memmap is an array


@contextmanager
def held(opt: Optimizer) -> Iterator[dict[str, Any]]:
    """The state_dict without copies, while no other thread can take a step."""
    with opt._steady.lock:
        yield save(opt, copies=False)


def _fixed(value: Any) -> Any:
    """Betas given as a list, which the user may change later, are saved as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def load(
    opt: Optimizer, state: Mapping[str, Any], strict: bool, publishing: bool = True
) -> LoadReport:
    """Check everything, then replace: a failed load changes nothing.

    `publishing`: write masters to the user's arrays too."""
    with opt._changing("load_state_dict()"):
        steps = _check_header(opt, state)
        restoration = _restoration(opt, state["param_groups"], state["options"])
        groups = _checked_groups(opt, restoration.options[:-1])
        options = _checked_options(opt, restoration.options[-1])
        averaged = options["ema_decay"] is not None
        saved_masters, saved_averages = state.get("master", {}), state.get("ema", {})
        report = _names(opt, state, saved_masters, saved_averages, averaged)
        if strict and (report.missing or report.unexpected):
            raise ValueError(
                f"the state does not fit the parameters: missing {list(report.missing)}, "
                f"unexpected {list(report.unexpected)}; strict=False loads what matches"
            )
        present = opt._leaves.steps()
        entries: dict[int, tuple[int, dict[str, Array]]] = {}
        loading = Loading(opt._leaves.factory)
        for i, leaf in enumerate(opt._leaves.all):
            if leaf.name in state["state"]:
                entries[i] = _checked_entry(opt, leaf, state["state"][leaf.name], loading)
            elif leaf.name in report.missing:
                entries[i] = present[i], leaf.state
        masters = _load_masters(opt, saved_masters, loading)
        kept: list[Array] | None = None
        anew: list[tuple[Array, Leaf]] = []
        if averaged:
            kept, anew = _load_averages(opt, saved_averages, report.missing, loading)
        cohorts = _cohorts(opt, entries)
        loading.check(opt._leaves.written())

        loading.write()
        for leaf in masters if publishing else ():
            publish(leaf)
        for average, leaf in anew:
            average[...] = leaf.parameter
        opt._leaves.set_averages(kept)
        restoration.apply()
        for group, (values, checked) in zip(opt._groups, groups, strict=True):
            group.replace(values, checked)
        opt.ema_warmup = False  # which goes with any ema_decay
        for name, value in options.items():
            setattr(opt, name, value)
        for i, leaf in enumerate(opt._leaves.all):
            leaf.state = entries[i][1] if i in entries else {}
        opt._leaves.replace_cohorts(cohorts)
        opt._steady.close()
        opt._steady.steps = steps
        return report


def _check_header(opt: Optimizer, state: Mapping[str, Any]) -> int:
    """The number of steps."""
    if not isinstance(state, Mapping):
        raise TypeError(f"a state_dict is a dict, got {type(state).__name__}")
    absent = [key for key in _KEYS if key not in state]
    if absent:
        raise ValueError(f"not a state_dict of instep: it has no {absent}")
    if state["version"] != VERSION:
        raise ValueError(
            f"the state_dict has version {state['version']!r}, this instep reads {VERSION}"
        )
    if state["optimizer"] != type(opt).__name__:
        raise ValueError(
            f"the state_dict is of {state['optimizer']}, the optimizer is {type(opt).__name__}"
        )
    for key in ("state", "master", "ema"):
        if not isinstance(state.get(key, {}), Mapping):
            raise TypeError(f"{key!r} must be a dict, got {type(state[key]).__name__}")
    return _count("steps", state["steps"])


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
    if value > _MOST_STEPS:
        raise ValueError(f"{name} must be at most 2**62, got {value!r}")
    return int(value)


def _restoration(opt: Optimizer, groups: Any, options: Any) -> Restoration:
    """The saved options of all groups and of the optimizer, if they are the ones it has."""
    from instep.optim.plateaus import Restoration

    if not isinstance(groups, list | tuple) or len(groups) != len(opt._groups):
        found = len(groups) if isinstance(groups, list | tuple) else type(groups).__name__
        raise ValueError(f"the state_dict has {found} groups, the optimizer {len(opt._groups)}")
    for group in groups:
        wanted = set(opt._checks)
        if not isinstance(group, Mapping) or set(group) - {"params"} != wanted:
            raise ValueError(f"a group of the state_dict needs {sorted(wanted)}, got {group!r}")
    if not isinstance(options, Mapping) or {*options, *_LATER_OPTIONS} != {*_OPTIONS}:
        raise ValueError(f"'options' of the state_dict needs {list(_OPTIONS)}, got {options!r}")
    options = {name: getattr(opt, name) for name in _LATER_OPTIONS} | dict(options)
    present: list[Options] = [
        {name: group.options.get(name) for name in opt._checks} for group in opt._groups
    ]
    saved: list[Options] = [{name: group[name] for name in opt._checks} for group in groups]
    present.append({name: getattr(opt, name) for name in _OPTIONS})
    return Restoration(present, [*saved, options])


def _checked_groups(opt: Optimizer, saved: list[Options]) -> list[tuple[dict[str, Any], Checked]]:
    """Each group's options as they will be, and what follows from them."""
    groups = []
    for group, options in zip(opt._groups, saved, strict=True):
        merged = {**group.options, **options}
        groups.append((merged, group.check(merged)))
    return groups


def _checked_options(opt: Optimizer, saved: Options) -> dict[str, Any]:
    options = {name: getattr(type(opt), name).checked(saved[name]) for name in _OPTIONS}
    averages.check_warmup(options["ema_warmup"], options["ema_decay"])
    return options


def _names(
    opt: Optimizer,
    state: Mapping[str, Any],
    masters: Mapping[str, Any],
    averages: Mapping[str, Any],
    averaged: bool,
) -> LoadReport:
    """Parameters that the saved optimizer did not have, and the other way round; masters too, and
    averages, of which there will be some if `averaged`."""
    saved = {name for group in state["param_groups"] for name in group.get("params", ())}
    saved |= set(state["state"]) | set(masters) | set(averages)
    present = {leaf.name: leaf.has_master for leaf in opt._leaves.all}
    missing = [name for name in present if name not in saved]
    missing += [
        f"{name}.master"
        for name, has_master in present.items()
        if has_master and name in saved and name not in masters
    ]
    lacking = [name for name in present if name in saved and name not in averages]
    missing += [f"{name}.ema" for name in lacking if averaged]
    unexpected = sorted(name for name in saved if name not in present)
    unexpected += sorted(f"{name}.master" for name in masters if not present.get(name, True))
    unexpected += sorted(f"{name}.ema" for name in averages if name in present and not averaged)
    return LoadReport(tuple(missing), tuple(unexpected))


def _load_masters(opt: Optimizer, saved: Mapping[str, Any], loading: Loading) -> list[Leaf]:
    """Plan to write the masters that there are on both sides; returns their leaves."""
    leaves = [leaf for leaf in opt._leaves.all if leaf.has_master and leaf.name in saved]
    for leaf in leaves:
        if not leaf.given.flags.writeable:
            raise _check.read_only(leaf.path, leaf.given)
        values = _checked_array(f"master[{leaf.name!r}]", saved[leaf.name], leaf.given.shape)
        loading.into(f"the master of {leaf.path}", leaf.parameter, values)
    return leaves


def _load_averages(
    opt: Optimizer, saved: Mapping[str, Any], missing: tuple[str, ...], loading: Loading
) -> tuple[list[Array], list[tuple[Array, Leaf]]]:
    """All averages as they will be, and those that will start anew; plan to write the others.

    As with states, what the snapshot does not know is kept."""
    kept, anew = [], []
    for leaf in opt._leaves.all:
        present, name = leaf.average, f"ema[{leaf.name!r}]"
        # "W.ema" among the missing may be the average of "W", beside a parameter of that name.
        if present is not None and leaf.name in missing and leaf.name not in saved:
            kept.append(present)
            continue
        there = present is not None and loading.factory is not None
        average = present if there and present is not None else leaf.new_average(loading)
        kept.append(average)
        values = leaf.parameter
        if leaf.name in saved:
            values = _checked_array(name, saved[leaf.name], leaf.parameter.shape)
        else:
            anew.append((average, leaf))  # after the master, which may be loaded too
        if there:
            loading.into(f"{name} of the optimizer", average, values)
        else:
            loading.into_new(average, values)
    return kept, anew


def _checked_array(where: str, value: Any, shape: tuple[int, ...]) -> Array:
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise TypeError(f"{where} must be floating-point, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{where} has shape {array.shape}, the parameter {shape}")
    return array


def _checked_entry(
    opt: Optimizer, leaf: Leaf, entry: Any, loading: Loading
) -> tuple[int, dict[str, Any]]:
    """(steps, states) of one leaf: arrays in the layout that the core wants, not yet written."""
    where = f"state[{leaf.name!r}]"
    if not isinstance(entry, Mapping) or "step" not in entry:
        raise ValueError(f"{where} must be a dict with 'step' and arrays, got {entry!r:.80}")
    complete = [set(RULES[rule][1]) for rule in RULES if given(rule) == opt.coefficients]
    known = set().union(*complete)
    names = storage.states_in(where, entry, known)
    states: dict[str, Array] = {}
    for stream, name in enumerate(names, 1):
        values = storage.loaded(where, entry, leaf, name, opt.state_dtype)
        if loading.factory is not None and name in leaf.state:
            for part, array in values.items():
                states[part] = leaf.state[part]
                loading.into(f"{where}[{part!r}] of the optimizer", states[part], array)
        else:
            made = storage.new_state(leaf, name, stream, loading, opt.state_dtype)
            for part, array in values.items():
                loading.into_new(made[part], array)
            states |= made
    steps = _count(f"{where}['step']", entry["step"])
    if set(names) not in complete and (names or steps):
        raise ValueError(f"{where} has the states {sorted(names)} alone; known: {sorted(known)}")
    return steps, states


def _cohorts(opt: Optimizer, entries: Mapping[int, tuple[int, Any]]) -> list[Cohort]:
    """Leaves of one group, step count and set of states belong together."""
    merged: dict[Any, Cohort] = {}
    for k, group in enumerate(opt._groups):
        for i in group.leaves:
            steps, states = entries.get(i, (0, {}))
            key = k, steps, tuple(sorted(states))
            cohort = merged.setdefault(key, Cohort(group, [], steps, fresh=steps == 0))
            cohort.leaves.append(i)
    return list(merged.values())
