"""What the tests share: instruction sets, guarded arrays of every layout, seeded randomness."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import instep
from instep import _core

ISAS = instep.available_isas()
DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]
# Parameters that have float32 masters.
LOW = [np.dtype(np.float16)]
if importlib.util.find_spec("ml_dtypes"):
    import ml_dtypes

    LOW.append(np.dtype(ml_dtypes.bfloat16))
# Error of parameters and states, relative to the distance travelled.
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-11}
# Around vector widths (4, 8, 16), unrolled ones and tiles.
SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1000, 4099]
GUARD = 0xA5
GUARD_BYTES = 256


@pytest.fixture(autouse=True, scope="session")
def _interruptible():
    """A shell has what it starts in the background ignore SIGINT, which tests raise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def on_isa(name):
    """Compute with the kernels of this instruction set."""
    before = instep.isa()
    assert _core.select_isa(name)
    try:
        yield
    finally:
        _core.select_isa(before)


# ---- fixtures --------------------------------------------------------------------------------


@pytest.fixture(params=ISAS)
def isa(request):
    """Each instruction set of this machine in turn."""
    before = instep.isa()
    assert _core.select_isa(request.param)
    yield request.param
    assert _core.select_isa(before)


@pytest.fixture(params=DTYPES, ids=["f32", "f64"])
def dtype(request):
    return request.param


@pytest.fixture(params=LOW, ids=str)
def low(request):
    """The dtypes of parameters that have a float32 master."""
    return request.param


@pytest.fixture
def rng(request):
    """Random numbers that are the test's own, and the same in every run."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def num_threads():
    """`instep.set_num_threads`, undone after the test."""
    before = instep.get_num_threads()
    yield instep.set_num_threads
    instep.set_num_threads(before)


@pytest.fixture
def guarded():
    """An allocator whose arrays lie between guard bytes; all of them are checked in the end."""
    arrays = Guarded()
    yield arrays
    arrays.check()


# ---- layouts ---------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How an array lies in memory."""

    order: str = "C"  # which axis is innermost: "C" the last, "F" the first, "P" the middle one
    step: int = 1  # every step-th place along each axis is used
    signs: tuple[int, ...] = (1,)  # of the strides, repeated over the axes
    padding: int = 0  # bytes between neighbours, as in a packed record
    offset: int = 0  # bytes off alignment


LAYOUTS = {
    "C": Layout(),
    "F": Layout(order="F"),
    "permuted": Layout(order="P"),
    "sliced": Layout(step=2),
    "sliced_F": Layout(order="F", step=3),
    "reversed": Layout(signs=(-1,)),
    "half_reversed": Layout(signs=(1, -1)),
    "reversed_sliced_F": Layout(order="F", step=2, signs=(-1, 1)),
    "misaligned": Layout(offset=1),
    "misaligned_F": Layout(order="F", offset=3),
    "record": Layout(padding=3, offset=1),
}
SHAPES = [(), (1,), (37,), (7, 1), (1, 5, 1), (6, 9), (3, 4, 5), (2, 3, 0), (33, 50)]


def memory_order(ndim, order):
    """Axes, outermost first."""
    axes = list(range(ndim))
    if order == "F":
        return axes[::-1]
    if order == "P":
        return axes[ndim // 2 :] + axes[: ndim // 2]
    return axes


class Guarded:
    """Arrays in buffers full of `GUARD` bytes."""

    def __init__(self):
        self._taken = []

    def empty(self, shape, dtype, layout="C", shift=0):
        """An uninitialised array; `shift` moves it by whole elements off its alignment."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = np.dtype(dtype)
        order, step, signs, padding, offset = LAYOUTS[layout]
        strides, unit = [0] * len(shape), dtype.itemsize + padding
        for axis in reversed(memory_order(len(shape), order)):
            strides[axis] = unit * step * signs[axis % len(signs)]
            unit = abs(strides[axis]) * max(shape[axis], 1)
        first = GUARD_BYTES + offset + shift * dtype.itemsize
        start = first - sum(
            stride * (length - 1)
            for stride, length in zip(strides, shape, strict=True)
            if stride < 0 and length > 1
        )
        raw = np.full(first + unit + dtype.itemsize + GUARD_BYTES, GUARD, np.uint8)
        array = np.ndarray(shape, dtype, buffer=raw, offset=start, strides=tuple(strides))
        if 0 not in shape:
            self._taken.append((raw, array, start))
        else:
            self._taken.append((raw, None, start))
        return array

    def array(self, values, dtype=None, layout="C", shift=0):
        """A copy of `values`."""
        values = np.asarray(values)
        array = self.empty(values.shape, dtype or values.dtype, layout, shift)
        array[...] = values
        return array

    def check(self):
        """No byte outside the arrays has changed."""
        for raw, array, start in self._taken:
            outside = np.ones(raw.shape, bool)
            if array is not None:
                np.ndarray(
                    (*array.shape, array.itemsize),
                    bool,
                    buffer=outside,
                    offset=start,
                    strides=(*array.strides, 1),
                )[...] = False
            changed = np.flatnonzero(outside & (raw != GUARD))
            assert changed.size == 0, f"bytes {changed[:8] - start} from the first element"


# ---- comparisons -----------------------------------------------------------------------------


def travel_error(found, expected, start=0.0):
    """Largest error over an array, relative to the largest distance it travelled."""
    expected = np.asarray(expected)
    found = np.asarray(found)
    assert found.shape == expected.shape
    if expected.size == 0:
        return 0.0
    distance = np.max(np.abs(expected - np.asarray(start, np.float64)))
    assert distance > 0, "nothing moved: the test would show nothing"
    return float(np.max(np.abs(found.astype(np.float64) - expected)) / distance)


def assert_close_to_twin(opt, params, starts, expected, expected_states, names=None):
    """Parameters and all states agree with the float64 twin."""
    names = names or list(opt.state)
    state = opt.state
    for k, (found, start, wanted) in enumerate(zip(params, starts, expected, strict=True)):
        tolerance = TOLERANCE[found.dtype]
        error = travel_error(found, wanted, start)
        assert error < tolerance, f"{names[k]}: {error:.2g}"
        found_state = {key: v for key, v in state.get(names[k], {}).items() if key != "step"}
        assert found_state.keys() == expected_states[k].keys()
        for key, value in expected_states[k].items():
            assert found_state[key].dtype == found.dtype
            error = travel_error(found_state[key], value)
            assert error < tolerance, f"{names[k]}.{key}: {error:.2g}"


def average_error(found, expected, start, decay):
    """Error of an average in units of what docs/math.md allows: that of the parameters, and half
    a unit in the last place of its size per step, of which 1 / (1 - decay) add up."""
    if found.size == 0:
        return 0.0
    way = np.max(np.abs(expected - np.asarray(start, np.float64)))
    size = max(np.max(np.abs(expected)), np.max(np.abs(start)))
    bound = TOLERANCE[found.dtype] * way + np.finfo(found.dtype).eps * size / (1 - decay)
    return float(np.max(np.abs(found.astype(np.float64) - expected)) / bound)


def walk_order(array):
    """The axes by falling |stride|, as a step walks them."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


def bits(array):
    """The elements' bytes in C order, whatever the layout."""
    return np.ascontiguousarray(array).tobytes()  # as it lies, NumPy 2.0 takes 32 axes only


def assert_rounded(given, master):
    """The user's array is the master rounded to nearest, bit for bit but for NaN's own bits."""
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaN
        rounded = master.astype(given.dtype)
    nan = np.isnan(master)
    assert np.isnan(given[nan]).all() and bits(given[~nan]) == bits(rounded[~nan])


def everything(opt, *arrays):
    """All that a step may change, to be compared bit for bit."""
    states = {
        name: {key: bits(v) if key != "step" else v for key, v in entry.items()}
        for name, entry in opt.state.items()
    }
    averages = None if opt.ema is None else [bits(average) for average in leaves(opt.ema)]
    return opt.steps, [bits(a) for a in arrays], states, averages


def tiny_problem(seed=0, steps=8, dtype=np.float32):
    """A nested tree of parameters, and gradients for some steps."""
    rng = np.random.default_rng(seed)

    def tree(mean):
        return {
            "layers": [
                {"W": rng.normal(mean, 1, (5, 4)).astype(dtype), "b": rng.normal(mean, 1, 4)},
                {"W": rng.normal(mean, 1, (4, 3)).astype(dtype), "b": rng.normal(mean, 1, 3)},
            ],
            "scale": rng.normal(mean, 1, ()).astype(dtype)[...],
        }

    return tree(0.0), [tree(0.3) for _ in range(steps)]


def leaves(tree):
    """Arrays of a nested container, in order."""
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in leaves(branch)]
    if isinstance(tree, list | tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree]


def copy_tree(tree):
    """The same nesting with copies of the arrays; None stays."""
    if isinstance(tree, dict):
        return {key: copy_tree(branch) for key, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(copy_tree(branch) for branch in tree)
    return None if tree is None else np.array(tree, order="K")


def quadratic(target=2.0):
    """Loss and gradient of a valley; gradient descent diverges at a rate of ``2 * size``."""

    def loss_and_grad(w):
        return np.mean((w - target) ** 2) / 2, (w - target) / w.size

    return loss_and_grad


def near_zero(seed=0, size=50):
    """Parameters to start from."""
    return np.random.default_rng(seed).normal(0, 0.1, size)


class Shelf:
    """A `state_factory` that remembers what it was asked for; its arrays are full of rubbish."""

    def __init__(self, make=lambda shape, dtype: np.full(shape, np.nan, dtype)):
        self.arrays, self.asked, self.make = {}, [], make

    def __call__(self, name, shape, dtype):
        self.asked.append((name, shape, dtype))
        self.arrays[name] = self.make(shape, dtype)
        return self.arrays[name]


# ---- other processes -------------------------------------------------------------------------


def run_python(code, timeout=60, **environment):
    """Run a program in a fresh interpreter that finds this instep and these tests."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("INSTEP_")}
    folders = [Path(instep.__file__).parent.parent, Path(__file__).parent]
    env["PYTHONPATH"] = os.pathsep.join([*map(str, folders), env.get("PYTHONPATH", "")])
    env["PYTHONWARNINGS"] = "error"
    env.update(environment)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        check=False,
    )
