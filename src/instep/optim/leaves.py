"""The parameter arrays of an optimizer: their states, step counts and this step's gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from instep import _check, _core
from instep._check import Array
from instep.optim import averages, precision, storage
from instep.optim.groups import Group, Values
from instep.optim.memory import Factory, NewArrays
from instep.tree import Structure

Coefficients = Callable[[Values], tuple[float, ...]]

RULES = _core.rules()
_ALL_BOUND = _core.ALL_BOUND


def given(rule: str) -> tuple[str, ...]:
    """The names of the coefficients that a rule is given: neither set nor derived in the core."""
    _, _, names, derived = RULES[rule]
    return names[2 : len(names) - derived]


GRADIENT = 4  # the stream behind the parameter (0) and its states, three at most
AVERAGE = 5


@dataclass(slots=True)
class Leaf:
    """One parameter array."""

    name: str  # "layers.0.W"
    path: str  # "params['layers'][0]['W']"
    grad_path: str
    given: Array  # the user's
    parameter: Array  # what the rule updates: the user's array itself, or its float32 master
    state: dict[str, Array] = field(default_factory=dict)
    average: Array | None = None

    @classmethod
    def of(cls, name: str, path: str, grad_path: str, given: object) -> "Leaf":
        """The leaf of what the user gave as a parameter; without a master as yet."""
        array = _check.parameter(path, given)
        return cls(name, path, grad_path, array, array)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the rule computes in."""
        own = self.parameter.dtype
        return precision.MASTER if precision.is_low(own) else own

    @property
    def has_master(self) -> bool:
        return self.parameter is not self.given

    def _new(self, new: NewArrays, name: str, stream: int) -> Array:
        """An array of the parameter's shape and of `dtype`."""
        return new.make(f"{self.name}.{name}", self.parameter, self.dtype, stream)

    def new_average(self, new: NewArrays) -> Array:
        """Room for its moving average."""
        return self._new(new, "ema", AVERAGE)

    def new_gradient(self, new: NewArrays) -> Array:
        """Room for its gradient."""
        return self._new(new, "grad", GRADIENT)

    def written(self) -> Iterator[tuple[str, Array]]:
        """Everything that a step writes, with its name for messages."""
        yield self.path, self.given
        if self.has_master:
            yield f"the master of {self.path}", self.parameter
        for name, array in self.state.items():
            yield f"state[{self.name!r}][{name!r}]", array
        if self.average is not None:
            yield f"ema[{self.name!r}]", self.average


def renamed(leaves: list[Leaf], labels: Iterator[tuple[str, str, str]]) -> list[Leaf]:
    """The same leaves with other names."""
    return [
        replace(leaf, name=name, path=path, grad_path=grad_path)
        for leaf, (name, path, grad_path) in zip(leaves, labels, strict=True)
    ]


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

    def __init__(
        self,
        factory: Factory | None = None,
        state_dtype: str | None = None,
        masters: bool = True,
    ) -> None:
        self.masters = masters  # float16 and bfloat16 parameters have them
        self.factory = factory  # asked for states and masters, if there is one
        self.state_dtype = state_dtype
        self.all: list[Leaf] = []
        self.cohorts: list[Cohort] = []
        self.plan = _core.Plan([])
        self.partial = False
        self.averaged = False  # there is a moving average of every parameter

    # ---- membership ------------------------------------------------------------------------

    def replace(self, leaves: list[Leaf], cohorts: list[Cohort]) -> None:
        """Take the leaves that there are and those of new cohorts, or leave all as it was."""
        names = [leaf.name for leaf in leaves]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"two parameters are called {twice!r}; rename a key: states are saved by name"
            )
        _check.disjoint([leaf.given for leaf in leaves], [leaf.path for leaf in leaves])
        present = leaves[: len(self.all)]
        precision.add_masters(leaves[len(present) :], present, self.factory, self.masters)
        plan = _core.Plan([leaf.parameter for leaf in leaves])
        for i, leaf in enumerate(leaves):
            if leaf.has_master:
                plan.set_copy(i, leaf.given)
        kept = averages.complete(leaves, self.factory) if self.averaged else None
        self.all, self.plan = leaves, plan
        self.set_averages(kept)
        self.replace_cohorts([*self.cohorts, *cohorts])

    def replace_cohorts(self, cohorts: list[Cohort]) -> None:
        """Group the leaves anew and tell the core the states that they have.

        States that are missing are made at the next step."""
        for cohort in cohorts:
            cohort.rule, cohort.values = "", None
            names = RULES[cohort.group.rule][1]
            if names and all(name in self.all[cohort.leaves[0]].state for name in names):
                self._use(cohort)
        self.plan.finish()
        self._set_cohorts(cohorts)

    def average(self, on: bool) -> None:
        """Keep averages from now on, or drop them."""
        self.set_averages(averages.complete(self.all, self.factory) if on else None)

    def set_averages(self, kept: list[Array] | None) -> None:
        """Keep these averages, one per leaf, or none."""
        self.averaged = kept is not None
        for i, leaf in enumerate(self.all):
            leaf.average = kept[i] if kept is not None else None
            self.plan.set_average(i, leaf.average)
        self.plan.finish()

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
            yield from leaf.written()

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
                raise _check.read_only(leaf.path, leaf.given)
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

    def _allocate_active(self, gradients: list[Any]) -> None:
        """Make the states that the active cohorts' rules need and have not got."""
        cohorts = [c for c in self.cohorts if c.active and c.rule != c.group.rule]
        new = NewArrays(self.factory)
        made: dict[int, dict[str, Array]] = {}
        for cohort in cohorts:
            names = RULES[cohort.group.rule][1]
            for i in cohort.leaves:
                leaf, made[i] = self.all[i], {}
                for stream, name in enumerate(names, 1):
                    if name not in leaf.state:
                        made[i] |= storage.new_state(leaf, name, stream, new, self.state_dtype)
        bound = zip(self.all, gradients, strict=True)
        read = ((leaf.grad_path, array) for leaf, array in bound if array is not None)
        new.check(chain(self.written(), read))
        new.zero()
        for cohort in cohorts:
            for i in cohort.leaves:
                self.all[i].state.update(made[i])
                cohort.fresh = cohort.fresh or bool(made[i])
            self._use(cohort)
        if cohorts:
            self.plan.finish()

    def _use(self, cohort: Cohort) -> None:
        """Tell the core the cohort's rule and the states of its leaves."""
        number, names = RULES[cohort.group.rule][:2]
        for i in cohort.leaves:
            self.plan.set_rule(i, number, *storage.handed(self.all[i].state, names))
        cohort.rule = cohort.group.rule

    def hand_over(self, coefficients: Coefficients, gradients: list[Any]) -> None:
        """Give the core what changed of the active cohorts' rules and coefficients."""
        for cohort in self.cohorts:
            if cohort.values is not cohort.group.values and cohort.active:
                if cohort.rule != cohort.group.rule:
                    self._allocate_active(gradients)
                self._hand_over_one(cohort, coefficients)

    def _hand_over_one(self, cohort: Cohort, coefficients: Coefficients) -> None:
        group = cohort.group
        values = group.values
        sign = -1.0 if values["maximize"] else 1.0
        cohort.set(RULES[group.rule][0], sign, coefficients(values))
        cohort.values = values
