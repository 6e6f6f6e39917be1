"""Parity with torch.optim's plain loop in float64: parameters and states, every option."""

import itertools

import numpy as np
import pytest
from conftest import TOLERANCE, travel_error

import instep

torch = pytest.importorskip("torch")

STEPS = 30
SHAPES = [(7, 5), (33,), (), (2, 3, 4)]


def grid(base, **choices):
    """Every combination of the options on top of the base."""
    for values in itertools.product(*choices.values()):
        yield {**base, **dict(zip(choices, values, strict=True))}


MAXIMIZE = {"maximize": [False, True]}
DECAY = {"weight_decay": [0.0, 0.13]}
CASES = [
    *(
        ("SGD", hyper)
        for hyper in grid(
            {"lr": 0.03}, momentum=[0.0, 0.8], dampening=[0.0, 0.35], **DECAY, **MAXIMIZE
        )
        if hyper["momentum"] or not hyper["dampening"]
    ),
    *(
        ("SGD", hyper)
        for hyper in grid({"lr": 0.03, "momentum": 0.8, "nesterov": True}, **DECAY, **MAXIMIZE)
    ),
    *(
        ("RMSprop", hyper)
        for hyper in grid(
            {"lr": 0.02, "alpha": 0.9, "eps": 1e-3},
            momentum=[0.0, 0.7],
            centered=[False, True],
            **DECAY,
            **MAXIMIZE,
        )
    ),
    *(
        (name, hyper)
        for name in ("Adam", "AdamW")
        for hyper in grid(
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4},
            amsgrad=[False, True],
            **DECAY,
            **MAXIMIZE,
        )
    ),
]


def label(case):
    name, hyper = case
    return name + "".join(f"-{k}={v}" for k, v in hyper.items() if k not in ("lr", "eps", "betas"))


def problem(dtype, size=1.0):
    """Gradients whose size changes; leaf 1 misses some, leaf 2 is late."""
    rng = np.random.default_rng(12)
    starts = [rng.normal(0.0, size, shape).astype(dtype) for shape in SHAPES]
    steps = []
    for t in range(STEPS):
        size = 1.2 + np.cos(t / 4)
        grads = [(size * rng.normal(0.8, 1.0, shape)).astype(dtype) for shape in SHAPES]
        grads[1] = None if 10 <= t < 14 else grads[1]
        grads[2] = None if t < 6 else grads[2]
        steps.append(grads)
    return starts, steps


def torch_loop(name, hyper, starts, steps, change=None):
    """torch.optim without foreach or fusion, in float64; returns (parameters, states)."""
    leaves = [torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for p in starts]
    opt = getattr(torch.optim, name)(leaves, foreach=False, **hyper)
    for t, grads in enumerate(steps):
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = None if grad is None else torch.tensor(grad, dtype=torch.float64)
        opt.param_groups[0].update(change(t) if change else {})
        opt.step()
    states = [
        {key: v.numpy() for key, v in opt.state[leaf].items() if v is not None} for leaf in leaves
    ]
    return [leaf.detach().numpy() for leaf in leaves], states


def check(name, hyper, dtype, change=None, size=1.0):
    starts, steps = problem(dtype, size)
    expected, states = torch_loop(name, hyper, starts, steps, change)
    params = [start.copy() for start in starts]
    opt = getattr(instep, name)(params, **hyper)
    for t, grads in enumerate(steps):
        opt.param_groups[0].update(change(t) if change else {})
        opt.step(grads)
    for k, (found, wanted, start) in enumerate(zip(params, expected, starts, strict=True)):
        assert travel_error(found, wanted, start) < TOLERANCE[found.dtype]
        entry = opt.state[str(k)]
        if "step" in states[k]:  # SGD of torch keeps none
            assert entry["step"] == int(states[k]["step"])
        assert entry.keys() - {"step"} == states[k].keys() - {"step"}
        for key in entry.keys() - {"step"}:
            assert travel_error(entry[key], states[k][key]) < TOLERANCE[found.dtype], key


@pytest.mark.parametrize("case", CASES, ids=label)
def test_every_option(case, dtype):
    check(*case, dtype)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_defaults(name, dtype):
    """The same constructor with nothing but the parameters.

    These are half as large as elsewhere: after 30 steps of 1e-3, the rounding of a stored
    float32 of size 2 is more than 2e-5 of the way.
    """
    hyper = {"lr": 0.1} if name == "SGD" else {}
    check(name, hyper, dtype, size=0.5)
    ours = getattr(instep, name)(np.ones(1)).param_groups[0]
    theirs = getattr(torch.optim, name)([torch.ones(1)]).param_groups[0]
    for key in ours.keys() - {"params"}:
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
def test_changed_in_mid_run(name, dtype):
    def change(t):
        later = {"lr": 0.05, "eps": 1e-2, "weight_decay": 0.3, "maximize": True}
        later |= {"alpha": 0.7} if name == "RMSprop" else {"betas": (0.6, 0.9)}
        return later if t == 11 else {}

    check(name, {"lr": 0.02, "eps": 1e-3}, dtype, change)


@pytest.mark.parametrize("dampening", [0.0, 0.4])
def test_momentum_switched_on_and_off(dampening, dtype):
    def change(t):
        return {"momentum": 0.8 if 3 <= t < 9 or 12 <= t < 20 else 0.0}

    check("SGD", {"lr": 0.05, "dampening": dampening}, dtype, change)


def test_clipping_differs_by_the_epsilon_alone():
    """PyTorch divides by norm + 1e-6."""
    starts, steps = problem(np.dtype(np.float64))
    grads = [np.ones(shape) if g is None else g for g, shape in zip(steps[0], SHAPES, strict=True)]
    leaves = [torch.nn.Parameter(torch.tensor(p)) for p in starts]
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.grad = torch.tensor(grad)
    norm = float(torch.nn.utils.clip_grad_norm_(leaves, 0.5))
    params = [np.zeros(shape) for shape in SHAPES]
    report = instep.SGD(params, lr=1.0, clip_norm=0.5).step(grads)
    np.testing.assert_allclose(report.grad_norm, norm, rtol=1e-13)
    for param, leaf in zip(params, leaves, strict=True):
        np.testing.assert_allclose(-param, leaf.grad.numpy() * (norm + 1e-6) / norm, rtol=1e-13)


def test_training_the_tensors_of_a_module():
    """Our optimizer on torch's own memory, without a copy."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    twin = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    twin.load_state_dict(model.state_dict())
    ours = instep.AdamW({n: p.detach() for n, p in model.named_parameters()}, lr=0.01)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.01, foreach=False)
    x, y = torch.randn(20, 5), torch.randn(20, 1)
    losses = []
    for _ in range(STEPS):
        for net in (model, twin):
            net.zero_grad()
            loss = torch.nn.functional.mse_loss(net(x), y)
            loss.backward()
            losses.append(loss.item())
        ours.step({name: p.grad for name, p in model.named_parameters()})
        theirs.step()
    assert losses[-2] < 0.9 * losses[0]
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-4, atol=1e-5)
