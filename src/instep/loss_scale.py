"""Dynamic loss scaling: float16 gradients kept between underflow and overflow."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from instep import _check
from instep.optim.base import _NOT_GIVEN, Optimizer
from instep.optim.report import StepReport
from instep.schedules._check import at_least, finite

VERSION = 1
# Arrays of up to 32 bits are scaled in float32: there a scale must be finite and normal.
_LEAST, _MOST = 2.0**-126, 2.0**127


class _Settings(NamedTuple):
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    min_scale: float
    max_scale: float


_KEYS = ("version", "scale", "growth_tracker", *_Settings._fields)


class LossScaler:
    """Scale the gradients of a float16 backward pass, and find the scale while training.

    float16 loses what is below 6e-8, and the gradients of a trained network are often smaller.
    Multiplied by a large number at the start of the backward pass they are not, and the optimizer
    divides by that number in the float32 of the parameters. The number halves when a gradient
    overflows, whose step is skipped, and doubles after many steps in which none did.

    Parameters
    ----------
    init_scale : float, default 65536.0
        The scale at first.
    growth_factor : float, default 2.0
        What the scale is multiplied by when it grows; greater than 1.
    backoff_factor : float, default 0.5
        What it is multiplied by after a skipped step; between 0 and 1.
    growth_interval : int, default 2000
        Updates in a row without a skipped step after which it grows.
    min_scale : float, default 1.0
        It never falls below, so that a burst of NaN does not end in gradients of zero.
    max_scale : float, default 2.0**32
        It never rises above, so that a time of zero gradients does not end in a scale from which it
        takes many skipped steps to come down. Both lie between 2**-126 and 2**127.
    enabled : bool, default True
        With False the scale is 1, nothing is counted, and `step` is the optimizer's own.

    Attributes
    ----------
    growth_tracker : int
        Updates without a skipped step since the scale last grew or was backed off. It can only be
        read, and so can the settings, by their names above.

    Raises
    ------
    TypeError, ValueError
        A setting of the wrong kind or out of its range.

    Notes
    -----
    Names, defaults and rules are those of PyTorch's ``GradScaler``, except for:

    - `step` is one call: it calls `update` itself. For several optimizers in one iteration pass
      ``update=False`` to each `step` and call `update` once after the last, as in PyTorch; if one
      of them was skipped, the scale is backed off.
    - There is no ``unscale_``: `clip_norm` and `clip_value` act on unscaled gradients anyway.
    - The scale has bounds.
    - An iteration has to look at the scale, with `scale` or `value`, before it steps. Gradients
      that were scaled before an update, and would now be divided by another number, are refused.

    A skipped step has ``applied=False`` in its `StepReport`. Parameters and states stay as they
    are, `steps` does not count it, and no schedule advances: the next step is taken with the same
    learning rate. The first steps of a training are often skipped, until the scale fits. At
    `min_scale` a skipped step means that the gradients overflow by themselves.

    Scale before anything underflows: best the float32 gradient of a loss taken on float32 outputs,
    which is rounded to float16 afterwards, ``scaler.scale(delta).astype(np.float16)``.

    With the default settings the scale is a power of two. Then scaling and unscaling round
    nothing that is in range, and a step has the bits of an unscaled one wherever no gradient was
    too small or too large.

    One thread at a time; only ``step(..., update=False)`` with different optimizers may be called
    from several.

    Examples
    --------
    >>> import numpy as np
    >>> import instep
    >>> W = np.zeros(2, np.float32)
    >>> opt = instep.SGD({"W": W}, lr=1.0)
    >>> scaler = instep.LossScaler()
    >>> delta = np.array([2**-20, 0.5], np.float16)  # of the loss with respect to the outputs
    >>> def backward(delta):
    ...     return {"W": delta * np.float16(2**-7)}
    >>> backward(delta)["W"]  # 2**-27 is 0 in float16
    array([0.      , 0.003906], dtype=float16)
    >>> report = scaler.step(opt, backward(scaler.scale(delta)))
    >>> report.applied, W
    (True, array([-7.450581e-09, -3.906250e-03], dtype=float32))
    >>> with np.errstate(over="ignore"):
    ...     report = scaler.step(opt, backward(scaler.scale(delta) * np.float16(1000)))
    >>> report.applied, report.nonfinite, report.step, scaler.value
    (False, 1, 1, 32768.0)
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        *,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        min_scale: float = 1.0,
        max_scale: float = 2.0**32,
        enabled: bool = True,
    ) -> None:
        self._settings = _checked_settings(
            _Settings(growth_factor, backoff_factor, growth_interval, min_scale, max_scale)
        )
        self._value = _checked_scale("init_scale", init_scale, self._settings)
        self._enabled = _check.flag("enabled", enabled)
        self._growth_tracker = 0
        self._start_iteration()

    def _start_iteration(self) -> None:
        self._looked_at = False  # was the scale asked for
        self._stepped = False
        self._skipped = False

    growth_factor = property(attrgetter("_settings.growth_factor"))
    backoff_factor = property(attrgetter("_settings.backoff_factor"))
    growth_interval = property(attrgetter("_settings.growth_interval"))
    min_scale = property(attrgetter("_settings.min_scale"))
    max_scale = property(attrgetter("_settings.max_scale"))
    enabled = property(attrgetter("_enabled"))
    growth_tracker = property(attrgetter("_growth_tracker"))

    @property
    def value(self) -> float:
        """The scale at present, 1.0 if not enabled."""
        self._looked_at = True
        return self._value if self._enabled else 1.0

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self._settings._asdict().items())
        state = f"scale={self._value!r}, growth_tracker={self._growth_tracker}"
        return f"LossScaler({state}, {settings}, enabled={self._enabled})"

    # ---- an iteration ----------------------------------------------------------------------

    def scale(self, gradient: Any, *, out: Any = None) -> Any:
        """Multiply by the scale what the backward pass starts from.

        A float16 array times `value` would be NaN or infinite: NumPy makes the factor float16 too,
        which ends at 65504. Here float16 and bfloat16 are multiplied in float32 and rounded once.

        Parameters
        ----------
        gradient : array or number
            Of the loss with respect to the outputs; or the loss itself where a backward pass
            starts from that. Any shape and float dtype. It is not changed.
        out : array, optional
            Where to write the product, of the same shape and dtype; may be `gradient` itself.

        Returns
        -------
        array or number
            gradient * value in the dtype of `gradient`; infinite where it overflows. `out`, if
            given.

        Raises
        ------
        TypeError, ValueError
            `gradient` is not floating-point, or `out` does not fit. Nothing has been written.
        """
        if isinstance(gradient, int | float) and not isinstance(gradient, bool | np.generic):
            if out is None:
                return gradient * self.value
        elif isinstance(gradient, tuple | list | dict):
            raise TypeError(
                f"scale() takes one array, got {type(gradient).__name__}; pass the gradient of a "
                "loss (its .grad), before the backward pass makes many of it"
            )
        array = _check.gradient("gradient", gradient)
        result = np.empty_like(array) if out is None else _checked_out(out, array)
        wide = array.dtype if array.dtype.itemsize > 4 else np.float32
        with np.errstate(over="ignore", under="ignore"):  # the step looks for what overflows
            np.multiply(array, self.value, out=result, dtype=wide, casting="unsafe")
        return result[()] if isinstance(gradient, np.generic) and out is None else result

    def step(
        self,
        optimizer: Optimizer,
        grads: Any = _NOT_GIVEN,
        *,
        grad_scale: float = 1.0,
        update: bool = True,
    ) -> StepReport:
        """Unscale the gradients and update the parameters, or skip the step; then `update`.

        Parameters
        ----------
        optimizer : Optimizer
            With ``nonfinite="propagate"`` or ``"skip"``: gradients with NaN or infinity are skipped
            either way.
        grads : tree of arrays, optional
            Scaled gradients, as in the optimizer's `step`; without them, the buffers of
            `optimizer.grads`.
        grad_scale : float, default 1.0
            What else the gradients were multiplied by, say the number of accumulated batches.
        update : bool, default True
            Whether this was the last step of the iteration. With False, call `update` after it.

        Returns
        -------
        StepReport
            Of the optimizer; ``applied=False`` and the number of ``nonfinite`` elements if skipped.

        Raises
        ------
        TypeError, ValueError
            What the optimizer's `step` refuses, or an optimizer with ``nonfinite="raise"``.
        RuntimeError
            The scale was not looked at since the last update. In all cases nothing has been
            written, neither to the optimizer nor to the scaler.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be one of instep's, got {type(optimizer).__name__} "
                f"({optimizer!r:.60})"
            )
        update = _check.flag("update", update)
        if not self._enabled:
            return optimizer.step(grads, grad_scale=grad_scale)
        if optimizer.nonfinite == "raise":
            raise ValueError(
                "the optimizer has nonfinite='raise', which would stop at the overflows that a "
                "LossScaler skips; set optimizer.nonfinite = 'skip'"
            )
        if not self._looked_at:
            raise RuntimeError(
                "the gradients were not scaled since the last update(): neither scale() nor value "
                "was used, and the scale may have changed. Scale in every iteration; with several "
                "optimizers in one, pass update=False to each step() and call update() once"
            )
        grad_scale = _check.positive("grad_scale", grad_scale)
        report = optimizer._locked_step(grads, None, self._value * grad_scale, "skip")
        if not report.applied:
            self._skipped = True
        self._stepped = True
        if update:
            self.update()
        return report

    def update(self) -> None:
        """End an iteration whose steps were taken with ``update=False``: adapt the scale.

        scale ← max(scale · backoff_factor, min_scale) if a step since the last update was skipped;
        scale ← min(scale · growth_factor, max_scale) if none was in `growth_interval` updates.

        Raises
        ------
        RuntimeError
            No step was taken since the last update. Nothing has changed.
        """
        if not self._enabled:
            return
        if not self._stepped:
            raise RuntimeError(
                "update() without a step since the last one; step() calls it by itself unless it "
                "is given update=False"
            )
        settings = self._settings
        if self._skipped:
            self._value = max(self._value * settings.backoff_factor, settings.min_scale)
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == settings.growth_interval:
                self._value = min(self._value * settings.growth_factor, settings.max_scale)
                self._growth_tracker = 0
        self._start_iteration()

    # ---- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Scale, growth tracker and settings: numbers only, so JSON keeps them exactly.

        `enabled` is left out: a training may go on with another dtype.

        Raises
        ------
        RuntimeError
            Between a step with ``update=False`` and its `update`.
        """
        if self._stepped:
            raise RuntimeError("state_dict() within an iteration; call update() first")
        return {
            "version": VERSION,
            "scale": self._value,
            "growth_tracker": self._growth_tracker,
            **self._settings._asdict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot; its settings replace the present ones.

        Parameters
        ----------
        state : dict
            As `state_dict` returned it.

        Raises
        ------
        TypeError, ValueError
            What is no such dict, or holds a value out of its range. Nothing has been changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"a state_dict is a dict, got {type(state).__name__}")
        if set(state) != set(_KEYS):
            raise ValueError(f"the state_dict of a LossScaler needs {list(_KEYS)}, got {state!r}")
        if state["version"] != VERSION:
            raise ValueError(
                f"the state_dict has version {state['version']!r}, this instep reads {VERSION}"
            )
        settings = _checked_settings(_Settings(*(state[name] for name in _Settings._fields)))
        value = _checked_scale("scale", state["scale"], settings)
        tracker = at_least(0)("growth_tracker", state["growth_tracker"])
        if tracker >= settings.growth_interval:
            raise ValueError(
                f"growth_tracker must be below growth_interval, got {tracker} and "
                f"{settings.growth_interval}"
            )
        self._settings, self._value, self._growth_tracker = settings, value, tracker
        self._start_iteration()


def _checked_settings(settings: _Settings) -> _Settings:
    growth = finite("growth_factor", settings.growth_factor)
    if growth <= 1:
        raise ValueError(f"growth_factor must be greater than 1, got {growth!r}")
    backoff = finite("backoff_factor", settings.backoff_factor)
    if not 0 < backoff < 1:
        raise ValueError(f"backoff_factor must be greater than 0 and less than 1, got {backoff!r}")
    interval = at_least(1)("growth_interval", settings.growth_interval)
    least = _between("min_scale", settings.min_scale, _LEAST, _MOST)
    most = _between("max_scale", settings.max_scale, least, _MOST)
    return _Settings(growth, backoff, interval, least, most)


def _checked_scale(name: str, value: Any, settings: _Settings) -> float:
    return _between(name, value, settings.min_scale, settings.max_scale)


def _between(name: str, value: Any, least: float, most: float) -> float:
    found = finite(name, value)
    if not least <= found <= most:
        raise ValueError(f"{name} must be between {least!r} and {most!r}, got {found!r}")
    return found


def _checked_out(out: Any, array: _check.Array) -> _check.Array:
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__} ({out!r:.60})")
    if out.dtype != array.dtype:
        raise TypeError(f"out must have the gradient's dtype {array.dtype}, got {out.dtype}")
    if out.shape != array.shape:
        raise ValueError(f"out must have the gradient's shape {array.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only; pass a writable array")
    if _check.overlaps_itself(out):
        raise ValueError(f"out overlaps itself (strides {out.strides}); pass another array")
    return out
