"""One call of a loss: first as the arguments are; where that fails, checked and converted."""

from typing import Any, Literal, NamedTuple

import numpy as np

from instep import _core
from instep._check import Array, choice
from instep.losses import _check

Reduction = Literal["mean", "sum", "none"]
# As the core numbers them.
REDUCTIONS = {"mean": 0, "sum": 1, "none": 2, "batchmean": 3}
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
    extra: Array | None = None,
    mean_of_weights: bool = True,
    last_reduction: int = REDUCTIONS["none"],
) -> LossGrad:
    """A loss that treats each element alone. `coefficients` and `extra` have been checked."""
    options = reduction, coefficients, extra, mean_of_weights, last_reduction
    found = _core.elementwise(loss, pred, target, weight, out, *options, False)
    if found is None:
        choice(
            "reduction", reduction, [name for name, k in REDUCTIONS.items() if k <= last_reduction]
        )
        pred = _check.prediction(pred)
        target = _check.elements("target", target, pred)
        if weight is not None:
            weight = _check.elements("weight", weight, pred)
        if out is not None:
            others = {"target": target, "weight": weight, "pos_weight": extra}
            out = _check.output(out, pred, others)
        pred, target, weight, plain = _plain(pred, target, weight, out)
        found = _core.elementwise(loss, pred, target, weight, plain, *options, True)
        if found is None:
            raise _check.too_small()
        if out is not None:  # of a subclass, perhaps
            found = found[0], out
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
    options = reduction, ignore_index, label_smoothing
    found = _core.classwise(loss, pred, target, weight, out, *options, False)
    if found is None:
        found = _checked_classwise(loss, pred, target, weight, out, *options)
    return _new(LossGrad, found)  # type: ignore[no-any-return]


def _checked_classwise(
    loss: int,
    pred: Any,
    target: Any,
    weight: Any,
    out: Any,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
) -> Any:
    choice("reduction", reduction, ("mean", "sum", "none"))
    smoothing = _check.share("label_smoothing", label_smoothing)
    ignore = _check.integer("ignore_index", ignore_index)
    pred = _check.classes(pred)
    target = _check.class_target(target, pred, ignore)
    if out is not None:
        given = None if weight is None else np.asarray(weight)
        out = _check.output(out, pred, {"target": target, "weight": given})
    if weight is not None:
        weight = _check.class_weight(weight, pred)
    pred, target, weight, plain = _plain(pred, target, weight, out)
    options = reduction, ignore, smoothing
    found = _core.classwise(loss, pred, target, weight, plain, *options, True)
    if found is None:
        raise _check.too_small()
    if isinstance(found, int):
        classes = pred.shape[_check.class_axis(pred)]
        raise _check.label_error(target, found, classes, ignore)
    return found if out is None else (found[0], out)


def _plain(*arrays: Any) -> Any:
    """Without their subclasses."""
    return [None if array is None else np.asarray(array) for array in arrays]
