"""Stochastic gradient descent."""

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from instep import _check
from instep.optim.base import Optimizer
from instep.optim.groups import Check, Values
from instep.optim.options import StepOptions


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum, dampening and Nesterov's step.

    .. math::
        g &\leftarrow g + \lambda \theta \\
        b &\leftarrow \mu b + (1 - \tau) g \qquad (b = g \text{ at the first gradient}) \\
        \theta &\leftarrow \theta - \gamma\, b
            \qquad (\text{Nesterov: } \theta - \gamma (g + \mu b))

    with learning rate :math:`\gamma`, momentum :math:`\mu`, dampening :math:`\tau` and weight
    decay :math:`\lambda` (L2). Without momentum :math:`\theta \leftarrow \theta - \gamma g`.
    Formula, names and defaults are those of ``torch.optim.SGD``.

    Parameters
    ----------
    params : tree of arrays, or list of dicts
        float32, float64, float16 or ml_dtypes.bfloat16 arrays in any nesting of dict, list and
        tuple, updated in place; or a list of groups ``{"params": tree, "lr": ...}``. float16 and
        bfloat16 ones are the rounded values of float32 masters, see `master`.
    lr, momentum, dampening, weight_decay : float or schedule
        Defaults 1e-3, 0, 0, 0. A schedule is any callable of the 0-based step.
    nesterov : bool, default False
        Needs momentum and zero dampening.
    maximize : bool, default False
        Ascend instead of descend.
    clip_norm : float or schedule, optional
        Scale all gradients by ``clip_norm / norm`` where their global L2 norm (in float64, over
        all groups) is larger. Exactly: nothing is added to the norm.
    clip_value : float or schedule, optional
        Then clip each element to [-clip_value, clip_value].
    nonfinite : {"propagate", "skip", "raise"}
        What to do when a gradient is NaN or infinite: nothing; leave everything untouched and
        say so in the report; or raise FloatingPointError before anything is written.
    ema_decay : float or schedule, optional
        Keep moving averages of all parameters, ``average += (1 - ema_decay) * (param - average)``
        after each step, from copies of the parameters on; in [0, 1). See `ema` and `swap_ema`.
        Setting it to None drops them.
    ema_warmup : bool, default False
        Let the decay at the 0-based step t be at most ``(1 + t) / (10 + t)``, so that the averages
        soon forget the start. Needs `ema_decay`.
    zero_grads : bool, default False
        Zero the gradients in the pass that reads them, also in a step that is skipped. They must
        then be writable NumPy arrays that share no memory with themselves or each other.
    stats : bool, default False
        Measure norms of gradient, update and parameter, and the share of clipped elements, per
        group: `StepReport.stats`.
    threads : int, optional
        At most so many threads; None follows `instep.set_num_threads`. Never changes a bit.
    master : bool, default True
        Whether float16 and bfloat16 parameters have a float32 master, which the rule updates
        (see `master`). With False, a bfloat16 parameter is updated in place: computed in float32
        and rounded at random to one of the two nearest values, without bias, so that small steps
        arrive on average. float16 ones are then refused; others have no master in any case.
    state_factory : callable, optional
        ``state_factory(name, shape, dtype) -> array`` provides the arrays that the optimizer
        keeps, for example a `numpy.memmap` each, or arrays over shared memory: "W.exp_avg" for
        the state of "W", "W.master" for its master, "W.ema" for its average. The array has exactly
        this shape and dtype, is writable and has memory of its own; what it holds is written over.
        `shape` has the parameter's axes in the order of its memory, so that an array in C order
        is read and written from one end to the other. Masters are asked for when their parameter
        is added, averages then or when `ema_decay` is set, states at its first gradient or when
        they are loaded; nothing for empty parameters. What is loaded later is written into the
        same arrays. Copies and pickles of the optimizer have ordinary memory and no factory.
    state_dtype : {None, "float32", "bfloat16", "8bit"}
        How states are kept between steps. None: in the type computed in, float32, for float64
        parameters float64. "bfloat16" and "8bit" (int8 or uint8 and a float32 scale for each 128
        elements, "<state>_scale") take a half and a quarter of float32, rounded stochastically,
        without bias. Factories are asked for all of these arrays. Fixed from now on; see
        `decoded_state` and `load_state_dict`.
    seed : int, default 0
        Of the random bits that states, and bfloat16 parameters without a master, are rounded by;
        at least 0 and below 2**64. The same seed gives the same run, bit for bit. Optimizers with
        the same seed use the same bits.

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum in deep learning,
    ICML 2013.

    Examples
    --------
    >>> import numpy as np, instep
    >>> w = np.array([1.0, -2.0], dtype=np.float32)
    >>> opt = instep.SGD(w, lr=0.1, momentum=0.9)
    >>> opt.step(2 * w).applied
    True
    >>> w
    array([ 0.8, -1.6], dtype=float32)
    """

    hyperparameters: ClassVar[Mapping[str, Check]] = {
        "lr": _check.non_negative,
        "momentum": _check.non_negative,
        "dampening": _check.real,
        "weight_decay": _check.non_negative,
        "nesterov": _check.flag,
    }

    coefficients = ("l2", "lr", "momentum", "gain", "nesterov")

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: Any = 0,
        dampening: Any = 0,
        weight_decay: Any = 0,
        nesterov: bool = False,
        **options: Unpack[StepOptions],
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )
        super().__init__(params, defaults, **options)

    @staticmethod
    def _rule(values: Values, scheduled: frozenset[str]) -> str:
        with_momentum = values.get("momentum", 1) != 0
        undamped = "dampening" not in scheduled and values["dampening"] == 0
        accelerated = with_momentum or "momentum" in scheduled
        if values["nesterov"] and not (accelerated and undamped):
            raise ValueError(
                "nesterov=True needs momentum > 0 and dampening = 0, got "
                f"momentum={values.get('momentum', 'a schedule')!r}, "
                f"dampening={values.get('dampening', 'a schedule')!r}"
            )
        return "sgd_momentum" if with_momentum else "sgd"

    def _coefficients(self, values: Values) -> tuple[float, ...]:
        return (
            values["weight_decay"],
            values["lr"],
            values["momentum"],
            1.0 - values["dampening"],
            values["nesterov"],
        )
