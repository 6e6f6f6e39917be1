"""What a schedule observed (`ReduceOnPlateau`), saved and loaded with the optimizer."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from instep.schedules import PlateauState, ReduceOnPlateau, Schedule

Options = Mapping[str, Any]  # name -> value
Memo = dict[int, Any]  # id of a saved plateau or schedule -> what stands for it


def _parts(value: Any) -> tuple[Any, ...]:
    """What a schedule is made of, or a pair of them."""
    if isinstance(value, Schedule):
        return tuple([getattr(value, field.name) for field in fields(value)])
    return tuple(value) if isinstance(value, tuple | list) else ()


def _within(value: Any) -> Iterator[ReduceOnPlateau]:
    if isinstance(value, ReduceOnPlateau):
        yield value
    else:
        for part in _parts(value):
            yield from _within(part)


def _pairs(present: Any, saved: Any) -> Iterator[tuple[ReduceOnPlateau, ReduceOnPlateau]]:
    """Plateaus of equal parameters at the same place."""
    if isinstance(present, ReduceOnPlateau):
        if present == saved:
            yield present, saved
    elif isinstance(present, tuple | list) or type(present) is type(saved):
        for one, other in zip(_parts(present), _parts(saved), strict=False):
            yield from _pairs(one, other)


def copied(value: Any, memo: Memo) -> Any:
    """The value with plateaus of its own, shared as they are; what has none is kept as it is."""
    if id(value) in memo or not any(_within(value)):
        return memo.get(id(value), value)
    new: Any
    if isinstance(value, ReduceOnPlateau):
        new = copy.copy(value)
    elif isinstance(value, Schedule):
        new = copy.copy(value)
        for field in fields(value):
            object.__setattr__(new, field.name, copied(getattr(value, field.name), memo))
    else:
        new = tuple([copied(part, memo) for part in value])
    memo[id(value)] = new
    return new


class Restoration:
    """How saved options become an optimizer's: its own plateaus stay, with the saved states.

    Parameters
    ----------
    present, saved : list of dict
        The options that there are and those to be loaded, of each group and of the optimizer.
    """

    def __init__(self, present: list[Options], saved: list[Options]) -> None:
        self._states: dict[int, tuple[ReduceOnPlateau, PlateauState]] = {}
        memo: Memo = {}
        for here, there in zip(present, saved, strict=True):
            for name in there:
                for mine, theirs in _pairs(here.get(name), there[name]):
                    self._note(name, mine, theirs.state)
                    if memo.setdefault(id(theirs), mine) is not mine:
                        raise ValueError(
                            f"the schedule of {name!r} has a ReduceOnPlateau of its own where the "
                            "saved optimizer shared one; make the optimizer with one object in all "
                            "those places"
                        )
        self.options: list[Options] = [
            {name: copied(each[name], memo) for name in each} for each in saved
        ]
        self._check_kept(present)

    def _note(self, name: str, plateau: ReduceOnPlateau, state: PlateauState) -> None:
        _, noted = self._states.setdefault(id(plateau), (plateau, state))
        if noted != state:
            raise ValueError(
                f"the schedule of {name!r} shares a ReduceOnPlateau that the state_dict has twice, "
                f"with {noted} and {state}; give the optimizer one for each"
            )

    def _check_kept(self, present: list[Options]) -> None:
        """The user holds these objects and would call `observe` in vain."""
        kept = {
            id(plateau)
            for options in self.options
            for value in options.values()
            for plateau in _within(value)
        }
        for options in present:
            for name, value in options.items():
                lost = [plateau for plateau in _within(value) if id(plateau) not in kept]
                if lost:
                    raise ValueError(
                        f"the schedule of {name!r} has {lost[0]!r}, and the state_dict none of "
                        "equal parameters in its place: it would be used no more. Make the "
                        "optimizer with the schedule that was saved, or put a number in its place "
                        "in param_groups before loading"
                    )

    def apply(self) -> None:
        """Set the states; nothing can fail here."""
        for plateau, state in self._states.values():
            object.__setattr__(plateau, "state", state)
