"""Moving averages of the parameters: their arrays, and the exchange for an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from instep import _check, _core
from instep._check import Array
from instep.optim.memory import Factory, NewArrays
from instep.optim.options import Option
from instep.optim.parts import Part

if TYPE_CHECKING:
    from instep.optim.leaves import Leaf, Leaves


def complete(leaves: Sequence[Leaf], factory: Factory | None) -> list[Array]:
    """The averages that there are; new ones, copies of the parameters, where there are none."""
    new = NewArrays(factory)
    averages = [leaf.new_average(new) if leaf.average is None else leaf.average for leaf in leaves]
    new.check([pair for leaf in leaves for pair in leaf.written()])
    for leaf, average in zip(leaves, averages, strict=True):
        if leaf.average is None:
            average[...] = leaf.parameter
    return averages


def now(leaves: Leaves) -> list[tuple[Leaf, Array, Array | None]]:
    """Each leaf, what the rule updates, and its average: also within `swap_ema`, where these are
    in each other's place."""
    swapped = leaves.plan.exchanged
    return [
        (leaf, leaf.average, leaf.parameter)
        if swapped and leaf.average is not None and leaf.average.dtype == leaf.parameter.dtype
        else (leaf, leaf.parameter, leaf.average)
        for leaf in leaves.all
    ]


def check_warmup(warmup: bool, decay: Any) -> None:
    """Refuse a warmup of nothing."""
    if warmup and decay is None:
        raise ValueError(
            "ema_warmup=True needs ema_decay, which would be None; set ema_decay, or "
            "ema_warmup=False first"
        )


class AveragingOption(Option):
    """A decay; setting it makes the averages, or drops them."""

    def __set__(self, instance: Any, value: Any) -> None:
        value = self.checked(value)
        check_warmup(instance._ema_warmup, value)
        instance._keep_averages(value is not None)
        super().__set__(instance, value)


class WarmupOption(Option):
    """A flag that needs a decay."""

    def __set__(self, instance: Any, value: Any) -> None:
        check_warmup(self.checked(value), instance._ema_decay)
        super().__set__(instance, value)


class Averages(Part):
    """What every optimizer offers for moving averages."""

    ema_decay = AveragingOption(_check.number_or_schedule(_check.fraction))
    ema_warmup = WarmupOption(_check.flag, optional=False)

    _ema_decay: Any
    _ema_warmup: bool

    @property
    def ema(self) -> Any:
        """Moving averages of the parameters, nested like them; None while `ema_decay` is None.

        The arrays are the ones the step updates. They start as copies of the parameters when
        `ema_decay` is set, and follow parameters without a gradient too. Those of float16 and
        bfloat16 parameters are float32, averages of their masters.
        """
        with self._steady.lock:
            averages = [leaf.average for leaf in self._leaves.all if leaf.average is not None]
            return self._nested(averages) if averages else None

    def swap_ema(self) -> _core.Exchange:
        """``with opt.swap_ema():`` exchange parameters and averages, in place, for an evaluation.

        At the end, also of one that raises, they are exchanged back. Meanwhile `ema` shows the
        parameters' values, `state_dict` saves what it would save without, and nothing else may
        happen to the optimizer. A float16 or bfloat16 parameter shows its average rounded; if it
        has no master, `ema` goes on showing its average.

        Raises
        ------
        ValueError
            There are no averages (`ema_decay` is None), or a parameter is read-only. Nothing has
            been exchanged.
        RuntimeError
            Within a step or another `swap_ema`. Within this one: `step`, `load_state_dict`,
            `add_param_group`, `refresh_master`, a copy or pickle, and switching the averages off.

        Examples
        --------
        >>> import numpy as np, instep
        >>> w = np.zeros(2)
        >>> opt = instep.SGD(w, lr=1.0, ema_decay=0.75)
        >>> opt.step(np.full(2, -8.0)).applied
        True
        >>> with opt.swap_ema():
        ...     print(w)
        [2. 2.]
        >>> w
        array([8., 8.])
        """
        return _core.Exchange(self._steady, self._to_exchange, self._threads or 0)

    def _to_exchange(self) -> _core.Plan:
        self._refuse_within("swap_ema()")
        if not self._leaves.averaged:
            raise ValueError("there are no averages to swap; set ema_decay first")
        for leaf in self._leaves.all:
            if not (leaf.given.flags.writeable and leaf.parameter.flags.writeable):
                raise ValueError(
                    f"{leaf.path} is read-only, and swap_ema() writes its average into it; make it "
                    "writable for the with block"
                )
        return self._leaves.plan

    def _keep_averages(self, on: bool) -> None:
        with self._steady.lock:
            if on != self._leaves.averaged:
                with self._changing("a switch of ema_decay"):
                    self._leaves.average(on)

    def _decay(self, step: int) -> Any:
        """The decay of the averages at the 0-based step."""
        decay = self._ema_decay
        if decay is None:
            return None
        if callable(decay):
            decay = _check.scheduled(_check.fraction, "ema_decay", decay, step)
        return min(decay, (1 + step) / (10 + step)) if self._ema_warmup else decay
