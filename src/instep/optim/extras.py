"""What a step does besides the update: averages of the parameters, zeroed gradients, statistics."""

import math
from collections.abc import Sequence
from typing import Any

from instep import _check, _core
from instep.optim.groups import Group
from instep.optim.leaves import Leaves
from instep.optim.options import Option
from instep.optim.report import GroupStats


class AveragingOption(Option):
    """A decay; setting it makes the averages, or drops them."""

    def __set__(self, instance: Any, value: Any) -> None:
        value = self.checked(value)
        instance._keep_averages(value is not None)
        super().__set__(instance, value)


class Extras:
    """The options of these, and what is seen of them. A part of `Optimizer`."""

    ema_decay = AveragingOption(_check.number_or_schedule(_check.fraction))
    ema_warmup = Option(_check.flag, optional=False)
    zero_grads = Option(_check.flag, optional=False)
    stats = Option(_check.flag, optional=False)

    _ema_decay: Any
    _ema_warmup: bool
    _zero_grads: bool
    _stats: bool
    _threads: int | None
    _steady: _core.Steady
    _groups: list[Group]
    _leaves: Leaves

    # ---- averages --------------------------------------------------------------------------

    @property
    def ema(self) -> Any:
        """Moving averages of the parameters, nested like them; None while `ema_decay` is None.

        The arrays are the ones the step updates. They start as copies of the parameters when
        `ema_decay` is set, and follow parameters without a gradient too.
        """
        with self._steady.lock:
            if not self._leaves.averaged:
                return None
            return self._trees([leaf.average for leaf in self._leaves.all])

    def swap_ema(self) -> _core.Exchange:
        """``with opt.swap_ema():`` exchange parameters and averages, in place, for an evaluation.

        At the end, also of one that raises, they are exchanged back. Meanwhile `ema` shows the
        parameters' values, `state_dict` saves the averages as ever, and nothing else may happen
        to the optimizer.

        Raises
        ------
        ValueError
            There are no averages (`ema_decay` is None), or a parameter is read-only. Nothing has
            been exchanged.
        RuntimeError
            Within a step or another `swap_ema`. Within this one: `step`, `load_state_dict`,
            `add_param_group`, a copy or pickle, and switching the averages off.

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
        self._leaves.check_exchange()
        return self._leaves.plan

    def _keep_averages(self, on: bool) -> None:
        with self._steady.lock:
            if on != self._leaves.averaged:
                self._refuse_within("a switch of ema_decay")
                self._leaves.average(on)

    def _decay(self, step: int) -> Any:
        """The decay of the averages at the 0-based step."""
        decay = self._ema_decay
        if decay is None:
            return None
        if callable(decay):
            decay = _check.scheduled(_check.fraction, "ema_decay", decay, step)
        return min(decay, (1 + step) / (10 + step)) if self._ema_warmup else decay

    # ---- one step --------------------------------------------------------------------------

    def _prepare_extras(self, step: int) -> None:
        """Tell the core what else to do in the step."""
        decay, plan = self._decay(step), self._leaves.plan
        plan.zero_gradients = self._zero_grads
        plan.average_weight = 0.0 if decay is None else 1.0 - decay

    def _extras_stay(self) -> bool:
        """Will all later steps do what the last one did?"""
        decay, plan = self._ema_decay, self._leaves.plan
        if self._stats or self._zero_grads != plan.zero_gradients or callable(decay):
            return False
        if decay is None:
            return True
        return bool(plan.average_weight == 1.0 - decay == 1.0 - self._decay(self._steady.steps))

    def _group_stats(self, gradients: Sequence[Any]) -> tuple[GroupStats, ...]:
        """What a step that measured found."""
        measured, stats = self._leaves.plan.measured(), []
        for group in self._groups:
            gradient = update = parameter = 0.0
            clipped = elements = 0
            for i in group.leaves:
                gradient += measured[i][0]
                update += measured[i][1]
                parameter += measured[i][2]
                clipped += measured[i][3]
                elements += 0 if gradients[i] is None else gradients[i].size
            norms = math.sqrt(gradient), math.sqrt(update), math.sqrt(parameter)
            stats.append(GroupStats(*norms, clipped / elements if elements else 0.0))
        return tuple(stats)

    # ---- misuse ----------------------------------------------------------------------------

    def _trees(self, arrays: Sequence[Any]) -> Any:
        raise NotImplementedError

    def _refuse_within(self, what: str) -> None:
        """`what` must not happen in a step, nor in `swap_ema`."""
        if self._steady.stepping:
            raise RuntimeError(
                f"{what} was called within a step of the same optimizer, by a schedule or by what "
                "converts a gradient; call it between steps"
            )
        self._refuse_swapped(what)

    def _refuse_swapped(self, what: str) -> None:
        if self._leaves.plan.exchanged:
            raise RuntimeError(
                f"{what} was called within swap_ema(), where the parameters hold their averages; "
                "call it after the with block"
            )


def zero(gradients: Sequence[Any]) -> None:
    """As a step does: after one that was skipped."""
    for gradient in gradients:
        if gradient is not None:
            gradient[...] = 0
