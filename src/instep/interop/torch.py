"""PyTorch's optimizer states <-> instep's: a run that began in one goes on in the other.

`to_torch` and `from_torch` map the state_dicts of SGD, RMSprop, Adam and AdamW. PyTorch keys by
index, instep by name; names of hyperparameters and states are the same. PyTorch is never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from instep._check import Array
from instep.interop import _torch_values as values
from instep.optim.base import Optimizer

__all__ = ["from_torch", "to_torch"]


def to_torch(
    state: Mapping[str, Any] | Optimizer,
    *,
    names: Sequence[str] | None = None,
    as_tensor: Callable[[Array], Any] | None = None,
) -> dict[str, Any]:
    """The state_dict of the PyTorch optimizer of the same name.

    Hyperparameters keep their names and values; the n-th parameter becomes number n. What PyTorch's
    optimizers do not have stays behind: clipping, the policy for what is not finite, averages and
    float32 masters of parameters. The parameters themselves are in neither state_dict.

    Parameters
    ----------
    state : dict or optimizer
        As ``opt.state_dict()`` returns it, or the optimizer itself: `SGD`, `RMSprop`, `Adam` or
        `AdamW`. A schedule becomes a number, its value at the next step, ``state["steps"]``; a
        scheduler of PyTorch may change it from there.
    names : sequence of str, optional
        The names of all parameters in the order in which PyTorch's optimizer has them, group by
        group. Default: instep's order.
    as_tensor : callable, optional
        Makes a tensor of each array: ``torch.from_numpy``. PyTorch's ``load_state_dict`` accepts
        nothing but tensors. Default: NumPy arrays.

    Returns
    -------
    dict
        ``{"state": {0: {...}}, "param_groups": [{..., "params": [0, 1]}]}``, with new arrays in C
        order: float64 states as float64, all others as float32, "step" as a 0-d float32 array
        (float64 beyond 2**24). Parameters without a gradient yet have no entry, as in PyTorch.
        ``fused``, ``foreach`` and the like have PyTorch's defaults; set them before loading.

    Raises
    ------
    TypeError, ValueError
        Not a state_dict of instep, another optimizer, states in 8 bits, names that do not fit.

    Examples
    --------
    >>> import numpy as np, instep
    >>> w = np.array([1.0, -2.0], dtype=np.float32)
    >>> opt = instep.SGD({"w": w}, lr=0.1, momentum=0.9)
    >>> _ = opt.step({"w": 2 * w})
    >>> there = instep.interop.torch.to_torch(opt)
    >>> there["state"]
    {0: {'momentum_buffer': array([ 2., -4.], dtype=float32)}}
    >>> there["param_groups"][0]["lr"], there["param_groups"][0]["params"]
    (0.1, [0])
    """
    saved = _instep_state(state)
    kind = saved["optimizer"]
    order = _in_order(names, [group["params"] for group in saved["param_groups"]])
    groups: list[dict[str, Any]] = []
    entries: dict[int, dict[str, Any]] = {}
    first = 0
    for k, (group, members) in enumerate(zip(saved["param_groups"], order, strict=True)):
        numbers = values.numbers(kind, group, f"param_groups[{k}]", saved["steps"])
        ids = list(range(first, first + len(members)))
        groups.append({**numbers, **values.FLAGS[kind], "params": ids})
        first += len(members)
        for index, name in zip(ids, members, strict=True):
            here = saved["state"].get(name, {})
            entry = values.entry_for_torch(kind, f"state[{name!r}]", here, numbers)
            if entry:
                wrap = as_tensor or _as_it_is
                entries[index] = {key: wrap(array) for key, array in entry.items()}
    return {"state": entries, "param_groups": groups}


def from_torch(
    state: Any,
    like: Optimizer | type[Optimizer] | Mapping[str, Any] | None = None,
    *,
    names: Sequence[str] | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """A state_dict for instep's `load_state_dict`, from one of PyTorch's SGD, RMSprop, Adam, AdamW.

    Hyperparameters are PyTorch's, also where `like` has a schedule: set it anew after loading, with
    ``opt.param_groups[0]["lr"] = schedule``. All else (clipping, averages and the like) is that of
    `like`.

    Parameters
    ----------
    state : dict or torch.optim.Optimizer
        As PyTorch's ``state_dict()`` returns it, or the optimizer itself, with tensors (of any
        device) or arrays in it.
    like : optimizer, its state_dict, or its class, optional
        What the result is for. An optimizer or its state_dict says the names too; else they are
        those that a list of arrays gets: "0", "1" (several groups: "0.0", "1.0"). The class may
        be left out where the hyperparameters tell it: not for Adam and AdamW of PyTorch versions
        whose groups lack "decoupled_weight_decay".
    names : sequence of str, optional
        The names of all parameters in the order in which PyTorch's optimizer has them, group by
        group. Default: those of `like`, in its order.
    steps : int, optional
        Steps taken so far, by which schedules go. Default: the largest "step" of a parameter; SGD
        keeps none in PyTorch, and then it is 1 if there is a momentum buffer, else 0.

    Returns
    -------
    dict
        As instep's ``state_dict()`` returns it, with new arrays: float64 states as float64, all
        others as float32.

    Raises
    ------
    TypeError, ValueError
        Not a state_dict of PyTorch, another optimizer than `like`, one that cannot be told, groups
        or names that do not fit, unknown hyperparameters or states. Whether shapes fit is checked
        by `load_state_dict`.

    Examples
    --------
    >>> import numpy as np, instep
    >>> group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False}
    >>> there = {
    ...     "state": {0: {"momentum_buffer": np.float32([2.0, -4.0])}},
    ...     "param_groups": [{**group, "maximize": False, "params": [0]}],
    ... }
    >>> w = np.array([0.8, -1.6], dtype=np.float32)
    >>> opt = instep.SGD({"w": w})
    >>> opt.load_state_dict(instep.interop.torch.from_torch(there, opt))
    LoadReport(missing=(), unexpected=())
    >>> opt.param_groups[0]["momentum"], opt.state["w"]["momentum_buffer"]
    (0.9, array([ 2., -4.], dtype=float32))
    """
    theirs = _torch_state(state)
    groups, entries = theirs["param_groups"], theirs["state"]
    template = _template(like, _told(groups), [len(group["params"]) for group in groups], names)
    kind, present = template["optimizer"], template["param_groups"]
    order = _in_order(names, [group["params"] for group in present])
    if steps is not None:
        steps = values.count("steps", steps)

    ours: dict[str, dict[str, Any]] = {}
    numbers = []
    for k, (group, members) in enumerate(zip(groups, order, strict=True)):
        hyper = values.hyperparameters(kind, group, k)
        numbers.append(values.numbers(kind, hyper, f"param_groups[{k}]", 0))
        for index, name in zip(group["params"], members, strict=True):
            there = entries.get(index, {})
            entry = values.entry_for_instep(kind, f"state[{index!r}]", there, steps)
            if entry:
                ours[name] = entry
    counted = max((entry["step"] for entry in ours.values()), default=0)
    if steps is not None and steps < counted:
        raise ValueError(
            f"steps is {steps}, but a parameter has taken {counted}; give at least that, or nothing"
        )
    return {
        **template,
        "steps": counted if steps is None else steps,
        "state": ours,
        "param_groups": [{**old, **new} for old, new in zip(present, numbers, strict=True)],
    }


# ---- what comes in -----------------------------------------------------------------------------


def _snapshot(state: Any, whose: str, keys: Sequence[str]) -> Mapping[str, Any]:
    """The state_dict, also where the optimizer itself was given."""
    if not isinstance(state, Mapping) and callable(getattr(state, "state_dict", None)):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise TypeError(
            f"a state_dict of {whose} is a dict, got {type(state).__name__}; pass opt.state_dict()"
        )
    absent = [key for key in keys if key not in state]
    if absent:
        raise ValueError(f"not a state_dict of {whose}: it has no {absent}")
    entries, groups = state["state"], state["param_groups"]
    if not isinstance(entries, Mapping) or not all(
        isinstance(entry, Mapping) for entry in entries.values()
    ):
        raise TypeError("'state' must be a dict with a dict for each parameter")
    if not isinstance(groups, list | tuple) or not all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list | tuple)
        for group in groups
    ):
        raise TypeError("'param_groups' must be a list of dicts, each with a list 'params'")
    members: list[Hashable] = [member for group in groups for member in group["params"]]
    distinct = set(members)
    if len(distinct) < len(members):
        raise ValueError(f"a parameter stands in 'param_groups' twice: {members!r:.200}")
    strangers = [key for key in entries if key not in distinct]
    if strangers:
        raise ValueError(f"'state' has {strangers!r:.200}, which are in no group's 'params'")
    return state


def _instep_state(state: Any) -> Mapping[str, Any]:
    keys = ("version", "optimizer", "steps", "state", "param_groups", "options")
    saved = _snapshot(state, "instep", keys)
    if saved["optimizer"] not in values.CLASSES:
        raise ValueError(
            f"the state is of {saved['optimizer']!r}, which PyTorch has not; known: {values.KNOWN}"
        )
    return saved


def _torch_state(state: Any) -> Mapping[str, Any]:
    if isinstance(state, Mapping) and "optimizer" in state and "version" in state:
        raise ValueError("this is a state_dict of instep already; load it as it is")
    theirs = _snapshot(state, "PyTorch", ("state", "param_groups"))
    if not theirs["param_groups"]:
        raise ValueError("'param_groups' is empty: the optimizer had no parameters")
    return theirs


def _told(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """The classes that it may be of, by the hyperparameters."""
    found = []
    for k, group in enumerate(groups):
        if {"nesterov", "dampening"} <= group.keys():
            found.append(["SGD"])
        elif {"alpha", "centered"} <= group.keys():
            found.append(["RMSprop"])
        elif {"betas", "amsgrad"} <= group.keys():
            decoupled = group.get("decoupled_weight_decay")
            both = decoupled is None
            found.append(["Adam", "AdamW"] if both else ["AdamW" if decoupled else "Adam"])
        else:
            raise ValueError(
                f"param_groups[{k}] is of none of PyTorch's {values.KNOWN}: it has {sorted(group)}"
            )
        if found[k] != found[0]:
            raise ValueError(
                f"the groups are of different optimizers, {found[0]} and {found[k]}; make a "
                "state_dict of each"
            )
    return found[0]


def _template(
    like: Any, told: list[str], sizes: list[int], names: Sequence[str] | None
) -> Mapping[str, Any]:
    """The state_dict into which PyTorch's numbers go."""
    if like is None and len(told) > 1:
        raise ValueError(
            "the state is of Adam or of AdamW: its groups lack 'decoupled_weight_decay', which "
            "would tell; pass the optimizer it is for, or like=instep.Adam or like=instep.AdamW"
        )
    template: Mapping[str, Any]
    if like is None or isinstance(like, type):
        template = _of_class(like or values.CLASSES[told[0]], sizes, names)
    else:
        template = _instep_state(like)
    if template["optimizer"] not in told:
        raise ValueError(
            f"the state is of {' or '.join(told)}, `like` of {template['optimizer']}; use the same"
        )
    present = [len(group["params"]) for group in template["param_groups"]]
    if sizes != present:
        raise ValueError(
            f"PyTorch's groups have {sizes} parameters, those of `like` {present}; make groups of "
            "the same parameters"
        )
    return template


def _of_class(cls: type, sizes: list[int], names: Sequence[str] | None) -> dict[str, Any]:
    """The state_dict of a new optimizer over lists of arrays, or over parameters of these names."""
    if cls not in values.CLASSES.values():
        raise ValueError(
            f"`like` is {cls.__module__}.{cls.__qualname__}; use instep's {values.KNOWN}"
        )
    groups: list[Any] = [{"params": [np.zeros(1) for _ in range(size)]} for size in sizes]
    template: dict[str, Any] = cls(groups if len(groups) > 1 else groups[0]["params"]).state_dict()
    if names is not None:
        rest = _checked_names(names, sum(sizes))
        for group, size in zip(template["param_groups"], sizes, strict=True):
            group["params"], rest = rest[:size], rest[size:]
    return template


def _in_order(names: Sequence[str] | None, groups: list[list[str]]) -> list[list[str]]:
    """The names of each group in the order of `names`."""
    if names is None:
        return groups
    rest, ordered = _checked_names(names, sum(map(len, groups))), []
    for k, members in enumerate(groups):
        part, rest = rest[: len(members)], rest[len(members) :]
        if set(part) != set(members):
            raise ValueError(
                f"names gives {part} for group {k}, whose parameters are {list(members)}; list "
                "each once, in PyTorch's order"
            )
        ordered.append(part)
    return ordered


def _checked_names(names: Sequence[str], total: int) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a list of strings, got {names!r:.80}")
    if len(set(names)) != len(names) or len(names) != total:
        raise ValueError(
            f"names must be {total} different ones, one a parameter, got {names!r:.80}"
        )
    return list(names)


def _as_it_is(array: Array) -> Array:
    return array
