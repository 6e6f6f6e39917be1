"""torch: forward and backward, with the function of torch.nn.functional where there is one."""

import math
from collections.abc import Callable
from itertools import repeat

import torch
import torch.nn.functional as F

from benchmarks.contenders.base import LossContender
from benchmarks.works import Array

Tensor = torch.Tensor


def _log_cosh(pred: Tensor, target: Tensor) -> Tensor:
    error = pred - target
    return (error + F.softplus(-2 * error) - math.log(2)).mean()


def _quantile(pred: Tensor, target: Tensor) -> Tensor:
    error = target - pred
    return torch.maximum(0.5 * error, -0.5 * error).mean()


def _focal(pred: Tensor, target: Tensor) -> Tensor:
    """As torchvision writes it."""
    p = torch.sigmoid(pred)
    entropy = F.binary_cross_entropy_with_logits(pred, target, reduction="none")
    right = p * target + (1 - p) * (1 - target)
    return (entropy * (1 - right) ** 2).mean()


def _hinge(pred: Tensor, target: Tensor) -> Tensor:
    return F.relu(1 - pred * target).mean()


def _categorical(pred: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(torch.log(pred), target)


def _kl_div(pred: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(pred, target, reduction="none").mean()  # "mean" warns


def _sums(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap, predicted and true, of each sample."""
    pred, target = pred.flatten(1), target.flatten(1)
    return (pred * target).sum(1), pred.sum(1), target.sum(1)


def _dice(pred: Tensor, target: Tensor) -> Tensor:
    overlap, predicted, true = _sums(pred, target)
    return (1 - (2 * overlap + 1) / (predicted + true + 1)).mean()


def _iou(pred: Tensor, target: Tensor) -> Tensor:
    overlap, predicted, true = _sums(pred, target)
    return (1 - (overlap + 1) / (predicted + true - overlap + 1)).mean()


def _tversky(pred: Tensor, target: Tensor) -> Tensor:
    overlap, predicted, true = _sums(pred, target)
    wrong = 0.5 * (predicted - overlap) + 0.5 * (true - overlap)
    return (1 - (overlap + 1) / (overlap + wrong + 1)).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "dice": _dice,
    "iou": _iou,
    "tversky": _tversky,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
    "smooth_l1": F.smooth_l1_loss,
    "log_cosh": _log_cosh,
    "quantile": _quantile,
    "poisson_nll": F.poisson_nll_loss,
    "binary_cross_entropy": F.binary_cross_entropy,
    "focal": _focal,
    "hinge": _hinge,
    "kl_div": _kl_div,
    "categorical_cross_entropy": _categorical,
}


class Torch(LossContender):
    losses = LOSSES

    @staticmethod
    def start(threads: int) -> None:
        torch.set_num_threads(threads)

    def allocate(self, pred: Array, target: Array) -> None:
        # A clone lies in torch's own allocation, not in NumPy's.
        self.pred = torch.from_numpy(pred).clone().requires_grad_()
        self.target = torch.from_numpy(target).clone()

    def run(self, times: int) -> None:
        loss, pred, target = LOSSES[self.task.kind], self.pred, self.target
        for _ in repeat(None, times):
            pred.grad = None
            value = loss(pred, target)
            value.backward()
        self.value = value

    def result(self) -> tuple[float, Array]:
        return self.value.item(), self.pred.grad.numpy()
