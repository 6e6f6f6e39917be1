"""The optimizer: options, groups, the order of a step, the state. No math of a rule."""

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from instep import _check, _core, config
from instep._check import Array
from instep.optim.extras import Extras, zero
from instep.optim.forks import living
from instep.optim.groups import Check, Group, Values, is_group_list
from instep.optim.leaves import RULES, Leaves, given
from instep.optim.membership import Membership
from instep.optim.memory import Factory, FactoryOption, NewArrays
from instep.optim.norm import clips, count_unusable, gradient_norm, unusable
from instep.optim.options import Option
from instep.optim.precision import Masters
from instep.optim.report import StepReport
from instep.optim.state_dict import LoadReport, load, save
from instep.optim.storage import StoredStates

_NOT_GIVEN: Any = object()
_ONE = 1.0
_INFINITY = math.inf
_BEGUN = ("_steady", "_checks", "_groups", "_leaves", "_flatten_trees")


class Optimizer(Membership, Masters, Extras, StoredStates):
    """What all optimizers share. Use a subclass: `SGD`, `RMSprop`, `Adam`, `AdamW`.

    A subclass names its hyperparameters, chooses the update rule of a group and computes the
    rule's coefficients; everything else is here.
    """

    clip_norm = Option(_check.number_or_schedule(_check.non_negative))
    clip_value = Option(_check.number_or_schedule(_check.positive))
    nonfinite = Option(_check.nonfinite_policy, optional=False)
    threads = Option(_check.thread_count)
    state_factory = FactoryOption(_check.array_factory)

    # Hyperparameters of a group: name -> check. `maximize` is added to all.
    hyperparameters: ClassVar[Mapping[str, Check]] = {}
    # What `_coefficients` returns, in order: what csrc/kernels.def lists for the rules between
    # gradient_scale and gradient_limit, which are computed here, and those derived in the core.
    coefficients: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        maximize: bool = False,
        clip_norm: Any = None,
        clip_value: Any = None,
        nonfinite: str = "propagate",
        ema_decay: Any = None,
        ema_warmup: bool = False,
        zero_grads: bool = False,
        stats: bool = False,
        threads: int | None = None,
        state_factory: Factory | None = None,
        master: bool = True,
        state_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        self._clip_norm: Any
        self._clip_value: Any
        self._nonfinite: str
        self.defaults = {**defaults, "maximize": maximize}
        self._buffers: list[Array] | None = None
        self._masters = _check.flag("master", master)
        self._listed = is_group_list(params)
        self._state_dtype = _check.state_dtype("state_dtype", state_dtype)
        groups = params if self._listed else [{"params": params}]
        factory = type(self).state_factory.checked(state_factory)
        self._steady = _core.Steady(threading.RLock())
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.nonfinite = nonfinite
        self.threads = threads
        self.seed = seed
        self._set_extras(ema_decay, ema_warmup, zero_grads, stats)
        self._begin(groups, factory)  # the factory's arrays are written: last
        self.ema_decay = ema_decay

    def _begin(self, groups: Sequence[Any], factory: Factory | None = None) -> None:
        self._checks = {**self.hyperparameters, "maximize": _check.flag}
        self._groups: list[Group] = []
        self._leaves = Leaves(factory, self._state_dtype, self._masters)
        self._append_groups(groups)
        living.add(self)

    def __init_subclass__(cls) -> None:
        """Refuse coefficients that are not, name for name, what the core's rules read."""
        super().__init_subclass__()
        if cls.coefficients not in map(given, RULES):
            raise TypeError(f"{cls.__name__}.coefficients are no rule's: {cls.coefficients}")

    # ---- what a subclass defines -----------------------------------------------------------

    @staticmethod
    def _rule(values: Values, scheduled: frozenset[str]) -> str:
        """Check combinations of values; return the name of the update rule.

        Called with the constants alone (`values` lacks what is `scheduled`) when they change, and
        with all values before each step of a schedule."""
        raise NotImplementedError

    def _coefficients(self, values: Values) -> tuple[float, ...]:
        """The coefficients of the rule; csrc/coefficients.c adds what depends on the step."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Steps applied so far."""
        return self._steady.steps

    # ---- gradients -------------------------------------------------------------------------

    @property
    def grads(self) -> Any:
        """Gradient buffers nested like the parameters, zero at first.

        Made on first use; backward code may write into them (``out=``), and `step` without
        arguments then uses them. float32 for float16 and bfloat16 parameters.
        """
        with self._steady.lock:
            if self._buffers is None:
                new = NewArrays(None)
                self._buffers = [leaf.new_gradient(new) for leaf in self._leaves.all]
            return self._nested(self._buffers)

    def _flatten(self, grads: Any) -> list[Any]:
        if grads is _NOT_GIVEN:
            if self._buffers is None:
                raise ValueError(
                    "step() without gradients needs opt.grads to have been used; pass the "
                    "gradients, or write them into opt.grads first"
                )
            return self._buffers
        if grads is None:
            raise TypeError("grads is None; pass gradients nested like the parameters")
        return self._flatten_trees(grads, "grads")

    # ---- the step --------------------------------------------------------------------------

    def step(self, grads: Any = _NOT_GIVEN, *, grad_scale: float = _ONE) -> StepReport:
        """Update the parameters in place.

        All checks come first: a step happens whole or not at all.

        Parameters
        ----------
        grads : tree of arrays, optional
            Nested like the parameters (with several groups: a list of such trees). Any float
            dtype, any strides, read-only and broadcast arrays too; never converted in place.
            With `zero_grads` writable arrays, which are zeroed.
            None stands for a parameter without gradient, which then takes no part. Without
            `grads`, the buffers of `opt.grads` are used.
        grad_scale : float, default 1.0
            What the gradients were multiplied by (loss scaling, number of accumulated batches);
            they are divided by it.

        Returns
        -------
        StepReport

        Raises
        ------
        TypeError, ValueError
            A gradient that does not fit, a bad hyperparameter. Nothing has been written.
        FloatingPointError
            A gradient is NaN or infinite and ``nonfinite="raise"``. Nothing has been written.
        RuntimeError
            Called by a schedule of this optimizer in its step, or within its `swap_ema`. Nothing
            has been written.
        """
        flat = None
        if grad_scale is _ONE and grads is not _NOT_GIVEN:
            done = self._steady.take(grads)
            if type(done) is StepReport:
                return done
            flat = done
        return self._locked_step(grads, flat, grad_scale, None)

    def _locked_step(
        self, grads: Any, flat: list[Any] | None, grad_scale: float, policy: str | None
    ) -> StepReport:
        """The long way, one at a time. `policy` stands for `nonfinite` in this step, if given."""
        steady = self._steady
        with steady.lock:
            self._refuse_within("step()")
            try:
                steady.stepping = True
                steady.close()
                if flat is not None and len(flat) != len(self._leaves.all):
                    flat = None  # another thread added a group
                return self._step(grads, flat, grad_scale, policy or self._nonfinite)
            finally:
                steady.stepping = False

    def _step(
        self, grads: Any, flat: list[Any] | None, grad_scale: float, policy: str
    ) -> StepReport:
        """`flat`: the leaves of `grads`, if they have been collected."""
        step = self.steps
        for group in self._groups:
            if group.scheduled or group.options.changed:
                group.advance(step)
        lr = self._groups[0].values["lr"]
        clip_norm, limit = clips(self._clip_norm, self._clip_value, step)
        if type(grad_scale) is not float or grad_scale != 1.0:
            grad_scale = _check.divisor("grad_scale", grad_scale)
        self._prepare_extras(step)
        threads = self._threads or config.get_num_threads()
        gradients = self._leaves.bind(self._flatten(grads) if flat is None else flat)

        scale = unscale = 1.0 / grad_scale
        norm = bad = None
        if clip_norm is not None or policy != "propagate":
            raw_norm, bad = gradient_norm(self._leaves, gradients, threads)
            norm = raw_norm * unscale
            if clip_norm is not None and not norm <= clip_norm:
                scale = unscale * (clip_norm / norm)  # NaN stays NaN: it is to be seen
            if policy != "propagate":
                largest = raw_norm * scale if limit is None else min(raw_norm * scale, limit)
                counts = count_unusable(self._leaves, gradients, scale, largest, bad)
                bad = sum(counts)
                if bad and policy == "raise":
                    raise unusable(self._leaves, counts)
                if bad:
                    if self._leaves.plan.zero_gradients:
                        zero(gradients)
                    return StepReport(step, lr, False, norm, bad)

        leaves = self._leaves
        leaves.hand_over(self._coefficients, gradients)
        leaves.plan.seed = self._seed
        ceiling = _INFINITY if limit is None else limit
        measure = self._stats
        self._steady.step(leaves.plan, scale, ceiling, threads, unscale if measure else 0.0)
        stats = self._group_stats(gradients) if measure else None
        if clip_norm is None and limit is None and policy == "propagate":
            self._open_steady()
        return _report(StepReport, (step + 1, lr, True, norm, bad, stats))

    def _open_steady(self) -> None:
        """Let the next step take the short way, if it will be like this one."""
        if self._leaves.partial:
            return
        for group in self._groups:
            if group.scheduled:
                return
        options = [group.options for group in self._groups]
        flat = not self._listed and self._groups[0].structure.flat_list
        lr, threads = self._groups[0].values["lr"], self._threads
        plan, flatten = self._leaves.plan, self._flatten_trees
        self._steady.open(plan, options, flatten, flat, StepReport, lr, threads or 0)
        # What another thread sets after this look at it closes the way itself.
        now = self._clip_norm, self._clip_value, self._nonfinite, self._threads, self._seed
        if now != (None, None, "propagate", threads, plan.seed) or not self._extras_stay():
            self._steady.close()

    # ---- state -----------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """Per parameter name: "step" and the state arrays by PyTorch's names.

        The arrays are the ones the step updates; parameters that have had no gradient yet are
        left out, as in PyTorch. With `state_dtype` "8bit" they are codes, beside their scales:
        `decoded_state` has the values.
        """
        with self._steady.lock:
            steps = self._leaves.steps()
            return {
                leaf.name: {"step": steps[i], **leaf.state}
                for i, leaf in enumerate(self._leaves.all)
                if leaf.state or steps[i]
            }

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """A snapshot of states, masters, averages, counts and hyperparameters, by parameter name.

        Arrays are copies, and so is what a `ReduceOnPlateau` has observed: later steps and
        metrics do not change it. Picklable if the schedules are.

        Parameters
        ----------
        copy : bool, default True
            With False, the arrays are those that the step updates.

        Raises
        ------
        TypeError, ValueError
            A bad change of `param_groups`, which the next step would refuse too.
        """
        return save(self, copies=_check.flag("copy", copy))

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Continue from a snapshot; its hyperparameters and schedules replace the present ones.

        Masters are loaded, and written, rounded, to float16 and bfloat16 parameters; other
        parameters are not part of a snapshot. What a `state_factory` gave is written over. States
        of another `state_dtype` or memory order are converted. A snapshot that is older than
        `ema_decay`, `ema_warmup`, `zero_grads` and `seed` leaves these as they are.

        A `ReduceOnPlateau` that the optimizer has stays the object that it is and takes over what
        the one in its place had observed; parameters other than that one's are an error. Where
        the optimizer has none in its place, it gets one of its own, found in `param_groups`.

        Parameters
        ----------
        state : dict
            As `state_dict` returned it, of an optimizer of the same class and groups.
        strict : bool, default True
            Whether names must match exactly. With False, what matches is loaded: parameters that
            the snapshot does not know keep their state and step count, states without a
            parameter are left out, and both are reported; so is a master that one side alone
            has, and an average that is missing, which starts anew as a copy of the parameter.
            Hyperparameters, options and `steps` are the snapshot's in any case.

        Returns
        -------
        LoadReport
            ``missing`` and ``unexpected`` parameter names, ``"<name>.master"``, ``"<name>.ema"``.

        Raises
        ------
        TypeError, ValueError
            What does not fit. Nothing has been changed.
        """
        return load(self, state, strict)

    def __getstate__(self) -> tuple[Any, ...]:
        """For pickle and copy: with the parameters, in contrast to `state_dict`."""
        with self._steady.lock:
            self._refuse_swapped("a copy")
            state = self.state_dict()
            groups = [dict(group.options) for group in self._groups]
            rest = {name: v for name, v in vars(self).items() if name not in _BEGUN}
            return rest, groups, state

    def __setstate__(self, saved: tuple[Any, ...]) -> None:
        rest, groups, state = saved
        vars(self).update(rest)
        self._steady = _core.Steady(threading.RLock())
        self._begin(groups)
        load(self, state, strict=True, publishing=False)  # the parameters come as they were

    def __copy__(self) -> Self:
        """For ``copy.copy``: shares the parameters alone, which both then update. A float16 or
        bfloat16 one has a master in each, which does not see the steps of the other."""
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        if other._buffers is not None:
            other._buffers = [np.array(buffer, order="K") for buffer in other._buffers]
        return other


_report = tuple.__new__  # StepReport without the cost of keyword handling
