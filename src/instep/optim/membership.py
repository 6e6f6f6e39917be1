"""The groups of an optimizer: how parameters get in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from instep._check import Array
from instep.optim.groups import Check, Group
from instep.optim.leaves import Cohort, Leaf, labels_of, renamed
from instep.optim.parts import Part
from instep.optim.storage import suiting
from instep.tree import Structure, flatten_groups


class Membership(Part):
    """What every optimizer offers for groups of parameters."""

    defaults: dict[str, Any]
    _checks: Mapping[str, Check]
    _rule: Callable[..., str]
    _state_dtype: str | None
    _buffers: list[Array] | None
    _flatten_trees: Callable[[Any, str], list[Any]]

    @property
    def param_groups(self) -> tuple[dict[str, Any], ...]:
        """One dict per group: "params" and the hyperparameters, which may be changed there.

        A tuple, where PyTorch has a list: groups are added with `add_param_group` alone.
        """
        return tuple([group.options for group in self._groups])

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add parameters with hyperparameters of their own.

        Parameters
        ----------
        group : dict
            "params" (a tree of arrays) and any hyperparameter that differs from the
            constructor's. Gradients then come as a list with one tree per group, and all is named
            as if a list of groups had been given at first: "W" becomes "0.W".
        """
        with self._changing("add_param_group()"):
            self._append_groups([group])
            self._buffers = None

    def _append_groups(self, groups: Sequence[Any]) -> None:
        """All are checked before a factory is asked for anything."""
        begin = len(self._groups)
        listed = self._listed or begin > 0
        leaves = self._leaves.all
        if listed and not self._listed:
            leaves = renamed(leaves, labels_of(self._groups[0].structure, 0, listed))
        made: list[Group] = []
        for index, options in enumerate(groups, begin):
            group, new = self._made_group(options, index, listed, len(leaves))
            leaves = [*leaves, *new]
            made.append(group)
        self._steady.close()
        self._leaves.replace(leaves, [Cohort(group, list(group.leaves)) for group in made])
        self._groups = [*self._groups, *made]
        self._listed = listed
        structures = [group.structure for group in self._groups]
        # Nothing of the optimizer in it: the short way of a step keeps it.
        self._flatten_trees = (
            partial(flatten_groups, structures) if listed else structures[0].flatten
        )

    def _made_group(
        self, options: Any, index: int, listed: bool, begin: int
    ) -> tuple[Group, list[Leaf]]:
        """The group of these options and its leaves, which start at number `begin`."""
        if not isinstance(options, dict) or "params" not in options:
            raise TypeError(f"a group must be a dict with the key 'params', got {options!r}")
        for name in options:
            if name != "params" and name not in self._checks:
                known = ", ".join(self._checks)
                raise TypeError(f"params[{index}] has no hyperparameter {name!r}; known: {known}")
        structure = Structure(options["params"])
        root = f"params[{index}]['params']" if listed else "params"
        if structure.size == 0:
            raise ValueError(f"{root} holds no array; pass at least one parameter")
        given = structure.flatten(options["params"], root)
        labels = labels_of(structure, index, listed)
        leaves = [Leaf.of(*label, array) for label, array in zip(labels, given, strict=True)]
        members = range(begin, begin + len(leaves))
        rule_of = suiting(self._rule, self._state_dtype)
        group = Group({**self.defaults, **options}, structure, members, self._checks, rule_of)
        return group, leaves
