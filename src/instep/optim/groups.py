"""Parameter groups: the hyperparameters that some leaves share."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from instep import _check
from instep.tree import Structure

Check = Callable[[str, object], Any]
Values = Mapping[str, Any]
RuleOf = Callable[[Values, frozenset[str]], str]
Scheduled = list[tuple[str, int | None, Any]]  # name, which of a pair, schedule
Checked = tuple[dict[str, Any], Scheduled, str]  # constant values, schedules, update rule


class Options(dict[str, Any]):
    """The hyperparameters of a group: a dict that notes when it is changed."""

    changed = False

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def _noting(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    @wraps(method)
    def note(self: Options, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        finally:
            self.changed = True

    return note


for _name in "__setitem__ __delitem__ __ior__ update setdefault pop popitem clear".split():
    setattr(Options, _name, _noting(_name))


class Group:
    """Hyperparameters of some leaves, which the user may change at any time.

    Constants are checked when they change, scheduled values at each step.
    """

    def __init__(
        self,
        options: dict[str, Any],
        structure: Structure,
        leaves: range,
        checks: Mapping[str, Check],
        rule_of: RuleOf,
    ) -> None:
        self.options = Options(options)
        self.structure = structure
        self.leaves = leaves
        self.values: dict[str, Any] = {}  # at the current step
        self.scheduled: Scheduled = []
        self._names: frozenset[str] = frozenset()  # of what is scheduled
        self.rule = ""
        self._params = options["params"]
        self._checks = checks
        self._rule_of = rule_of
        self.refresh()

    def refresh(self) -> None:
        """Check the options anew; leave everything as it was if one is wrong."""
        self.options.changed = False
        try:
            checked = self.check(self.options)
        except BaseException:
            self.options.changed = True
            raise
        self._adopt(checked)

    def check(self, options: Mapping[str, Any]) -> Checked:
        """What would follow from these options."""
        if options.get("params") is not self._params:
            raise ValueError(
                "a group's 'params' can't be replaced; use add_param_group, or a new optimizer"
            )
        return check_options(options, self._checks, self._rule_of)

    def replace(self, options: Mapping[str, Any], checked: Checked) -> None:
        """Use these options and what `check` found; nothing can fail here."""
        dict.clear(self.options)
        dict.update(self.options, options)
        self.options.changed = False
        self._adopt(checked)

    def _adopt(self, checked: Checked) -> None:
        self.values, self.scheduled, self.rule = checked
        self._names = _names(self.scheduled)
        if "betas" in self.options:  # a list could be changed unnoticed
            dict.__setitem__(self.options, "betas", tuple(self.options["betas"]))

    def advance(self, step: int) -> None:
        """Bring `values` to the 0-based step; needed if options changed or are scheduled."""
        if self.options.changed:
            self.refresh()
        values = self.values.copy()
        for name, k, schedule in self.scheduled:
            check = self._checks[name]
            if k is None:
                values[name] = _check.scheduled(check, name, schedule, step)
            else:
                pair = list(values[name])
                pair[k] = _check.scheduled(check, f"{name}[{k}]", schedule, step)
                values[name] = tuple(pair)
        self.rule = self._rule_of(values, self._names)
        self.values = values


def check_options(
    options: Mapping[str, Any], checks: Mapping[str, Check], rule_of: RuleOf
) -> Checked:
    """The constant values, the schedules and the update rule of a group's options."""
    constant: dict[str, Any] = {}
    scheduled: Scheduled = []
    for name in options:
        if name != "params" and name not in checks:
            known = ", ".join(checks)
            raise TypeError(f"there is no hyperparameter {name!r}; known: {known}")
    for name, check in checks.items():
        if name not in options:
            raise TypeError(f"a group lost its hyperparameter {name!r}; set it again")
        value = options[name]
        if name == "betas":
            pair = _pair(value)
            scheduled += [(name, k, pair[k]) for k in (0, 1) if callable(pair[k])]
            constant[name] = tuple(
                0.0 if callable(pair[k]) else check(f"betas[{k}]", pair[k]) for k in (0, 1)
            )
        elif callable(value) and check is not _check.flag:
            scheduled.append((name, None, value))
        else:
            constant[name] = check(name, value)
    return constant, scheduled, rule_of(constant, _names(scheduled))


def _names(scheduled: Scheduled) -> frozenset[str]:
    return frozenset(name for name, _, _ in scheduled)


def _pair(value: object) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"betas must be a pair of numbers or schedules, got {value!r}")
    return value[0], value[1]


def is_group_list(params: Any) -> bool:
    """PyTorch's form of several groups: a list of dicts with "params"."""
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(group, dict) and "params" in group for group in params)
    )
