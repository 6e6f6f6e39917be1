"""What a step returns."""

from typing import NamedTuple


class StepReport(NamedTuple):
    """What one step did.

    Attributes
    ----------
    step : int
        Steps applied so far, this one included.
    lr : float
        Learning rate of the first group in this step.
    applied : bool
        False if the step was skipped: nothing was written and no schedule advanced.
    grad_norm : float or None
        Global L2 norm of the gradients after unscaling, before clipping, summed in float64; None
        where neither `clip_norm` nor `nonfinite` asked for it.
    nonfinite : int or None
        How many gradient elements were NaN or infinite; None where not looked at.
    """

    step: int
    lr: float
    applied: bool
    grad_norm: float | None
    nonfinite: int | None
