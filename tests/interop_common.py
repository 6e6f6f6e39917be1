"""What the tests of PyTorch's states share: such states by hand, without PyTorch."""

import copy

import numpy as np

import instep
from instep.interop.torch import from_torch

FIRST = np.float32([[1.0, 2.0], [3.0, 4.0]])
SECOND = np.float32([5.0, 6.0])
ADAM = {"lr": 0.5, "betas": (0.25, 0.75), "eps": 0.125, "weight_decay": 0.0625, "amsgrad": True}
THEIRS = {
    "SGD": {
        "state": {0: {"momentum_buffer": FIRST}},
        "param_groups": [
            {
                **{"lr": 0.5, "momentum": 0.25, "dampening": 0.125, "weight_decay": 0.0625},
                **{"nesterov": False, "maximize": True, "foreach": None, "differentiable": False},
                **{"fused": None, "params": [0, 1]},
            }
        ],
    },
    "RMSprop": {
        "state": {
            0: {
                **{"step": np.array(3.0, np.float32), "square_avg": FIRST},
                **{"momentum_buffer": 2 * FIRST, "grad_avg": 3 * FIRST},
            }
        },
        "param_groups": [
            {
                **{"lr": 0.5, "momentum": 0.25, "alpha": 0.75, "eps": 0.125, "centered": True},
                **{"weight_decay": 0.0625, "capturable": False, "foreach": None, "maximize": True},
                **{"differentiable": False, "params": [0, 1]},
            }
        ],
    },
    **{
        name: {
            "state": {
                index: {
                    **{"step": np.array(step, np.float32), "exp_avg": array},
                    **{"exp_avg_sq": 2 * array, "max_exp_avg_sq": 3 * array},
                }
                for index, step, array in ((0, 3.0, FIRST), (1, 2.0, SECOND))
            },
            "param_groups": [
                {
                    **{**ADAM, "maximize": True, "foreach": None, "capturable": False},
                    **{"differentiable": False, "fused": None},
                    **{"decoupled_weight_decay": name == "AdamW", "params": [0, 1]},
                }
            ],
        }
        for name in ("Adam", "AdamW")
    },
}
NAMES = list(THEIRS)


def made(name, **options):
    """An optimizer for two parameters, as they are in `THEIRS`."""
    params = {"W": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    return getattr(instep, name)(params, **options)


def loaded(name):
    opt = made(name)
    opt.load_state_dict(from_torch(THEIRS[name], opt))
    return opt


def plain(value):
    """Something that == compares whole, types included."""
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, value.tolist()
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def two_groups():
    theirs = copy.deepcopy(THEIRS["Adam"])
    group = theirs["param_groups"][0]
    theirs["param_groups"] = [
        {**group, "params": [0]},
        {**group, "lr": 0.75, "maximize": False, "params": [1]},
    ]
    return theirs


def of_an_old_version(name):
    theirs = copy.deepcopy(THEIRS[name])
    group = theirs["param_groups"][0]
    for key in ("foreach", "capturable", "differentiable", "fused", "maximize"):
        group.pop(key, None)
    group.pop("decoupled_weight_decay", None)
    for entry in theirs["state"].values():
        if "step" in entry:
            entry["step"] = int(entry["step"])
    return theirs
