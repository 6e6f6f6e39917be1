"""Training that crosses from instep to PyTorch, or back, is training that stayed where it was."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import travel_error

import instep
from instep.interop.torch import from_torch, to_torch

torch = pytest.importorskip("torch")

PAGE = Path(__file__).parent.parent / "docs" / "interop.md"
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-11}  # of the distance travelled
SHAPES = {"W": (7, 5), "b": (33,), "late": (2, 3), "scale": ()}
BEFORE, STEPS = 50, 100
ADAM = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4}
CASES = [
    ("SGD", {"lr": 0.03, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.03, "momentum": 0.8, "dampening": 0.35, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.03, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.8, "dampening": 0.35, "maximize": True}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "momentum": 0.7, "maximize": True}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "centered": True, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "centered": True, "momentum": 0.7}),
    *(
        (name, {**ADAM, **options})
        for name in ("Adam", "AdamW")
        for options in (
            {"weight_decay": 0.13},
            {"weight_decay": 0.13, "amsgrad": True},
            {"amsgrad": True, "maximize": True},
        )
    ),
]


def label(case):
    name, hyper = case
    return "-".join([name, *(key for key in hyper if key not in ("lr", "eps", "betas", "alpha"))])


class InInstep:
    """A run in instep."""

    def __init__(self, name, params, hyper):
        self.params = {key: np.array(value) for key, value in params.items()}
        self.opt = getattr(instep, name)(self.params, **hyper)

    def arrays(self):
        return self.params

    def step(self, grads):
        self.opt.step(grads)

    def states(self):
        sgd = isinstance(self.opt, instep.SGD)  # which counts no steps in PyTorch
        entries = {
            name: {key: v for key, v in entry.items() if not (sgd and key == "step")}
            for name, entry in self.opt.state.items()
        }
        return {name: entry for name, entry in entries.items() if entry}

    def take_over(self, other):
        """Go on from a run in PyTorch."""
        report = self.opt.load_state_dict(from_torch(other.opt.state_dict(), self.opt))
        assert report == ((), ())


class InTorch:
    """A run in PyTorch."""

    def __init__(self, name, params, hyper):
        self.names = list(params)
        self.tensors = [torch.tensor(value, requires_grad=True) for value in params.values()]
        self.opt = getattr(torch.optim, name)(self.tensors, **hyper)

    def arrays(self):
        return {
            name: tensor.detach().numpy()
            for name, tensor in zip(self.names, self.tensors, strict=True)
        }

    def step(self, grads):
        for tensor, grad in zip(self.tensors, grads.values(), strict=True):
            tensor.grad = None if grad is None else torch.tensor(grad)
        self.opt.step()

    def states(self):
        return {
            name: {key: value.numpy() for key, value in self.opt.state[tensor].items()}
            for name, tensor in zip(self.names, self.tensors, strict=True)
            if self.opt.state.get(tensor)
        }

    def take_over(self, other):
        """Go on from a run in instep."""
        state = to_torch(other.opt.state_dict(), as_tensor=torch.from_numpy)
        self.opt.load_state_dict(state)


def gradients(arrays, t, dtype):
    """Of a valley, with noise; "b" misses some about the border, "late" begins behind it."""
    rng = np.random.default_rng(t)
    size = 1.2 + np.cos(t / 4)
    grads = {
        name: (0.5 * (array - 1.0) + size * rng.normal(0.8, 1.0, array.shape)).astype(dtype)
        for name, array in arrays.items()
    }
    if BEFORE - 4 <= t < BEFORE + 3:
        grads["b"] = None
    if t < BEFORE + 10:
        grads["late"] = None
    return grads


def starts_of(dtype):
    rng = np.random.default_rng(5)
    return {name: rng.normal(0.0, 1.0, shape).astype(dtype) for name, shape in SHAPES.items()}


def train(run, first, last, dtype):
    for t in range(first, last):
        run.step(gradients(run.arrays(), t, dtype))
    return run


def compare(found, expected, starts):
    """Parameters and states."""
    tolerance = TOLERANCE[starts["W"].dtype]
    for name, start in starts.items():
        array, wanted = found.arrays()[name], expected.arrays()[name]
        assert array.dtype == start.dtype
        assert travel_error(array, wanted, start) < tolerance, name
    ours, theirs = found.states(), expected.states()
    assert ours.keys() == theirs.keys()
    for name, entry in ours.items():
        assert entry.keys() == theirs[name].keys()
        for key in entry:
            if key == "step":
                assert int(entry[key]) == int(theirs[name][key])
            else:
                assert travel_error(entry[key], theirs[name][key]) < tolerance, (name, key)


@pytest.mark.parametrize("case", CASES, ids=label)
@pytest.mark.parametrize("first, second", [(InInstep, InTorch), (InTorch, InInstep)])
def test_a_run_that_crosses_equals_one_that_stays(case, first, second, dtype):
    """The second optimizer is made with other hyperparameters: it gets those of the first."""
    name, hyper = case
    starts = starts_of(dtype)
    before = train(first(name, starts, hyper), 0, BEFORE, dtype)
    after = second(name, before.arrays(), {"lr": 7.0})
    after.take_over(before)
    train(after, BEFORE, STEPS, dtype)
    for side in (first, second):
        compare(after, train(side(name, starts, hyper), 0, STEPS, dtype), starts)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_there_and_back_again_loses_nothing(name):
    """Of the state of instep, through a PyTorch optimizer, bit for bit."""
    starts = starts_of(np.float32)
    hyper = {"lr": 0.01, "weight_decay": 0.2}
    hyper |= {"momentum": 0.8} if name in ("SGD", "RMSprop") else {"amsgrad": True}
    run = train(InInstep(name, starts, hyper), 0, 5, np.float32)
    away = InTorch(name, run.arrays(), {"lr": 7.0})
    away.take_over(run)
    back = from_torch(away.opt, run.opt, steps=5 if name == "SGD" else None)
    saved = run.opt.state_dict()
    assert back["state"].keys() == saved["state"].keys() != set(starts)  # one is late
    for key, entry in saved["state"].items():
        assert back["state"][key].keys() == entry.keys()
        for state, value in entry.items():
            np.testing.assert_array_equal(back["state"][key][state], value, strict=True)
    assert {**back, "state": 0} == {**saved, "state": 0}


@pytest.mark.parametrize(
    "name, flag",
    [  # a fused SGD of PyTorch 2.13 fails where a parameter begins late, and RMSprop has none
        *((name, "foreach") for name in ("SGD", "RMSprop", "Adam", "AdamW")),
        *((name, "fused") for name in ("Adam", "AdamW")),
    ],
)
def test_pytorch_goes_on_however_it_computes(name, flag):
    starts, hyper = starts_of(np.float32), {"lr": 0.02, "weight_decay": 0.1}
    hyper |= {"momentum": 0.8} if name == "SGD" else {"eps": 1e-3}
    before = train(InInstep(name, starts, hyper), 0, BEFORE, np.float32)
    state = to_torch(before.opt, as_tensor=torch.from_numpy)
    state["param_groups"][0][flag] = True
    after = InTorch(name, before.arrays(), {})
    after.opt.load_state_dict(state)
    assert after.opt.param_groups[0][flag] is True
    train(after, BEFORE, STEPS, np.float32)
    assert from_torch(after.opt, before.opt)["param_groups"][0].items() >= hyper.items()
    compare(after, train(before, BEFORE, STEPS, np.float32), starts)


def test_groups_are_those_of_pytorch_by_key_and_value():
    """What `to_torch` writes into a group is what the installed PyTorch has there."""
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        ours = to_torch(getattr(instep, name)([np.ones(1), np.ones(2)]))
        theirs = getattr(torch.optim, name)([torch.ones(1), torch.ones(2)]).state_dict()
        assert ours == theirs, name


def test_states_have_pytorchs_keys_shapes_and_types():
    starts = starts_of(np.float32)
    for name, hyper in CASES:
        ours = train(InInstep(name, starts, hyper), 0, 3, np.float32).opt
        theirs = train(InTorch(name, starts, hyper), 0, 3, np.float32).opt.state_dict()
        state = to_torch(ours, as_tensor=torch.from_numpy)["state"]
        assert state.keys() == theirs["state"].keys()
        for index, entry in theirs["state"].items():
            assert state[index].keys() == entry.keys()
            for key, tensor in entry.items():
                found = state[index][key]
                assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
                assert found.is_contiguous()


def test_late_options():
    """A maximum, a variance, a momentum switched on just before crossing begin at zero."""
    for name, early, late in (
        ("Adam", {}, {"amsgrad": True}),
        ("RMSprop", {"eps": 1e-2}, {"centered": True, "momentum": 0.7}),
        ("SGD", {}, {"momentum": 0.8, "dampening": 0.4}),
    ):
        starts = starts_of(np.float64)
        before = train(InInstep(name, starts, {"lr": 0.01, **early}), 0, BEFORE, np.float64)
        before.opt.param_groups[0].update(late)
        after = InTorch(name, before.arrays(), {})
        after.take_over(before)
        train(after, BEFORE, STEPS, np.float64)
        compare(after, train(before, BEFORE, STEPS, np.float64), starts)


def test_half_precision_tensors_become_float32():
    for dtype in (torch.bfloat16, torch.float16):
        tensor = torch.tensor([1.5, -2.25], dtype=dtype, requires_grad=True)
        opt = torch.optim.SGD([tensor], lr=0.5, momentum=0.5)
        tensor.grad = torch.tensor([3.0, 0.125], dtype=dtype)
        opt.step()
        state = from_torch(opt)["state"]
        expected = np.float32([3.0, 0.125])
        np.testing.assert_array_equal(state["0"]["momentum_buffer"], expected, strict=True)


def test_tensors_as_hyperparameters():
    tensor = torch.tensor([1.0], requires_grad=True)
    opt = torch.optim.AdamW([tensor], lr=torch.tensor(0.25))
    assert from_torch(opt)["param_groups"][0]["lr"] == 0.25


@pytest.mark.parametrize("scheduler", ["OneCycleLR", "StepLR", "CyclicLR", "SWALR"])
def test_what_schedulers_note_in_groups_is_no_obstacle(scheduler):
    opt = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1, momentum=0.9)
    if scheduler == "SWALR":
        torch.optim.swa_utils.SWALR(opt, swa_lr=0.05)
    else:
        arguments = {
            "OneCycleLR": {"max_lr": 0.2, "total_steps": 10},
            "StepLR": {"step_size": 3},
            "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
        }[scheduler]
        getattr(torch.optim.lr_scheduler, scheduler)(opt, **arguments)
    assert from_torch(opt)["param_groups"][0]["lr"] == opt.param_groups[0]["lr"]


@pytest.mark.parametrize(
    "name", ["NAdam", "RAdam", "Adamax", "Adagrad", "ASGD", "Rprop", "Adadelta"]
)
def test_other_optimizers_of_pytorch_are_refused(name):
    opt = getattr(torch.optim, name)([torch.ones(1, requires_grad=True)])
    with pytest.raises(ValueError, match="none of PyTorch's SGD, RMSprop, Adam, AdamW"):
        from_torch(opt)


def test_what_pytorch_cannot_make_an_array_of():
    group = torch.optim.SGD([torch.ones(1)], momentum=0.9).state_dict()["param_groups"]
    sparse = torch.ones(3).to_sparse()
    with pytest.raises(TypeError, match=r"state\[0\]\['momentum_buffer'\] is Tensor, not readable"):
        from_torch({"state": {0: {"momentum_buffer": sparse}}, "param_groups": group})


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")
def test_the_code_of_the_page_runs():
    text = PAGE.read_text(encoding="utf-8")
    W, b = np.ones((3, 2), np.float32), np.zeros(3, np.float32)
    names = {"W": W, "b": b, "gradients": lambda: [np.ones_like(W), np.ones_like(b)]}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    for code in blocks:
        exec(code, names)
