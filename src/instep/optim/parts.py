"""What the parts of an optimizer that stand in modules of their own see of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    _threads: int | None

    def _nested(self, arrays: Sequence[Array]) -> Any:
        """One array per leaf, as the parameters are nested."""
        groups = self._groups
        trees = [group.structure.build([arrays[i] for i in group.leaves]) for group in groups]
        return trees if self._listed else trees[0]

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """For `what` changes leaves and may ask a `state_factory`: one thread at a time, and no
        step or other change from within."""
        with self._steady.lock:
            self._refuse_within(what)
            self._steady.stepping = True
            try:
                yield
            finally:
                self._steady.stepping = False

    def _refuse_within(self, what: str) -> None:
        """`what` must not happen within a step or another change, nor within `swap_ema`."""
        if self._steady.stepping:
            raise RuntimeError(
                f"{what} was called within a step of the same optimizer, or another change of it, "
                "by a schedule, a state_factory or what converts a gradient; call it afterwards"
            )
        self._refuse_swapped(what)

    def _refuse_swapped(self, what: str) -> None:
        if self._leaves.plan.exchanged:
            raise RuntimeError(
                f"{what} was called within swap_ema(), where the parameters hold their averages; "
                "call it after the with block"
            )
