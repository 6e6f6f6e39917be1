"""RMSprop."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from instep import _check
from instep.optim.base import Optimizer
from instep.optim.groups import Check, Values
from instep.optim.options import StepOptions


class RMSprop(Optimizer):
    r"""RMSprop, optionally centred and with momentum.

    .. math::
        g &\leftarrow g + \lambda \theta \\
        v &\leftarrow \alpha v + (1 - \alpha) g^2 \\
        a &\leftarrow \alpha a + (1 - \alpha) g \qquad (\text{centred; else } a = 0) \\
        u &= g / (\sqrt{\max(v - a^2, 0)} + \epsilon) \\
        \theta &\leftarrow \theta - \gamma u
            \qquad (\text{momentum: } b \leftarrow \mu b + u,\ \theta - \gamma b)

    Formula, names and defaults are those of ``torch.optim.RMSprop``, except that the centred
    variance is clamped at 0: PyTorch's goes below by rounding and yields NaN.

    Parameters
    ----------
    params : tree of arrays, or list of dicts
        float32, float64, float16 or ml_dtypes.bfloat16 arrays in any nesting of dict, list and
        tuple, updated in place; or a list of groups ``{"params": tree, "lr": ...}``. float16 and
        bfloat16 ones are the rounded values of float32 masters, see `master`.
    lr, alpha, eps, weight_decay, momentum : float or schedule
        Defaults 1e-2, 0.99, 1e-8, 0, 0. A schedule is any callable of the 0-based step.
        `alpha` is the decay of the averages, in [0, 1).
    centered : bool, default False
        Divide by the standard deviation instead of the root mean square. Not with states in
        "bfloat16" or "8bit", of which the difference of two would be noise.
    maximize, clip_norm, clip_value, nonfinite, threads, state_factory
        As in `SGD`.
    ema_decay, ema_warmup, zero_grads, stats, state_dtype, seed
        As in `SGD`.

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, Coursera 2012. Centred: Graves, arXiv:1308.0850.

    Examples
    --------
    >>> import numpy as np, instep
    >>> w = np.array([1.0, -2.0])
    >>> opt = instep.RMSprop(w, lr=0.01)
    >>> opt.step(2 * w).step
    1
    """

    hyperparameters: ClassVar[Mapping[str, Check]] = {
        "lr": _check.non_negative,
        "alpha": _check.fraction,
        "eps": _check.non_negative,
        "weight_decay": _check.non_negative,
        "momentum": _check.non_negative,
        "centered": _check.flag,
    }

    coefficients = ("l2", "lr", "alpha", "one_minus_alpha", "eps", "momentum")

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: Any = 0.99,
        eps: Any = 1e-8,
        weight_decay: Any = 0,
        momentum: Any = 0,
        centered: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        defaults = dict(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )
        super().__init__(params, defaults, **options)

    @staticmethod
    def _rule(values: Values, scheduled: frozenset[str]) -> str:
        with_momentum = values.get("momentum", 1) != 0
        rule = "rmsprop_centered" if values["centered"] else "rmsprop"
        return rule + "_momentum" if with_momentum else rule

    def _coefficients(self, values: Values) -> tuple[float, ...]:
        alpha = values["alpha"]
        return (
            values["weight_decay"],
            values["lr"],
            alpha,
            1.0 - alpha,
            values["eps"],
            values["momentum"],
        )
