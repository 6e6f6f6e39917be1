"""What the parts of an optimizer that stand in modules of their own see of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from instep._check import Array

if TYPE_CHECKING:
    from instep import _core
    from instep.optim.groups import Group
    from instep.optim.leaves import Leaves


class Part:
    """Its groups and leaves, and the lock and flag of its steps."""

    _steady: _core.Steady
    _groups: list[Group]
    _leaves: Leaves
    _listed: bool

    def _nested(self, arrays: Sequence[Array]) -> Any:
        """One array per leaf, as the parameters are nested."""
        groups = self._groups
        trees = [group.structure.build([arrays[i] for i in group.leaves]) for group in groups]
        return trees if self._listed else trees[0]

    def _within_step(self, method: str) -> RuntimeError:
        return RuntimeError(
            f"{method}() was called within a step of the same optimizer, by a schedule or by what "
            "converts a gradient; call it between steps"
        )
