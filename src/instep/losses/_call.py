"""One call of a loss: first as the arguments are; where that fails, checked and converted."""

from typing import Any, Literal, NamedTuple

import numpy as np

from instep import _core, config
from instep._check import Array, choice
from instep.losses import _check

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = {"mean": _core.MEAN, "sum": _core.SUM, "none": _core.NONE}
NUMBER = {name: number for name, (number, _) in _core.losses().items()}

_new: Any = tuple.__new__


class LossGrad(NamedTuple):
    """A loss and its gradient.

    Attributes
    ----------
    value : float or numpy.ndarray
        A float; with ``reduction="none"`` an array of pred's dtype.
    grad : numpy.ndarray
        Derivative of the value (with "none": of its sum) with respect to pred.
    """

    value: Any
    grad: Array


def elementwise(
    loss: int,
    pred: Any,
    target: Any,
    reduction: str,
    weight: Any,
    out: Any,
    coefficients: tuple[float, ...] = (),
    *,
    extra: Array | None = None,
    mean_of_weights: bool = True,
    reductions: dict[str, int] = REDUCTIONS,
) -> LossGrad:
    """A loss that treats each element alone. `coefficients` and `extra` have been checked."""
    how, threads = _code(reduction, reductions), config.get_num_threads()
    options = extra, how, mean_of_weights, coefficients, threads
    found = _core.elementwise(loss, pred, target, weight, out, *options, False)
    if found is None:
        pred = _check.prediction(pred)
        target = _check.elements("target", target, pred)
        if weight is not None:
            weight = _check.elements("weight", weight, pred)
        if out is not None:
            others = {"target": target, "weight": weight, "pos_weight": extra}
            out = _check.output(out, pred, others)
        pred, target, weight, out = _plain(pred, target, weight, out)
        found = _core.elementwise(loss, pred, target, weight, out, *options, True)
        if found is None:
            raise _check.too_small()
    return _new(LossGrad, found)  # type: ignore[no-any-return]


def classwise(
    loss: int,
    pred: Any,
    target: Any,
    reduction: str,
    weight: Any,
    ignore_index: int,
    label_smoothing: float,
    out: Any,
) -> LossGrad:
    """A loss over the class axis."""
    how, threads = _code(reduction, REDUCTIONS), config.get_num_threads()
    if type(ignore_index) is not int or ignore_index != -100:
        ignore_index = _check.integer("ignore_index", ignore_index)
    if type(label_smoothing) is not float or label_smoothing != 0.0:
        label_smoothing = _check.share("label_smoothing", label_smoothing)
    options = how, ignore_index, label_smoothing, threads
    found = None
    if ignore_index == -100 or _has_labels(target):
        found = _core.classwise(loss, pred, target, weight, out, *options, False)
    if found is None:
        pred = _check.classes(pred)
        target = _check.class_target(target, pred, ignore_index)
        if weight is not None:
            weight = _check.class_weight(weight, pred)
        if out is not None:
            out = _check.output(out, pred, {"target": target, "weight": weight})
        pred, target, weight, out = _plain(pred, target, weight, out)
        found = _core.classwise(loss, pred, target, weight, out, *options, True)
        if found is None:
            raise _check.too_small()
    if type(found) is int:
        count = pred.shape[_check.class_axis(pred)]
        raise _check.label_error(target, found, count, ignore_index)
    return _new(LossGrad, found)  # type: ignore[no-any-return]


def _has_labels(target: Any) -> bool:
    return type(target) is np.ndarray and _core.is_integer(target)


def _plain(*arrays: Any) -> Any:
    """Without their subclasses."""
    return [None if array is None else np.asarray(array) for array in arrays]


def _code(reduction: str, reductions: dict[str, int]) -> int:
    try:
        return reductions[reduction]
    except (KeyError, TypeError):
        choice("reduction", reduction, tuple(reductions))
        raise
