"""The optimizer: groups, gradients, the step, the state. No math of a rule; see csrc/rules."""

import math
import os
import threading
import weakref
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import numpy as np

from instep import _check, _core, config
from instep._check import Array
from instep.optim.groups import Check, Cohort, Group, Leaf, Values, walk_order
from instep.optim.norm import count_nonfinite, gradient_norm
from instep.optim.state_dict import LoadReport, load, save
from instep.tree import Structure

_RULES = _core.rules()
_NOT_GIVEN: Any = object()
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_POLICIES = ("propagate", "skip", "raise")
_living: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()


def _unlock_in_child() -> None:
    """A thread that held a lock when the process forked does not exist in the child."""
    for optimizer in _living:
        optimizer._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


class StepReport(NamedTuple):
    """What one step did.

    Attributes
    ----------
    step : int
        Steps applied so far, this one included.
    lr : float
        Learning rate of the first group in this step.
    applied : bool
        False if the step was skipped: nothing was written and no schedule advanced.
    grad_norm : float or None
        Global L2 norm of the gradients after unscaling, before clipping, summed in float64; None
        where neither `clip_norm` nor `nonfinite` asked for it.
    nonfinite : int or None
        How many gradient elements were NaN or infinite; None where not looked at.
    """

    step: int
    lr: float
    applied: bool
    grad_norm: float | None
    nonfinite: int | None


class Optimizer:
    """What all optimizers share. Use a subclass: `SGD`, `RMSprop`, `Adam`, `AdamW`."""

    # Hyperparameters of a group: name -> check. `maximize` is added to all.
    hyperparameters: ClassVar[Mapping[str, Check]] = {}

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        maximize: bool,
        clip_norm: Any,
        clip_value: Any,
        nonfinite: str,
        threads: int | None,
    ) -> None:
        self._lock = threading.RLock()
        self._checks = {**self.hyperparameters, "maximize": _check.flag}
        self.defaults = {**defaults, "maximize": maximize}
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.nonfinite = nonfinite
        self.threads = threads
        self.steps: int = 0
        """Steps applied so far."""
        self._groups: list[Group] = []
        self._leaves: list[Leaf] = []
        self._cohorts: list[Cohort] = []
        self._buffers: list[Array] | None = None
        self._listed = _is_group_list(params)
        for group in params if self._listed else [{"params": params}]:
            self._append_group(group)
        self._make_plan()
        _living.add(self)

    # ---- options ---------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("clip_norm", "clip_value"):
            check = _check.non_negative if name == "clip_norm" else _check.positive
            value = value if value is None or callable(value) else check(name, value)
        elif name == "nonfinite":
            value = _check.choice(name, value, _POLICIES)
        elif name == "threads":
            value = _check.thread_count(value)
        super().__setattr__(name, value)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """One dict per group: "params" and the hyperparameters, which may be changed there."""
        return [group.options for group in self._groups]

    # ---- groups and leaves -----------------------------------------------------------------

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add parameters with hyperparameters of their own.

        Parameters
        ----------
        group : dict
            "params" (a tree of arrays) and any hyperparameter that differs from the
            constructor's. Gradients then come as a list with one tree per group.
        """
        with self._lock:
            before = len(self._groups), len(self._leaves)
            try:
                self._append_group(group)
                self._make_plan()
            except BaseException:
                del self._groups[before[0] :], self._leaves[before[1] :]
                self._cohorts = [c for c in self._cohorts if c.group in self._groups]
                raise
            self._listed = True
            self._buffers = None

    def _append_group(self, group: Any) -> None:
        index = len(self._groups)
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(f"params[{index}] must be a dict with the key 'params', got {group!r}")
        known = ", ".join(self._checks)
        for name in group:
            if name != "params" and name not in self._checks:
                raise TypeError(f"params[{index}] has no hyperparameter {name!r}; known: {known}")
        prefix, root = (str(index), f"params[{index}]['params']")
        if index == 0 and not self._listed:
            prefix, root = "", "params"
        structure = Structure(group["params"])
        if structure.size == 0:
            raise ValueError(f"{root} holds no array; pass at least one parameter")
        start = len(self._leaves)
        paths = structure.paths(root)
        for name, path, leaf in zip(
            structure.names(prefix),
            paths,
            structure.flatten(group["params"], root),
            strict=True,
        ):
            array = _check.parameter(path, leaf)
            self._leaves.append(Leaf(name or "param", path, array, walk_order(array)))
        leaves = range(start, len(self._leaves))
        self._groups.append(
            Group({**self.defaults, **group}, structure, leaves, self._checks, self._validate)
        )
        self._cohorts.append(Cohort(self._groups[-1], 0, "", True, list(leaves)))

    def _make_plan(self) -> None:
        """Tell the core about all leaves. States are told when their first gradient comes."""
        names = [leaf.name for leaf in self._leaves]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"two parameters are called {twice!r}; rename a key, since the state is saved by "
                "name"
            )
        arrays = [leaf.parameter for leaf in self._leaves]
        _check.disjoint(arrays, [leaf.path for leaf in self._leaves])
        self._plan = _core.Plan(arrays)
        for cohort in self._cohorts:
            cohort.rule = ""
        self._set_rows()

    def _set_rows(self) -> None:
        rows = [0] * len(self._leaves)
        for row, cohort in enumerate(self._cohorts):
            for leaf in cohort.leaves:
                rows[leaf] = row
        self._plan.set_rows(rows, len(self._cohorts))

    # ---- what a subclass defines -----------------------------------------------------------

    @staticmethod
    def _validate(values: Values, scheduled: frozenset[str]) -> str:
        """Check combinations of constants; return the name of the update rule."""
        raise NotImplementedError

    @staticmethod
    def _coefficients(values: Values, step: int, fresh: bool) -> dict[str, float]:
        """The rule's coefficients at a leaf's 1-based step, by the names of kernels.def."""
        raise NotImplementedError

    # ---- gradients -------------------------------------------------------------------------

    @property
    def grads(self) -> Any:
        """Gradient buffers nested like the parameters, zero at first.

        Made on first use; backward code may write into them (``out=``), and `step` without
        arguments then uses them.
        """
        with self._lock:
            if self._buffers is None:
                self._buffers = [leaf.new_state() for leaf in self._leaves]
            trees = [
                group.structure.build([self._buffers[i] for i in group.leaves])
                for group in self._groups
            ]
            return trees if self._listed else trees[0]

    def _flatten(self, grads: Any) -> list[Any]:
        if grads is _NOT_GIVEN:
            if self._buffers is None:
                raise ValueError(
                    "step() without gradients needs opt.grads to have been used; pass the "
                    "gradients, or write them into opt.grads first"
                )
            return self._buffers
        if grads is None:
            raise TypeError("grads is None; pass gradients nested like the parameters")
        if not self._listed:
            return self._groups[0].structure.flatten(grads, "grads")
        if not isinstance(grads, list | tuple):
            raise TypeError(f"grads must be a list with one tree per group, got {type(grads)}")
        if len(grads) != len(self._groups):
            raise ValueError(
                f"grads has {len(grads)} trees for {len(self._groups)} groups; give one per group"
            )
        flat: list[Any] = []
        for k, (group, tree) in enumerate(zip(self._groups, grads, strict=True)):
            flat += group.structure.flatten(tree, f"grads[{k}]")
        return flat

    def _grad_path(self, leaf: int) -> str:
        path = self._leaves[leaf].path.removeprefix("params")
        return "grads" + path.replace("['params']", "", 1) if self._listed else "grads" + path

    def _bind(self, gradients: list[Any]) -> list[Any]:
        """Hand the gradients to the core; convert or refuse those it does not take as they are."""
        leaf = self._plan.bind(gradients, 0, -1)
        if leaf < 0:
            return gradients
        gradients = list(gradients)
        while leaf >= 0:
            path, owner = self._grad_path(leaf), self._leaves[leaf]
            trusted = -1
            if self._plan.reason == _core.WRONG_SHAPE:
                raise _check.gradient_shape(path, gradients[leaf], owner.parameter.shape)
            if self._plan.reason == _core.MAY_OVERLAP:
                _check.gradient_overlap(path, gradients[leaf], list(self._written()))
                trusted = leaf
            else:
                gradients[leaf] = _check.gradient(path, gradients[leaf])
            leaf = self._plan.bind(gradients, leaf, trusted)
        return gradients

    def _written(self) -> Any:
        for leaf in self._leaves:
            yield leaf.path, leaf.parameter
            for name, array in leaf.state.items():
                yield f"state[{leaf.name!r}][{name!r}]", array

    # ---- the step --------------------------------------------------------------------------

    def step(self, grads: Any = _NOT_GIVEN, *, grad_scale: float = 1.0) -> StepReport:
        """Update the parameters in place.

        All checks come first: a step happens whole or not at all.

        Parameters
        ----------
        grads : tree of arrays, optional
            Nested like the parameters (with several groups: a list of such trees). Any float
            dtype, any strides, read-only and broadcast arrays too; never converted in place.
            None stands for a parameter without gradient, which then takes no part. Without
            `grads`, the buffers of `opt.grads` are used.
        grad_scale : float, default 1.0
            What the gradients were multiplied by (loss scaling, number of accumulated batches);
            they are divided by it.

        Returns
        -------
        StepReport

        Raises
        ------
        TypeError, ValueError
            A gradient that does not fit, a bad hyperparameter. Nothing has been written.
        FloatingPointError
            A gradient is NaN or infinite and ``nonfinite="raise"``. Nothing has been written.
        """
        with self._lock:
            step = self.steps
            values = [group.at(step) for group in self._groups]
            if grad_scale != 1.0:
                grad_scale = _check.positive("grad_scale", grad_scale)
            clip_norm, limit = self.clip_norm, self.clip_value
            if callable(clip_norm):
                clip_norm = _check.scheduled(_check.non_negative, "clip_norm", clip_norm, step)
            if callable(limit):
                limit = _check.scheduled(_check.positive, "clip_value", limit, step)
            threads = self.threads or config.get_num_threads()
            lr: float = values[0]["lr"]

            gradients = self._bind(self._flatten(grads))
            active = self._active_cohorts(gradients)
            scale, norm, bad = 1.0 / grad_scale, None, None
            if clip_norm is not None or self.nonfinite != "propagate":
                norm, bad = self._measure(gradients, grad_scale, threads)
                if clip_norm is not None and not norm <= clip_norm:
                    scale *= clip_norm / norm  # NaN stays NaN: it is to be seen
                if self.nonfinite != "propagate":
                    bad = self._overflows(gradients, scale, norm * grad_scale, bad)
                    if bad:
                        self._refuse(gradients, scale)
                        return StepReport(step, lr, False, norm, bad)

            if limit is None:
                limit = math.inf
            self._allocate(active)
            rows: list[tuple[float, ...] | None] = []
            for cohort, takes_part in zip(self._cohorts, active, strict=True):
                row = None
                if takes_part:
                    k = self._groups.index(cohort.group) if len(self._groups) > 1 else 0
                    row = self._pack(cohort, values[k], scale, limit)
                rows.append(row)
            self._plan.step(rows, threads)
            for cohort, takes_part in zip(self._cohorts, active, strict=True):
                if takes_part:
                    cohort.steps += 1
                    cohort.fresh = False
            self.steps = step + 1
            return StepReport(step + 1, lr, True, norm, bad)

    def _pack(
        self, cohort: Cohort, values: Values, scale: float, limit: float
    ) -> tuple[float, ...]:
        coefficients = self._coefficients(values, cohort.steps + 1, cohort.fresh)
        coefficients["gradient_scale"] = -scale if values["maximize"] else scale
        coefficients["gradient_limit"] = limit
        return _PACKERS[cohort.rule](coefficients)

    def _active_cohorts(self, gradients: list[Any]) -> list[bool]:
        """Which cohorts take part; cohorts of which only some leaves do are split first."""
        if self._plan.bound == len(self._leaves):
            return [True] * len(self._cohorts)
        counts = self._plan.bound_per_row(gradients)
        if all(
            n in (0, len(cohort.leaves))
            for n, cohort in zip(counts, self._cohorts, strict=True)
        ):
            return [n > 0 for n in counts]
        merged: dict[tuple[Any, bool], Cohort] = {}
        for cohort in self._cohorts:
            for leaf in cohort.leaves:
                part = cohort.key(), gradients[leaf] is not None
                if part not in merged:
                    merged[part] = Cohort(cohort.group, cohort.steps, cohort.rule, cohort.fresh)
                merged[part].leaves.append(leaf)
        self._cohorts = list(merged.values())
        self._set_rows()
        return [takes_part for _, takes_part in merged]

    def _allocate(self, active: list[bool]) -> None:
        """Make the states that a rule needs and has not got; nothing in the steady state."""
        changed = False
        for cohort, takes_part in zip(self._cohorts, active, strict=True):
            rule = cohort.group.rule
            if not takes_part or cohort.rule == rule:
                continue
            number, names, _ = _RULES[rule]
            leaves = [self._leaves[i] for i in cohort.leaves]
            new = [
                {name: leaf.new_state() for name in names if name not in leaf.state}
                for leaf in leaves
            ]
            for i, leaf, states in zip(cohort.leaves, leaves, new, strict=True):
                leaf.state.update(states)
                self._plan.set_rule(i, number, tuple([leaf.state[name] for name in names]))
                cohort.fresh = cohort.fresh or bool(states)
            cohort.rule = rule
            changed = True
        if changed:
            self._plan.finish()

    def _measure(
        self, gradients: list[Any], grad_scale: float, threads: int
    ) -> tuple[float, int]:
        norm, bad = gradient_norm(self._plan, gradients, threads)
        return norm / grad_scale, bad

    def _overflows(self, gradients: list[Any], scale: float, norm: float, bad: int) -> int:
        """Count also float64 gradients that a float32 parameter cannot take."""
        if bad or norm * abs(scale) <= _LARGEST_FLOAT32:
            return bad
        arrays = [leaf.parameter for leaf in self._leaves]
        return sum(count_nonfinite(gradients, arrays, scale))

    def _refuse(self, gradients: list[Any], scale: float) -> None:
        if self.nonfinite != "raise":
            return
        counts = count_nonfinite(gradients, [leaf.parameter for leaf in self._leaves], scale)
        leaf = next((i for i, n in enumerate(counts) if n), 0)
        raise FloatingPointError(
            f"{self._grad_path(leaf)} has {counts[leaf]} NaN or infinite elements "
            f"({sum(counts)} in all); nothing was updated. Lower the learning rate, clip, or use "
            "nonfinite='skip'"
        )

    # ---- state -----------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """Per parameter name: "step" and the state arrays by PyTorch's names.

        The arrays are the ones the step updates; parameters that have had no gradient yet are
        left out, as in PyTorch.
        """
        with self._lock:
            steps = {i: cohort.steps for cohort in self._cohorts for i in cohort.leaves}
            return {
                leaf.name: {"step": steps[i], **leaf.state}
                for i, leaf in enumerate(self._leaves)
                if leaf.state or steps[i]
            }

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of states, step counts, hyperparameters and schedules, by parameter name.

        Arrays are copies: later steps do not change it. Picklable if the schedules are.
        """
        return save(self)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Continue from a snapshot; its hyperparameters and schedules replace the present ones.

        Parameters
        ----------
        state : dict
            As `state_dict` returned it, of an optimizer of the same class and groups.
        strict : bool, default True
            Whether names must match exactly. With False, states that match are loaded and the
            rest is reported.

        Returns
        -------
        LoadReport
            ``missing`` and ``unexpected`` parameter names.

        Raises
        ------
        TypeError, ValueError
            What does not fit. Nothing has been changed.
        """
        return load(self, state, strict)


_PACKERS = {name: itemgetter(*coefficients) for name, (_, _, coefficients) in _RULES.items()}


def _is_group_list(params: Any) -> bool:
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(group, dict) and "params" in group for group in params)
    )
