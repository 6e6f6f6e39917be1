"""What all schedules share: calls, arithmetic, JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import numpy.typing as npt

from instep.schedules._check import Check, at_least, is_number, seen

if TYPE_CHECKING:
    from instep.schedules.compose import PerEpoch, Product

_step = at_least(0)


@dataclass(frozen=True)
class Schedule:
    """Base class of all schedules.

    A new schedule is a frozen dataclass with one method, ``_at(step)``, the value at a
    non-negative Python int. Calling, arrays, equality, hashing, pickling and JSON follow; the
    class name is its name in JSON. ``__post_init__`` validates the fields.

    Fields may be numbers, strings, None, other schedules, and tuples of these. Lists may not:
    a schedule with one could not be hashed.

    ``factor * schedule`` is a `Product`, and so is the product of two schedules.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Halving(Schedule):
    ...     lr: float
    ...     every: int
    ...
    ...     def _at(self, step):
    ...         return self.lr * 0.5 ** (step // self.every)
    >>> Halving(0.1, every=10)(25)
    0.025
    >>> Schedule.from_dict({"schedule": "Halving", "lr": 0.1, "every": 10})
    Halving(lr=0.1, every=10)
    """

    _known: ClassVar[dict[str, type[Schedule]]] = {}
    __array_ufunc__: ClassVar[None] = None  # numpy.float64(0.1) * schedule is a schedule

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Defining the same class again (a notebook cell run twice) is fine; another class under a
        # taken name would make saved schedules mean something else.
        known = Schedule._known.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ValueError(
                f"a schedule named {cls.__name__!r} exists already in {known.__module__}; "
                "choose another class name"
            )
        Schedule._known[cls.__name__] = cls

    def _at(self, step: int) -> float:
        """The value at ``step``, a Python int of at least 0."""
        raise NotImplementedError(f"{type(self).__name__} does not define _at(step)")

    @overload
    def __call__(self, step: int | np.integer[Any]) -> float: ...

    @overload
    def __call__(self, step: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]: ...

    def __call__(
        self, step: int | np.integer[Any] | npt.NDArray[np.integer[Any]]
    ) -> float | npt.NDArray[np.float64]:
        """Value at the 0-based ``step``, or at each step of an integer array.

        Parameters
        ----------
        step : int or ndarray of int
            0 is the first step.

        Returns
        -------
        float or ndarray of float64
            An array has the shape of ``step``; each element is exactly what the call with that
            int returns.

        Raises
        ------
        TypeError
            If ``step`` is neither an integer nor an array of integers, or is masked.
        ValueError
            If ``step`` is negative.
        """
        # Called once per training step with an int: that way out comes first.
        if type(step) is int and step >= 0:
            return self._at(step)
        if isinstance(step, np.ndarray):
            if isinstance(step, np.ma.MaskedArray):
                raise TypeError("step is a masked array; its mask would be ignored: pass the .data")
            step = np.asarray(step)  # the ravel() of a matrix would have two dimensions
            if step.dtype.kind not in "iu":
                raise TypeError(f"step must be an array of integers, got dtype {step.dtype}")
            if step.size and step.min() < 0:
                raise ValueError(f"step must be at least 0, got an array with {step.min()}")
            # One element at a time, because NumPy's cos may differ from math.cos in the last bit.
            values = (self._at(t) for t in step.ravel().tolist())
            return np.fromiter(values, np.float64, count=step.size).reshape(step.shape)
        return self._at(_step("step", step))

    def __mul__(self, other: Schedule | float) -> Product:
        from instep.schedules.compose import Product  # which is made of schedules

        return Product(self, other) if _is_factor(other) else NotImplemented

    def __rmul__(self, other: float) -> Product:
        from instep.schedules.compose import Product

        return Product(other, self) if _is_factor(other) else NotImplemented

    def per_epoch(self, steps_per_epoch: int) -> PerEpoch:
        """This schedule counting epochs instead of steps; see `PerEpoch`.

        Parameters
        ----------
        steps_per_epoch : int
            Optimizer steps of an epoch, at least 1: batches, divided by those that are
            accumulated for one step.

        Returns
        -------
        PerEpoch

        Examples
        --------
        >>> from instep.schedules import StepDecay
        >>> schedule = StepDecay(0.5, step_size=30, gamma=0.5).per_epoch(100)
        >>> schedule(2999), schedule(3000)
        (0.5, 0.25)
        """
        from instep.schedules.compose import PerEpoch

        return PerEpoch(self, steps_per_epoch)

    def _set(self, **values: Any) -> None:
        """Set fields, which are frozen for everyone else."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check(self, **checks: Check) -> None:
        """Bring fields into the form in which they are kept, or raise what names them."""
        for name, check in checks.items():
            self._set(**{name: check(f"{type(self).__name__}: {name}", getattr(self, name))})

    def to_dict(self) -> dict[str, Any]:
        """The schedule as a dict that ``json`` can write.

        Returns
        -------
        dict
            ``{"schedule": class name, field: value, ...}``, nested schedules likewise. JSON has no
            infinity and no NaN: they become ``{"float": "inf"}`` and the like.

        Raises
        ------
        TypeError
            If a `Lambda` is in it, or a class has a field called "schedule" or one that holds
            anything else than a schedule may.

        See Also
        --------
        from_dict : The way back.

        Examples
        --------
        >>> from instep.schedules import Warmup
        >>> Warmup(0.1, steps=5).to_dict()
        {'schedule': 'Warmup', 'after': {'schedule': 'Constant', 'lr': 0.1}, 'steps': 5}
        """
        name = type(self).__name__
        values = {
            field.name: _encode(f"{name}: {field.name}", getattr(self, field.name))
            for field in fields(self)
        }
        if "schedule" in values:
            raise TypeError(f"{name}: a field cannot be called 'schedule'; rename it")
        return {"schedule": name, **values}

    @staticmethod
    def from_dict(d: Mapping[str, Any]) -> Schedule:
        """The schedule that ``to_dict`` wrote, equal to the original.

        Parameters
        ----------
        d : mapping
            ``{"schedule": class name, field: value, ...}``. Fields that have a default may be
            left out.

        Returns
        -------
        Schedule

        Raises
        ------
        TypeError
            If ``d`` is not a mapping, or a field has the wrong type.
        ValueError
            If the name is unknown, a field is missing or unexpected, or a value is not allowed.

        Examples
        --------
        >>> Schedule.from_dict({"schedule": "CosineAnnealing", "lr": 0.1, "total_steps": 50})
        CosineAnnealing(lr=0.1, total_steps=50, min_lr=0.0)
        """
        if not isinstance(d, Mapping):
            raise TypeError(f"a schedule must be a dict as made by to_dict(), {seen(d)}")
        name = d.get("schedule")
        if not isinstance(name, str) or name not in Schedule._known:
            known = ", ".join(sorted(Schedule._known))
            raise ValueError(f"'schedule' must be one of {known}, got {name!r}")
        cls = Schedule._known[name]
        values = {str(key): _decode(value) for key, value in d.items() if key != "schedule"}
        expected = {field.name: field for field in fields(cls)}
        required = {
            field.name
            for field in expected.values()
            if field.default is MISSING and field.default_factory is MISSING
        }
        missing, unexpected = required - values.keys(), values.keys() - expected.keys()
        if missing or unexpected:
            raise ValueError(
                f"{name} has the fields {', '.join(expected)}; "
                f"missing: {', '.join(sorted(missing)) or 'none'}, "
                f"unexpected: {', '.join(sorted(unexpected)) or 'none'}"
            )
        return cls(**values)


def _encode(name: str, value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_encode(f"{name}[{k}]", entry) for k, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(
        f"{name} must be a Python number, a string, None, a schedule or a tuple of these to be "
        f"written as JSON, {seen(value)}" + ("; make it a tuple" if type(value) is list else "")
    )


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        return Schedule.from_dict(value)
    # JSON has no tuples; a list would not be hashable.
    return tuple(_decode(entry) for entry in value) if isinstance(value, list | tuple) else value


def _is_factor(value: object) -> bool:
    return isinstance(value, Schedule) or is_number(value)


def blend(share: float, start: float, end: float) -> float:
    """The weighted mean: exactly `start` at 1 and `end` at 0, and never an overflow."""
    return share * start + (1.0 - share) * end


def half_cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine wave from `start` at 0 to `end` at 1."""
    return blend(0.5 + 0.5 * math.cos(math.pi * progress), start, end)
