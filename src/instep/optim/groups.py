"""Parameter groups: their hyperparameters, and leaves that have taken equally many steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instep import _check
from instep._check import Array
from instep.tree import Structure

Check = Callable[[str, object], Any]
Values = Mapping[str, Any]


@dataclass(slots=True)
class Leaf:
    """One parameter array."""

    name: str
    path: str
    parameter: Array
    order: tuple[int, ...]
    state: dict[str, Array] = field(default_factory=dict)

    def new_state(self) -> Array:
        """Zeros of the parameter's shape and dtype, dense in the parameter's memory order."""
        shape = [self.parameter.shape[axis] for axis in self.order]
        zeros = np.zeros(shape, self.parameter.dtype)
        return zeros.transpose(np.argsort(self.order)) if self.order else zeros


def walk_order(array: Array) -> tuple[int, ...]:
    """Axes by falling |stride|, as the core walks them (csrc/view.c)."""
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


class Group:
    """Hyperparameters of some leaves; a view of the user's dict, which may change any time.

    Constant values are checked when they change, scheduled ones at each step.
    """

    def __init__(
        self,
        options: dict[str, Any],
        structure: Structure,
        leaves: range,
        checks: Mapping[str, Check],
        validate: Callable[[Values, frozenset[str]], str],
    ) -> None:
        self.options = options
        self.structure = structure
        self.leaves = leaves
        self._checks = checks
        self._validate = validate
        self._seen: tuple[Any, ...] = ()
        self._constant: dict[str, Any] = {}
        self._scheduled: list[tuple[str, Check, Any]] = []
        self.rule = ""
        self.refresh()

    def refresh(self) -> None:
        """Check the options anew; leave everything as it was if one is wrong."""
        constant: dict[str, Any] = {}
        scheduled: list[tuple[str, Check, Any]] = []
        for name, check in self._checks.items():
            value = self.options[name]
            if callable(value):
                if check is _check.flag:
                    raise TypeError(f"{name} must be True or False, got {value!r}")
                scheduled.append((name, check, value))
            elif name == "betas":
                constant[name] = self._pair(check, value, scheduled)
                self.options[name] = value if isinstance(value, tuple) else tuple(value)
            else:
                constant[name] = check(name, value)
        names = frozenset(name for name, _, _ in scheduled)
        self.rule = self._validate(constant, names)
        self._constant, self._scheduled = constant, scheduled
        self._seen = tuple(self.options[name] for name in self._checks)

    @staticmethod
    def _pair(
        check: Check, value: object, scheduled: list[tuple[str, Check, Any]]
    ) -> tuple[Any, Any]:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise TypeError(f"betas must be a pair of numbers or schedules, got {value!r}")
        pair = []
        for k in (0, 1):
            if callable(value[k]):
                scheduled.append((f"betas[{k}]", check, value[k]))
                pair.append(0.0)
            else:
                pair.append(check(f"betas[{k}]", value[k]))
        return pair[0], pair[1]

    def at(self, step: int) -> dict[str, Any]:
        """All hyperparameters at the 0-based step."""
        options = self.options
        seen = tuple([options[name] for name in self._checks])
        if seen != self._seen:
            self.refresh()
        if not self._scheduled:
            return self._constant
        values = self._constant.copy()
        for name, check, schedule in self._scheduled:
            value = _check.scheduled(check, name, schedule, step)
            if name == "betas[0]":
                values["betas"] = (value, values["betas"][1])
            elif name == "betas[1]":
                values["betas"] = (values["betas"][0], value)
            else:
                values[name] = value
        return values


@dataclass(slots=True)
class Cohort:
    """Leaves of one group that have taken equally many steps, so share their coefficients."""

    group: Group
    steps: int
    rule: str  # "" until the core knows the leaves' states
    fresh: bool  # a state of theirs has not been written yet
    leaves: list[int] = field(default_factory=list)

    def key(self) -> tuple[int, int, str, bool, int]:
        """Cohorts of equal key may be merged; those whose states may yet differ may not."""
        unplanned = 0 if self.rule else id(self)
        return id(self.group), self.steps, self.rule, self.fresh, unplanned
