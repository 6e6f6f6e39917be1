"""`zero_grads`: gradients zeroed in the step that reads them, or refused and nothing written."""

import copy

import numpy as np
import pytest
from conftest import bits, everything, run_python
from test_layouts import HasArray, HasDLPack, a_buffer, torch_tensor

import instep
from instep import _check


def make(params, **options):
    return instep.SGD(params, **{"lr": 0.5, "zero_grads": True, **options})


# ---- zeroed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_buffers_that_accumulate(steps, rng):
    """What `grad += ...` of every batch starts from."""
    w, other = np.ones(7), np.ones(7)
    opt, plain = make({"w": w}, momentum=0.9), make({"w": other}, momentum=0.9, zero_grads=False)
    buffer = np.zeros(7)
    for _ in range(steps):
        batches = [rng.normal(size=7) for _ in range(3)]
        for batch in batches:
            buffer += batch
        opt.step({"w": buffer}, grad_scale=3.0)
        assert not buffer.any() and not np.signbit(buffer).any()
        plain.step({"w": (batches[0] + batches[1]) + batches[2]}, grad_scale=3.0)
    assert bits(w) == bits(other)


def test_the_own_buffers():
    opt = make([np.ones(3), np.ones(())])
    for buffer in opt.grads:
        buffer += 1
    opt.step()
    assert all((buffer == 0).all() for buffer in opt.grads)
    assert [p.tolist() for p in opt.param_groups[0]["params"]] == [[0.5] * 3, 0.5]


@pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
def test_of_gradients_that_are_not_finite(policy):
    """A skipped step zeroes: sums that go on from NaN would be NaN for ever."""
    params = [np.ones(2), np.ones(2)]
    grads = [np.array([1.0, np.nan]), np.ones(2)]
    opt = make(params, nonfinite=policy)
    if policy == "raise":
        with pytest.raises(FloatingPointError):
            opt.step(grads)
        assert np.isnan(grads[0][1]) and grads[1].tolist() == [1, 1]
    else:
        assert opt.step(grads).applied == (policy == "propagate")
        assert [g.tolist() for g in grads] == [[0, 0], [0, 0]]
    assert (params[1] == 1).all() == (policy != "propagate")
    assert opt.step([np.ones(2), None]).applied


def test_of_gradients_that_overflow_in_the_parameter():
    grad = np.array([1e300, 1.0])
    opt = make(np.ones(2, np.float32), nonfinite="skip")
    assert not opt.step(grad).applied and not grad.any()


def test_switched_on_and_off():
    opt = make([np.ones(2)], zero_grads=False)
    grad = np.ones(2)
    for k, on in enumerate([False, True, False, False, True, True]):
        grad[...] = 1
        opt.zero_grads = on
        opt.step([grad])
        assert grad.any() != on, k
    with pytest.raises(TypeError, match="zero_grads must be True or False, got 0"):
        opt.zero_grads = 0


def test_it_is_saved_and_copied():
    opt = make([np.ones(2)])
    other = instep.SGD([np.ones(2)])
    other.load_state_dict(opt.state_dict())
    for each in (other, copy.deepcopy(opt)):
        grad = np.ones(2)
        each.step([grad])
        assert each.zero_grads is True and not grad.any()


@pytest.mark.parametrize(
    "lay",
    [
        lambda flat: [flat[0:12].reshape(3, 4), flat[12:24].reshape(3, 4)],
        lambda flat: [flat[12:24].reshape(4, 3).T, flat[0:12].reshape(3, 4)[::-1]],
        lambda flat: [flat.reshape(3, 4, 2)[..., 0], flat.reshape(3, 4, 2)[..., 1]],  # interleaved
        lambda flat: [flat.reshape(6, 4)[::2], flat.reshape(6, 4)[1::2]],
    ],
)
def test_parts_of_one_buffer(lay, rng):
    """Whatever their order, as long as no element belongs to both."""
    flat = np.zeros(30)
    grads = lay(flat[:24])
    values = [rng.normal(size=(3, 4)) for _ in range(2)]
    params, others = ([np.ones((3, 4)) for _ in range(2)] for _ in range(2))
    opt, plain = make(params), make(others, zero_grads=False)
    for _ in range(3):
        flat[...] = 9
        for grad, value in zip(grads, values, strict=True):
            grad[...] = value
        opt.step(grads)
        plain.step(values)
        assert flat.tolist() == [0] * 24 + [9] * 6
    assert everything(opt, *params) == everything(plain, *others)


def test_a_memory_map_and_other_derived_arrays(tmp_path):
    grad = np.memmap(tmp_path / "grad", np.float32, "w+", shape=3)
    grad[...] = 1
    derived = np.ones(3).view(type("Sub", (np.ndarray,), {}))
    make([np.ones(3), np.ones(3)]).step([grad, derived])
    assert not grad.any() and not derived.any()


def test_empty_and_single_elements_overlap_nothing():
    stretched = np.lib.stride_tricks.as_strided(np.ones(1), (0, 5), (0, 0))
    alone = np.lib.stride_tricks.as_strided(np.ones(1), (1, 1), (0, 0))
    params = [np.ones((0, 5)), np.ones((0, 5)), np.ones((1, 1))]
    opt = make(params)
    for _ in range(2):
        alone[...] = 1
        opt.step([stretched, stretched, alone])
        assert alone == 0


# ---- refused ---------------------------------------------------------------------------------


def overlapping(shape, strides):
    return np.lib.stride_tricks.as_strided(np.ones(40), shape, strides)


def read_only():
    grad = np.ones((3, 4))
    grad.flags.writeable = False
    return grad


ALONE = {
    "read-only": (read_only, ValueError, "is a read-only float64 array"),
    "broadcast": (
        lambda: np.broadcast_to(np.ones(4), (3, 4)),
        ValueError,
        "is a read-only float64 array",
    ),
    "equal rows": (lambda: overlapping((3, 4), (0, 8)), ValueError, "overlaps itself"),
    "window": (lambda: overlapping((3, 4), (8, 8)), ValueError, "overlaps itself"),
    "interleaved": (lambda: overlapping((3, 4), (32, 16)), ValueError, "overlaps itself"),
    "array holder": (lambda: HasArray(np.ones((3, 4))), TypeError, "is HasArray, .* NumPy arrays"),
    "dlpack": (lambda: HasDLPack(np.ones((3, 4))), TypeError, "is HasDLPack, .* NumPy arrays"),
    "torch": (lambda: torch_tensor(np.ones((3, 4))), TypeError, "is Tensor, .* NumPy arrays"),
    "memoryview": (
        lambda: a_buffer(np.ones(12)).cast("B").cast("d", (3, 4)),
        TypeError,
        "is memoryview, .* NumPy arrays",
    ),
    "integers": (lambda: np.ones((3, 4), int), TypeError, "must be floating-point"),
    "nonsense": (lambda: "abc", TypeError, "not readable as an array"),
}


@pytest.mark.parametrize("short_way", [False, True])
@pytest.mark.parametrize("case", ALONE)
def test_one_that_can_not_be_zeroed(case, short_way):
    give, kind, text = ALONE[case]
    params = [np.ones((3, 4)), np.ones(2)]
    opt = make(params)
    if short_way:
        opt.step([np.ones((3, 4)), np.ones(2)])
        assert opt._steady.ready
    grads = [give(), np.ones(2)]
    before = everything(opt, *params)
    with pytest.raises(kind, match=rf"grads\[0\] .*{text}"):
        opt.step(grads)
    assert everything(opt, *params) == before and (grads[1] == 1).all()
    opt.zero_grads = False
    if kind is ValueError:
        opt.step(grads)  # it is only read then


@pytest.mark.parametrize("scalar", [2.0, np.float64(2), np.float32(2)])
def test_scalars(scalar):
    opt = make([np.ones(())])
    with pytest.raises(TypeError, match=r"grads\[0\] is float.*NumPy arrays alone"):
        opt.step([scalar])
    opt.step([np.array(2.0)])
    assert opt.param_groups[0]["params"][0] == 0


@pytest.mark.parametrize("short_way", [False, True])
def test_two_that_share_memory(short_way):
    params = {"a": np.ones((3, 4)), "b": np.ones((3, 4)), "c": np.ones(4)}
    opt = make(params)
    if short_way:
        opt.step({name: np.ones_like(p) for name, p in params.items()})
        assert opt._steady.ready
    flat = np.ones(60)
    grad = flat[:12].reshape(3, 4)
    before = everything(opt, *params.values())
    for pair in [
        (grad, grad),
        (grad, grad[::-1]),
        (grad, flat[11:23].reshape(3, 4)),
        (flat[1:25:2].reshape(3, 4), flat[0:36:3].reshape(3, 4)),
    ]:
        with pytest.raises(ValueError, match=r"grads\['[ab]'\] overlaps grads\['[ab]'\].*zeroed"):
            opt.step({"a": pair[0], "b": pair[1], "c": np.ones(4)})
        assert everything(opt, *params.values()) == before and (flat == 1).all()
    opt.step({"a": grad, "b": None, "c": flat[12:16]})  # one of them alone is fine
    assert flat[:16].tolist() == [0] * 16


# ---- looked at once --------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch):
    """How often Python had to look at how gradients lie."""
    counted, look = [], _check.gradients_apart
    monkeypatch.setattr(
        _check, "gradients_apart", lambda *a: (counted.append(1), look(*a)) and None
    )
    return counted


def test_what_was_found_apart_is_not_looked_at_again(looks):
    table = np.ones((50, 3))
    opt = make([np.ones(50), np.ones(50)])
    for _ in range(5):
        opt.step([table[:, 0], table[:, 2]])
    assert len(looks) == 1 and opt._steady.ready
    opt.step([table[:, 0], table[:, 1]])
    opt.step([table[:, 0], table[:, 1]])
    assert len(looks) == 2
    with pytest.raises(ValueError, match="overlaps"):
        opt.step([table[:, 1], table[:, 1]])
    opt.step([table[:, 0], table[:, 1]])
    opt.step([table[:, 0], None])
    assert len(looks) == 4
    apart = [np.ones(50), np.ones(50)]
    opt.step(apart)
    assert len(looks) == 4  # the core sees that itself


def test_the_same_bytes_walked_in_another_way_are_looked_at(looks):
    """The range alone says nothing about the elements within it."""
    flat = np.ones(20)
    fine = np.lib.stride_tricks.as_strided(flat, (3, 5), (40, 8))
    odd = np.lib.stride_tricks.as_strided(flat, (3, 5), (24, 16))
    opt = make(np.ones((3, 5)))
    opt.step(fine)
    opt.step(fine)
    assert looks == []
    with pytest.raises(ValueError, match="grads overlaps itself"):
        opt.step(odd)
    opt.step(fine)
    assert len(looks) == 1


def test_an_optimizer_that_steps_for_long_allocates_nothing():
    code = """
import numpy as np, instep
from instep import _core
opt = instep.AdamW([np.ones(100), np.ones(3)], zero_grads=True, ema_decay=0.9)
buffers = opt.grads
opt.step()
before = _core.allocations()
for _ in range(1000):
    opt.step(buffers)
assert _core.allocations() == before and opt._steady.ready
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
