"""torch's own sample inputs of its losses (op_db of torch.testing): value and gradient agree.

Of the differences that test_losses_torch.py lists, one can occur in the samples: a mean over
nothing (all labels ignored) is NaN in torch and 0 here. Samples whose weight is broadcast are
broadcast explicitly: no loss here does so by itself.
"""

import random
import warnings

import numpy as np
import pytest
from losses_common import F32, F64
from numpy.testing import assert_allclose

from instep import losses

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # torch.testing._internal needs it
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")

# torch's name: ours, and how many samples torch 2.13 has of it.
OPERATORS = {
    "mse_loss": (losses.mse, 6),
    "l1_loss": (losses.mae, 6),
    "huber_loss": (losses.huber, 9),
    "smooth_l1_loss": (losses.smooth_l1, 8),
    "binary_cross_entropy": (losses.binary_cross_entropy, 11),
    "binary_cross_entropy_with_logits": (losses.binary_cross_entropy_with_logits, 26),
    "cross_entropy": (losses.cross_entropy, 21),
    "kl_div": (losses.kl_div, 16),
    "poisson_nll_loss": (losses.poisson_nll, 72),
}


@pytest.fixture(scope="module")
def operators():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return {op.name: op for op in op_db}


def samples_of(operator, dtype):
    """The same in every run: torch draws from both generators."""
    torch.manual_seed(20)
    random.seed(20)
    return list(operator.sample_inputs("cpu", dtype, requires_grad=True))


def plain(value):
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def compare(loss, operator, sample, dtype):
    pred = sample.input.detach().clone().requires_grad_()
    (target,) = [a.detach() if isinstance(a, torch.Tensor) else a for a in sample.args]
    value = operator.op(pred, target, **sample.kwargs)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    options = {name: plain(option) for name, option in sample.kwargs.items()}
    if options.get("weight") is not None and loss is not losses.cross_entropy:
        options["weight"] = np.broadcast_to(options["weight"], pred.shape)
    found = loss(plain(pred), plain(target), **options)
    assert found.grad.dtype == plain(pred).dtype
    if torch.isnan(value).all() and loss is losses.cross_entropy:
        assert (plain(target) == options["ignore_index"]).all(), "not the difference on purpose"
        assert found.value == 0.0 and not found.grad.any()
        return
    rtol = {F32: 2e-5, F64: 1e-12}[dtype]
    for ours, theirs in [(found.value, plain(value)), (found.grad, plain(grad))]:
        assert np.shape(ours) == theirs.shape
        size = np.max(np.abs(theirs[np.isfinite(theirs)]), initial=0.0)
        assert_allclose(ours, theirs, rtol=rtol, atol=rtol * size)


@pytest.mark.parametrize("name", OPERATORS)
def test_samples(name, dtype, operators):
    loss, count = OPERATORS[name]
    operator = operators[f"nn.functional.{name}"]
    samples = samples_of(operator, {F32: torch.float32, F64: torch.float64}[dtype])
    assert samples and (len(samples) == count or not torch.__version__.startswith("2.13."))
    for sample in samples:
        compare(loss, operator, sample, dtype)
