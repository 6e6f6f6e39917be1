"""The parameter arrays of an optimizer: their states, step counts and this step's gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from instep import _check, _core
from instep._check import Array
from instep.optim.groups import Group, Values
from instep.tree import Structure

Coefficients = Callable[[Values], tuple[float, ...]]

RULES = _core.rules()
_ALL_BOUND = _core.ALL_BOUND


def given(rule: str) -> tuple[str, ...]:
    """The names of the coefficients that a rule is given: neither set nor derived in the core."""
    _, _, names, derived = RULES[rule]
    return names[2 : len(names) - derived]


_LINE = 64  # bytes of a cache line
_PAGE = 4096
_APART = 768  # bytes between streams within a page
GRADIENT = 4  # the stream behind the parameter (0) and its states, three at most
AVERAGE = 5
_LARGE = 16 * _PAGE  # where a page more is nothing


@dataclass(slots=True)
class Leaf:
    """One parameter array."""

    name: str  # "layers.0.W"
    path: str  # "params['layers'][0]['W']"
    grad_path: str
    parameter: Array
    state: dict[str, Array] = field(default_factory=dict)
    average: Array | None = None

    def renamed(self, name: str, path: str, grad_path: str) -> "Leaf":
        return replace(self, name=name, path=path, grad_path=grad_path)

    def new_average(self) -> Array:
        average = self.new_array(AVERAGE)
        average[...] = self.parameter
        return average

    def new_array(self, stream: int) -> Array:
        """Zeros of the parameter's shape and dtype, dense in the parameter's memory order.

        It lies as the parameter does relative to cache lines: csrc/step.h starts its vectors where
        the parameter's lines start. Large ones lie `stream` times _APART further in their page:
        stores and loads that agree in the last 12 bits of the address can wait for each other."""
        like = self.parameter
        # As csrc/view.c walks: axes by falling |stride|.
        order = sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))
        large = like.nbytes >= _LARGE
        unit, offset = (_PAGE, _APART * stream) if large else (_LINE, 0)
        room = np.zeros(like.size + unit // like.itemsize, like.dtype)
        skip = (like.ctypes.data + offset - room.ctypes.data) % unit // like.itemsize
        zeros = room[skip : skip + like.size].reshape([like.shape[axis] for axis in order])
        return zeros.transpose(np.argsort(order)) if order else zeros


def labels_of(structure: Structure, group: int, listed: bool) -> Iterator[tuple[str, str, str]]:
    """Name, path and path of the gradient of each leaf."""
    prefix = str(group) if listed else ""
    root, grad_root = "params", "grads"
    if listed:
        root, grad_root = f"params[{group}]['params']", f"grads[{group}]"
    names = (name or "param" for name in structure.names(prefix))
    return zip(names, structure.paths(root), structure.paths(grad_root), strict=True)


class Cohort(_core.Row):
    """Leaves of one group with equally many steps and the same states: they share coefficients."""

    __slots__ = ("group", "leaves", "rule", "values")

    def __init__(
        self,
        group: Group,
        leaves: list[int],
        steps: int = 0,
        rule: str = "",
        fresh: bool = True,
        active: bool = True,
    ) -> None:
        self.group = group
        self.leaves = leaves
        self.steps = steps
        self.rule = rule  # "" until the core knows the leaves' states
        self.fresh = fresh  # a state of theirs has not been written yet
        self.active = active  # has gradients in this step
        self.values: Values | None = None  # those of the coefficients that the core has

    def key(self, leaf: Leaf) -> tuple[Any, ...]:
        """Leaves of equal key may be in one cohort."""
        return id(self.group), self.steps, self.rule, self.fresh, frozenset(leaf.state)


class Leaves:
    """All leaves of an optimizer, in the order of the flattened gradients."""

    def __init__(self) -> None:
        self.all: list[Leaf] = []
        self.cohorts: list[Cohort] = []
        self.plan = _core.Plan([])
        self.partial = False
        self.averaged = False  # there is an average of every parameter

    # ---- membership ------------------------------------------------------------------------

    def replace(self, leaves: list[Leaf], cohort: Cohort) -> None:
        """Take the leaves that there are and those of a new cohort, or leave all as it was."""
        names = [leaf.name for leaf in leaves]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"two parameters are called {twice!r}; rename a key: states are saved by name"
            )
        arrays = [leaf.parameter for leaf in leaves]
        _check.disjoint(arrays, [leaf.path for leaf in leaves])
        plan = _core.Plan(arrays)
        averages = self._averages(leaves, self.averaged)
        self.all, self.plan = leaves, plan
        self.set_averages(averages)
        self.replace_cohorts([*self.cohorts, cohort])

    def replace_cohorts(self, cohorts: list[Cohort]) -> None:
        """Group the leaves anew and tell the core the states that they have.

        States that are missing are made at the next step."""
        for cohort in cohorts:
            cohort.rule, cohort.values = "", None
            names = RULES[cohort.group.rule][1]
            if names and all(name in self.all[cohort.leaves[0]].state for name in names):
                self._allocate(cohort)
        self.plan.finish()
        self._set_cohorts(cohorts)

    @staticmethod
    def _averages(leaves: list[Leaf], on: bool) -> list[Array] | None:
        """The averages that there are, and copies of the parameters where there are none."""
        if not on:
            return None
        return [leaf.new_average() if leaf.average is None else leaf.average for leaf in leaves]

    def average(self, on: bool) -> None:
        """Keep averages from now on, or drop them."""
        self.set_averages(self._averages(self.all, on))

    def set_averages(self, averages: list[Array] | None) -> None:
        """Keep these, one per leaf, or none."""
        self.averaged = averages is not None
        for i, leaf in enumerate(self.all):
            leaf.average = averages[i] if averages is not None else None
            self.plan.set_average(i, leaf.average)
        self.plan.finish()

    def check_exchange(self) -> None:
        """Can parameters and averages change places?"""
        if not self.averaged:
            raise ValueError("there are no averages to swap; set ema_decay first")
        for leaf in self.all:
            if not leaf.parameter.flags.writeable:
                raise _check.read_only(leaf.path, leaf.parameter)

    def _set_cohorts(self, cohorts: list[Cohort]) -> None:
        rows = [0] * len(self.all)
        for row, cohort in enumerate(cohorts):
            for leaf in cohort.leaves:
                rows[leaf] = row
        self.plan.set_rows(rows, cohorts)
        self.cohorts = cohorts

    def steps(self) -> dict[int, int]:
        """How many gradients each leaf has taken."""
        return {leaf: cohort.steps for cohort in self.cohorts for leaf in cohort.leaves}

    def written(self) -> Iterator[tuple[str, Array]]:
        """Everything that a step writes, with its name for messages."""
        for leaf in self.all:
            yield leaf.path, leaf.parameter
            for name, array in leaf.state.items():
                yield f"state[{leaf.name!r}][{name!r}]", array
            if leaf.average is not None:
                yield f"ema[{leaf.name!r}]", leaf.average

    # ---- one step --------------------------------------------------------------------------

    def bind(self, gradients: list[Any]) -> list[Any]:
        """Hand the gradients to the core; convert or refuse those it does not take as they are."""
        stop = self.plan.bind(gradients)
        if stop == _ALL_BOUND and not self.partial:
            return gradients
        gradients = list(gradients)
        while stop >= 0:
            leaf, trusted = self.all[stop], -1
            if self.plan.reason == _core.READ_ONLY:
                raise _check.read_only(leaf.path, leaf.parameter)
            if self.plan.reason == _core.WRONG_SHAPE:
                shape = leaf.parameter.shape
                raise _check.gradient_shape(leaf.grad_path, gradients[stop], shape)
            if self.plan.reason == _core.READ_ONLY_GRADIENT:
                raise _check.read_only_gradient(leaf.grad_path, gradients[stop])
            if self.plan.reason == _core.MAY_OVERLAP:
                _check.gradient_overlap(leaf.grad_path, gradients[stop], self.written())
                trusted = stop
            else:
                given = gradients[stop]
                gradients[stop] = _check.gradient(leaf.grad_path, given)
                if self.plan.zero_gradients:
                    _check.is_array(leaf.grad_path, given)
            stop = self.plan.bind_from(gradients, stop, trusted)
        if stop == _core.MAY_SHARE:
            _check.gradients_apart([leaf.grad_path for leaf in self.all], gradients)
            stop = self.plan.trust_apart()
        self.partial = stop != _ALL_BOUND
        self._mark_active(gradients)
        return gradients

    def _mark_active(self, gradients: list[Any]) -> None:
        """Say which cohorts take part; one of which only some leaves do is split first."""
        counts = self.plan.bound_per_row(gradients)
        sizes = [len(cohort.leaves) for cohort in self.cohorts]
        if any(0 < count < size for count, size in zip(counts, sizes, strict=True)):
            parts: dict[Any, Cohort] = {}
            for cohort in self.cohorts:
                for leaf in cohort.leaves:
                    key = cohort.key(self.all[leaf]), gradients[leaf] is not None
                    if key not in parts:
                        parts[key] = Cohort(
                            cohort.group, [], cohort.steps, cohort.rule, cohort.fresh, key[1]
                        )
                    parts[key].leaves.append(leaf)
            self._set_cohorts(list(parts.values()))
        else:
            for count, cohort in zip(counts, self.cohorts, strict=True):
                cohort.active = count > 0

    def sum_squares(self, scale: float, threads: int) -> float:
        """Sum of (scale * g)^2 over the bound gradients, in float64."""
        return self.plan.sum_squares(scale, threads)

    def _allocate_active(self) -> None:
        """Make the states that the active cohorts' rules need and have not got."""
        changed = False
        for cohort in self.cohorts:
            if cohort.active and cohort.rule != cohort.group.rule:
                self._allocate(cohort)
                changed = True
        if changed:
            self.plan.finish()

    def _allocate(self, cohort: Cohort) -> None:
        number, names = RULES[cohort.group.rule][:2]
        leaves = [self.all[i] for i in cohort.leaves]
        new = [
            {
                name: leaf.new_array(stream)
                for stream, name in enumerate(names, 1)
                if name not in leaf.state
            }
            for leaf in leaves
        ]
        for i, leaf, states in zip(cohort.leaves, leaves, new, strict=True):
            leaf.state.update(states)
            self.plan.set_rule(i, number, tuple([leaf.state[name] for name in names]))
            cohort.fresh = cohort.fresh or bool(states)
        cohort.rule = cohort.group.rule

    def hand_over(self, coefficients: Coefficients) -> None:
        """Give the core what changed of the active cohorts' rules and coefficients."""
        for cohort in self.cohorts:
            if cohort.values is not cohort.group.values and cohort.active:
                self._hand_over_one(cohort, coefficients)

    def _hand_over_one(self, cohort: Cohort, coefficients: Coefficients) -> None:
        group = cohort.group
        if cohort.rule != group.rule:
            self._allocate_active()
        values = group.values
        sign = -1.0 if values["maximize"] else 1.0
        cohort.set(RULES[group.rule][0], sign, coefficients(values))
        cohort.values = values
