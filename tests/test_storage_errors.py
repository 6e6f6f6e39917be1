"""States in fewer bits: what is refused, before anything is written."""

import numpy as np
import pytest
from conftest import everything
from storage_common import ROUNDED, fresh, some_optimizer

import instep


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_centered_needs_full_states(state_dtype, rng):
    """v - a^2 would be the noise of the rounding, and the step without bound."""
    message = rf"state_dtype='{state_dtype}' does not go with centered=True.*'float32'"
    with pytest.raises(ValueError, match=message):
        instep.RMSprop(np.ones(3), centered=True, state_dtype=state_dtype)
    opt = instep.RMSprop(param := np.ones(3), state_dtype=state_dtype)
    opt.step(np.ones(3))
    before = everything(opt, param)
    opt.param_groups[0]["centered"] = True
    with pytest.raises(ValueError, match=message):
        opt.step(np.ones(3))
    opt.param_groups[0]["centered"] = False
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": np.ones(2), "centered": True})
    full = instep.RMSprop(np.ones(3), centered=True)
    full.step(np.ones(3))
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(full.state_dict())
    assert everything(opt, param) == before
    assert instep.RMSprop(np.ones(3), centered=True, state_dtype="float32").step(np.ones(3))


@pytest.mark.parametrize(
    "value, error, message",
    [
        (
            "int8",
            ValueError,
            "state_dtype must be one of 'float32', 'bfloat16', '8bit', got 'int8'",
        ),
        (8, TypeError, "state_dtype must be one of.*got 8"),
        (np.float32, TypeError, "state_dtype must be one of.*float32"),
    ],
)
def test_state_dtypes_that_there_are_not(value, error, message):
    with pytest.raises(error, match=message):
        instep.Adam(np.ones(2), state_dtype=value)


def test_the_state_dtype_of_an_optimizer_is_fixed():
    opt = instep.Adam(np.ones(2))
    with pytest.raises(AttributeError):
        opt.state_dtype = "8bit"
    assert opt.state_dtype is None


@pytest.mark.parametrize(
    "value, error, message",
    [
        (-1, ValueError, "seed must be at least 0 and below"),
        (2**64, ValueError, "seed must be.*18446744073709551616"),
        (1.0, TypeError, "seed must be an int, got 1.0"),
        (True, TypeError, "seed must be an int"),
        (None, TypeError, "seed must be an int"),
    ],
)
def test_seeds_that_there_are_not(value, error, message):
    with pytest.raises(error, match=message):
        instep.Adam(np.ones(2), seed=value)
    opt = instep.Adam(np.ones(2), seed=2**64 - 1)
    with pytest.raises(error, match=message):
        opt.seed = value
    assert opt.seed == 2**64 - 1


def entry_of(state):
    return state["state"]["param"]


def halved(entry, name):
    entry[name] = entry[name][:1]


MISFITS = {
    "no scales": (lambda e: e.pop("exp_avg_scale"), TypeError, "'exp_avg_scale' beside it.*int8"),
    "scales alone": (lambda e: e.pop("exp_avg"), ValueError, "a state 'exp_avg_scale'"),
    "unsigned": (lambda e: e.update(exp_avg=e["exp_avg_sq"]), TypeError, "int8 with.*uint8"),
    "signed": (lambda e: e.update(exp_avg_sq=e["exp_avg"]), TypeError, "uint8 with.*int8"),
    "int64": (lambda e: e.update(exp_avg=e["exp_avg"].astype(int)), TypeError, "got int64"),
    "shape": (lambda e: halved(e, "exp_avg"), ValueError, r"exp_avg'\] has shape \(1, 50\)"),
    "blocks": (lambda e: halved(e, "exp_avg_scale"), ValueError, "1650 elements have 13 blocks"),
    "integers": (
        lambda e: e.update(exp_avg_scale=np.ones(13, int)),
        TypeError,
        r"exp_avg_scale'\] must be floating-point, got int64",
    ),
    "below": (lambda e: e["exp_avg_scale"].fill(-1), ValueError, "scales below 0"),
    "axes": (lambda e: e.update(axes=(0, 0)), ValueError, "name 2 axes once each, got"),
    "axis": (lambda e: e.update(axes=1), ValueError, r"'axes'\] must name 2 axes.*got 1"),
    "no axes": (lambda e: e.update(axes=None), ValueError, "'axes'.*got None"),
    "names": (lambda e: e.update(axes=("a", 0)), ValueError, "'axes'.*got"),
    "ragged": (lambda e: e.update(axes=((0,), 1)), ValueError, "'axes'.*got"),
    "codes as floats": (
        lambda e: e.update(exp_avg=e["exp_avg"].astype(np.float32)),
        TypeError,
        r"exp_avg'\] is float32 with 'exp_avg_scale' beside it, which only int8 has",
    ),
    "codes as bits": (
        lambda e: e.update(exp_avg_sq=e["exp_avg_sq"].astype(np.uint16)),
        TypeError,
        r"exp_avg_sq'\] is uint16 with 'exp_avg_sq_scale' beside it, which only uint8 has",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("here", [None, "8bit"])
def test_snapshots_that_do_not_fit(here, misfit):
    change, error, message = MISFITS[misfit]
    saved = some_optimizer("8bit").state_dict()
    change(entry_of(saved))
    opt = fresh(here)
    with pytest.raises(error, match=message):
        opt.load_state_dict(saved)
    assert opt.state == {} and opt.steps == 0


def test_second_moments_below_zero():
    saved = some_optimizer(None).state_dict()
    entry_of(saved)["exp_avg_sq"][3, 4] = -1e-9
    opt = fresh("8bit")
    with pytest.raises(ValueError, match="exp_avg_sq'] has elements below 0"):
        opt.load_state_dict(saved)
    assert opt.state == {}
    entry_of(saved)["exp_avg_sq"][3, 4] = -0.0
    opt.load_state_dict(saved)
    assert opt.decoded_state("param")["exp_avg_sq"][3, 4] == 0


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_a_factory_must_give_dense_arrays(state_dtype):
    opt = instep.Adam(
        param := np.zeros((4, 6), np.float32),
        state_dtype=state_dtype,
        state_factory=lambda name, shape, dtype: np.zeros((*shape, 2), dtype)[..., 0],
    )
    with pytest.raises(ValueError, match=r"param\.exp_avg.*not aligned and C-contiguous"):
        opt.step(np.ones((4, 6)))
    assert opt.state == {} and not param.any()


def test_gradients_over_scales_are_refused():
    opt = instep.SGD(np.zeros(256, np.float32), momentum=0.5, state_dtype="8bit")
    opt.step(np.ones(256, np.float32))
    scales = opt.state["param"]["momentum_buffer_scale"]
    over = np.broadcast_to(scales[:1], 256)
    with pytest.raises(ValueError, match=r"overlaps state\['param'\]\['momentum_buffer_scale'\]"):
        opt.step(over)
