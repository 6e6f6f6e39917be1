"""What a step does besides the update: averages of the parameters, zeroed gradients, statistics."""

import math
from collections.abc import Sequence
from typing import Any

from instep import _check
from instep.optim.averages import Averages
from instep.optim.options import Option
from instep.optim.report import GroupStats


class Extras(Averages):
    """The options of these, and what they are in a step."""

    zero_grads = Option(_check.flag, optional=False)
    stats = Option(_check.flag, optional=False)

    _zero_grads: bool
    _stats: bool

    def _set_extras(self, ema_decay: Any, ema_warmup: bool, zero_grads: bool, stats: bool) -> None:
        """No averages yet: they need leaves."""
        self.zero_grads = zero_grads
        self.stats = stats
        self._ema_decay = type(self).ema_decay.checked(ema_decay)
        self.ema_warmup = ema_warmup

    def _prepare_extras(self, step: int) -> None:
        """Tell the core what else to do in the 0-based step."""
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


def zero(gradients: Sequence[Any]) -> None:
    """As a step does: after one that was skipped."""
    for gradient in gradients:
        if gradient is not None:
            gradient[...] = 0
