"""What the tests of the losses' errors share: a call of every loss, and how to see it refused."""

import re

import numpy as np
import pytest

from instep import losses
from instep.losses import categorical_cross_entropy, cross_entropy

GUARD = -77.25
X = np.arange(12.0).reshape(4, 3) / 7
P = (np.arange(12.0).reshape(4, 3) + 1) / 14  # probabilities
LABELS = np.array([0, 2, 1, 1])
SOFT = np.full((4, 3), 1 / 3)
SIGNS = np.where(np.arange(12).reshape(4, 3) % 3 == 0, -1, 1)
CLASSWISE = [cross_entropy, categorical_cross_entropy]
# Losses of elements, and of regions: their targets have pred's shape.
LIKE_PRED = [
    getattr(losses, name)
    for name in losses.__all__
    if name != "LossGrad" and getattr(losses, name) not in CLASSWISE
]
REGIONS = [losses.dice, losses.iou, losses.tversky]
ELEMENTS = [loss for loss in LIKE_PRED if loss not in REGIONS]
# (loss, target) that go with P.
EVERY = [
    *((loss, SIGNS if loss is losses.hinge else SOFT) for loss in LIKE_PRED),
    *((loss, target) for loss in CLASSWISE for target in (LABELS, SOFT)),
]
OPTIONAL = ("weight", "mask", "pos_weight")


def id_of(value):
    if isinstance(value, np.ndarray):
        return "labels" if value is LABELS else "elements"
    return getattr(value, "__name__", None) or str(value)


every = pytest.mark.parametrize(("loss", "target"), EVERY, ids=id_of)


def weight_for(loss, like=P):
    """A weight that fits: per class, per score, or per element."""
    if loss in CLASSWISE:
        return np.ones(like.shape[1])
    return np.ones(like.shape[0]) if loss in REGIONS else np.ones(like.shape)


def refuses(kind, message, loss, pred, target, *, out=None, **options):
    """The call raises, names every part of `message`, and leaves all arrays as they were."""
    arrays = [pred, target, out, *(options.get(name) for name in OPTIONAL)]
    arrays = [array for array in arrays if isinstance(array, np.ndarray)]
    before = [array.tobytes() for array in arrays]
    with pytest.raises(kind) as caught:
        loss(pred, target, out=out, **options)
    assert type(caught.value) is kind
    for part in [message] if isinstance(message, str) else message:
        assert re.search(part, str(caught.value)), str(caught.value)
    assert [array.tobytes() for array in arrays] == before


def sink(shape=(4, 3), dtype=np.float64):
    """Somewhere to see that nothing is written."""
    return np.full(shape, GUARD, dtype)


def masked(array):
    return np.ma.masked_array(array, mask=np.zeros(array.shape, bool))


def swapped(array):
    return array.astype(array.dtype.newbyteorder("S"))
