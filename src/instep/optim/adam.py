"""Adam and AdamW."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from instep import _check
from instep.optim.base import Optimizer
from instep.optim.groups import Check, Values
from instep.optim.options import StepOptions


class Adam(Optimizer):
    r"""Adam, optionally with AMSGrad's maximum.

    .. math::
        g &\leftarrow g + \lambda \theta \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \hat m &= m / (1 - \beta_1^t), \qquad \hat v = v / (1 - \beta_2^t) \\
        \theta &\leftarrow \theta - \gamma\, \hat m / (\sqrt{\hat v} + \epsilon)

    :math:`t` counts the gradients of each parameter by itself: one that gets its first gradient
    late starts its own bias correction then. AMSGrad keeps the maximum of the uncorrected
    :math:`v` and uses it in place of :math:`v`. Formula, names and defaults are those of
    ``torch.optim.Adam``; weight decay is L2, see `AdamW` for the decoupled one.

    Parameters
    ----------
    params : tree of arrays, or list of dicts
        float32, float64, float16 or ml_dtypes.bfloat16 arrays in any nesting of dict, list and
        tuple, updated in place; or a list of groups ``{"params": tree, "lr": ...}``. float16 and
        bfloat16 ones are the rounded values of float32 masters, see `master`.
    lr, eps, weight_decay : float or schedule
        Defaults 1e-3, 1e-8, 0. A schedule is any callable of the 0-based step.
    betas : pair of float or schedule
        Decay of the two averages, each in [0, 1), default (0.9, 0.999).
    amsgrad : bool, default False
        Never let the step grow because :math:`v` shrinks.
    maximize, clip_norm, clip_value, nonfinite, threads, state_factory
        As in `SGD`.
    ema_decay, ema_warmup, zero_grads, stats, state_dtype, seed
        As in `SGD`.

    References
    ----------
    Kingma and Ba, Adam: A Method for Stochastic Optimization, arXiv:1412.6980.
    Reddi, Kale and Kumar, On the Convergence of Adam and Beyond, arXiv:1904.09237.

    Examples
    --------
    >>> import numpy as np, instep
    >>> params = {"W": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    >>> opt = instep.Adam(params, lr=1e-3)
    >>> opt.step({"W": np.ones((2, 3), np.float32), "b": None}).applied
    True
    """

    hyperparameters: ClassVar[Mapping[str, Check]] = {
        "lr": _check.non_negative,
        "betas": _check.fraction,
        "eps": _check.non_negative,
        "weight_decay": _check.non_negative,
        "amsgrad": _check.flag,
    }

    _decoupled = False  # weight decay acts on the parameter, not on the gradient
    coefficients = (
        "l2",
        "decay",
        "beta1",
        "one_minus_beta1",
        "beta2",
        "one_minus_beta2",
        "eps",
        "lr",
    )

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0,
        amsgrad: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        super().__init__(params, defaults, **options)

    @staticmethod
    def _rule(values: Values, scheduled: frozenset[str]) -> str:
        return "adam_amsgrad" if values["amsgrad"] else "adam"

    def _coefficients(self, values: Values) -> tuple[float, ...]:
        lr, weight_decay = values["lr"], values["weight_decay"]
        beta1, beta2 = values["betas"]
        return (
            0.0 if self._decoupled else weight_decay,
            lr * weight_decay if self._decoupled else 0.0,
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            values["eps"],
            lr,
        )


class AdamW(Adam):
    r"""Adam with decoupled weight decay.

    .. math::
        \theta &\leftarrow (1 - \gamma \lambda)\, \theta \\
        \theta &\leftarrow \theta - \gamma\, \hat m / (\sqrt{\hat v} + \epsilon)

    with the averages of `Adam`, which here do not see the decay. Formula, names and defaults are
    those of ``torch.optim.AdamW``.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad
        As in `Adam`.
    maximize, clip_norm, clip_value, nonfinite, threads, state_factory
        As in `SGD`.
    ema_decay, ema_warmup, zero_grads, stats, state_dtype, seed
        As in `SGD`.
    weight_decay : float or schedule, default 1e-2
        :math:`\lambda`; what is subtracted is ``lr * weight_decay * param``.

    References
    ----------
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101.

    Examples
    --------
    >>> import numpy as np, instep
    >>> w = np.ones(3, np.float32)
    >>> opt = instep.AdamW(w, lr=instep.schedules.CosineAnnealing(3e-3, 2000), clip_norm=1.0)
    >>> opt.step(np.full(3, 2.0, np.float32)).grad_norm
    3.4641016151377544
    """

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)
