"""What a step returns."""

from typing import NamedTuple


class GroupStats(NamedTuple):
    """What a step with ``stats=True`` measured in one group: norms over those of its parameters
    that had a gradient, summed in float64.

    Attributes
    ----------
    grad_norm : float
        L2 norm of the gradients after unscaling, before clipping.
    update_norm : float
        L2 norm of what the step added to the parameters, as they are stored.
    param_norm : float
        L2 norm of the parameters after the step.
    clipped : float
        Share of the gradients' elements that `clip_value` cut, from 0 to 1.

    Notes
    -----
    Nothing scales the squares: those of float64 numbers beyond 1e154 make a norm infinite, those
    of numbers below 1e-162 count as nothing. float32 has neither.
    """

    grad_norm: float
    update_norm: float
    param_norm: float
    clipped: float


class StepReport(NamedTuple):
    """What one step did.

    Attributes
    ----------
    step : int
        Steps applied so far, this one included.
    lr : float
        Learning rate of the first group in this step.
    applied : bool
        False if the step was skipped: nothing was written, except zeros where `zero_grads` asks
        for them, and no schedule advanced.
    grad_norm : float or None
        Global L2 norm of the gradients after unscaling, before clipping, summed in float64; None
        where neither `clip_norm` nor `nonfinite` asked for it.
    nonfinite : int or None
        How many gradient elements were NaN or infinite; None where not looked at.
    stats : tuple of GroupStats or None
        One per group with ``stats=True``; None otherwise, and after a skipped step.
    """

    step: int
    lr: float
    applied: bool
    grad_norm: float | None
    nonfinite: int | None
    stats: tuple[GroupStats, ...] | None = None
