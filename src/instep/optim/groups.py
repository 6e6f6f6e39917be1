"""Parameter groups: the hyperparameters that some leaves share."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from instep import _check
from instep.tree import Structure

Check = Callable[[str, object], Any]
Values = Mapping[str, Any]


class Group:
    """Hyperparameters of some leaves; a view of the user's dict, which may change any time.

    Constants are checked when they change, scheduled values at each step.
    """

    def __init__(
        self,
        options: dict[str, Any],
        structure: Structure,
        leaves: range,
        checks: Mapping[str, Check],
        rule_of: Callable[[Values, frozenset[str]], str],
    ) -> None:
        self.options = options
        self.structure = structure
        self.leaves = leaves
        self.values: dict[str, Any] = {}  # at the current step
        self.rule = ""
        self._checks = checks
        self._rule_of = rule_of
        self._get = itemgetter(*checks)
        self._seen: tuple[Any, ...] = ()
        self._scheduled: list[tuple[str, int | None, Any]] = []
        self.refresh()

    def refresh(self) -> None:
        """Check the options anew; leave everything as it was if one is wrong."""
        constant: dict[str, Any] = {}
        scheduled: list[tuple[str, int | None, Any]] = []
        for name, check in self._checks.items():
            value = self.options[name]
            if name == "betas":
                value = self.options[name] = _pair(value)
                for k in (0, 1):
                    if callable(value[k]):
                        scheduled.append((name, k, value[k]))
                constant[name] = tuple(
                    0.0 if callable(value[k]) else check(f"betas[{k}]", value[k]) for k in (0, 1)
                )
            elif callable(value) and check is not _check.flag:
                scheduled.append((name, None, value))
            else:
                constant[name] = check(name, value)
        self.rule = self._rule_of(constant, frozenset(name for name, _, _ in scheduled))
        self.values, self._scheduled = constant, scheduled
        self._seen = self._get(self.options)

    def advance(self, step: int) -> None:
        """Bring `values` to the 0-based step."""
        try:
            changed = self._get(self.options) != self._seen
        except ValueError:  # an array does not compare to one bool
            changed = True
        if changed:
            self.refresh()
        if not self._scheduled:
            return
        values = self.values.copy()
        for name, k, schedule in self._scheduled:
            check = self._checks[name]
            if k is None:
                values[name] = _check.scheduled(check, name, schedule, step)
            else:
                pair = list(values[name])
                pair[k] = _check.scheduled(check, f"{name}[{k}]", schedule, step)
                values[name] = tuple(pair)
        self.values = values


def _pair(value: object) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"betas must be a pair of numbers or schedules, got {value!r}")
    return value[0], value[1]
