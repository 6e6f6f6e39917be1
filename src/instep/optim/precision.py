"""float16 and bfloat16 parameters: float32 masters, which the rule updates.

The step rounds the new master to the nearest value of the user's array in the same pass. Without
masters it computes in float32 too, and rounds to the bfloat16 array at random, without bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instep._check import is_bfloat16
from instep.optim.memory import Factory, NewArrays, quiet
from instep.optim.parts import Part

if TYPE_CHECKING:
    from instep.optim.leaves import Leaf

MASTER = np.dtype(np.float32)


def is_low(dtype: np.dtype[Any]) -> bool:
    """Does a parameter of this dtype lose small steps?"""
    return dtype == np.float16 or is_bfloat16(dtype)


def add_masters(
    leaves: Sequence[Leaf], present: Sequence[Leaf], factory: Factory | None, wanted: bool
) -> None:
    """Give masters to those of the new `leaves` that need one, if they are `wanted`; `present` are
    there already."""
    new = NewArrays(factory)
    low = [leaf for leaf in leaves if is_low(leaf.given.dtype)]
    if not wanted:
        for leaf in low:
            if leaf.given.dtype == np.float16:
                raise ValueError(
                    f"{leaf.path} is float16, which is not updated without a master; make it "
                    "bfloat16, or use master=True"
                )
        return
    masters = [new.make(f"{leaf.name}.master", leaf.given, MASTER, 0) for leaf in low]
    written = [pair for leaf in present for pair in leaf.written()]
    new.check([*written, *((leaf.path, leaf.given) for leaf in leaves)])
    for leaf, master in zip(low, masters, strict=True):
        with quiet():
            master[...] = leaf.given
        leaf.parameter = master


def publish(leaf: Leaf) -> None:
    """Round the master to the user's array, as a step does."""
    with quiet():
        leaf.given[...] = leaf.parameter


def refresh(leaf: Leaf) -> None:
    """Take over what the user wrote: elements that are not the master rounded."""
    bits = np.dtype(np.uint16)
    with quiet():
        rounded = leaf.parameter.astype(leaf.given.dtype)
        changed = rounded.view(bits) != leaf.given.view(bits)
        np.copyto(leaf.parameter, leaf.given, where=changed)


class Masters(Part):
    """What every optimizer offers for float16 and bfloat16 parameters."""

    _masters: bool = True

    @property
    def master(self) -> Any:
        """The arrays that the rule updates, nested like the parameters.

        A float16 or bfloat16 parameter has a float32 master, made from its values when the
        optimizer is made. Every step updates the master and writes it, rounded to nearest, to the
        parameter. A float32 or float64 parameter is its own master, the same array, and with
        ``master=False`` so is a bfloat16 one.

        The master rules: what is written into a float16 or bfloat16 parameter between steps is
        lost at its next gradient or `swap_ema`, unless `refresh_master` is called. What is written
        into a master holds; the parameter shows it after the next step.
        """
        with self._steady.lock:
            return self._nested([leaf.parameter for leaf in self._leaves.all])

    def refresh_master(self) -> None:
        """Take over what was written into float16 and bfloat16 parameters, say loaded weights.

        Elements of a parameter that are not the master rounded replace those of the master; where
        they are, the master keeps its low bits. States and step counts stay.

        Raises
        ------
        RuntimeError
            Called within a step of this optimizer, or within `swap_ema`.
        """
        with self._steady.lock:
            self._refuse_within("refresh_master()")
            for leaf in self._leaves.all:
                if leaf.has_master:
                    refresh(leaf)
