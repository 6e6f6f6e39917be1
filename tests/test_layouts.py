"""Parameters and gradients of every memory layout: the bits of the contiguous run, in place."""

import array
import ctypes
import itertools

import numpy as np
import pytest
import reference
from conftest import DTYPES, LAYOUTS, SHAPES, assert_close_to_twin, bits, everything

import instep

STEPS = 4
OPTIMIZERS = {
    "sgd": lambda p, **k: instep.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.1, **k),
    "rmsprop": lambda p, **k: instep.RMSprop(
        p, lr=0.03, alpha=0.9, eps=1e-3, momentum=0.5, weight_decay=0.1, centered=True, **k
    ),
    "adamw": lambda p, **k: instep.AdamW(
        p, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, amsgrad=True, **k
    ),
}


def values(rng, shape, dtype, steps=STEPS):
    start = rng.normal(size=shape).astype(dtype)
    return start, [rng.normal(0.3, 1.0, shape).astype(dtype) for _ in range(steps)]


def run(make, param, grads, **options):
    opt = make(param, **options)
    reports = [opt.step(grad) for grad in grads]
    return everything(opt, param), reports


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    return OPTIMIZERS[request.param]


# ---- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameter_layouts(layout, make, dtype, rng, guarded):
    """Every parameter layout with every gradient layout; no byte between elements changes."""
    for shape in SHAPES:
        start, grads = values(rng, shape, dtype)
        expected, _ = run(make, start.copy(), grads, clip_value=0.8)
        for other in LAYOUTS:
            param = guarded.array(start, layout=layout)
            laid = [guarded.array(grad, layout=other) for grad in grads]
            before = [bits(grad) for grad in laid]
            found, _ = run(make, param, laid, clip_value=0.8)
            assert found == expected, (shape, other)
            assert [bits(grad) for grad in laid] == before
        guarded.check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_layouts_do_not_change_the_norm(layout, make, dtype, rng, guarded):
    """The sum runs in the parameter's order: one norm, one clip factor, the same bits."""
    for shape, home in itertools.product(SHAPES, ["C", "F"]):
        start, grads = values(rng, shape, dtype)
        plain = [guarded.array(grad, layout=home) for grad in grads]
        expected = run(make, guarded.array(start, layout=home), plain, clip_norm=0.7)
        laid = [guarded.array(grad, layout=layout) for grad in grads]
        assert run(make, guarded.array(start, layout=home), laid, clip_norm=0.7) == expected


@pytest.mark.parametrize("layout", ["sliced", "reversed", "misaligned_F", "record", "permuted"])
def test_layouts_beyond_a_piece(layout, isa, dtype, rng, guarded):
    """More than one piece, rows that end inside a tile."""
    start, grads = values(rng, (3, 211, 29), dtype, 2)
    expected, _ = run(OPTIMIZERS["adamw"], start.copy(), grads)
    param = guarded.array(start, layout=layout)
    assert run(OPTIMIZERS["adamw"], param, grads)[0] == expected
    strange = [guarded.array(grad, layout="reversed_sliced_F") for grad in grads]
    param = guarded.array(start, layout=layout)
    assert run(OPTIMIZERS["adamw"], param, strange)[0] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.7},
        {"ema_decay": 0.9, "zero_grads": True, "stats": True},
        {"state_dtype": "8bit", "seed": 3},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("given", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(300, 520), (2, 300, 513), (640, 1800)])
def test_transposed_gradients(shape, given, options, dtype, rng, guarded):
    """Read by panels of rows, which end at a matrix, at a piece and within a row."""
    start, grads = values(rng, shape, dtype, 2)

    def taken(lay):
        laid = [lay(grad.astype(given)) for grad in grads]
        found, reports = run(OPTIMIZERS["adamw"], start.copy(), laid, **options)
        assert all(not grad.any() for grad in laid) == ("zero_grads" in options)
        return found, [report.grad_norm for report in reports], [r.stats for r in reports]

    expected = taken(np.copy)
    assert taken(lambda grad: grad.swapaxes(-1, -2).copy().swapaxes(-1, -2)) == expected
    assert taken(lambda grad: guarded.array(grad, layout="reversed_sliced_F")) == expected
    guarded.check()


@pytest.mark.parametrize("home", ["C", "F"])
def test_gradients_across_the_parameter(home, isa, dtype, rng):
    """Of the other order, and broadcast ones, on every instruction set."""
    start, grads = values(rng, (520, 600), dtype, 2)
    for grad in [grads[0], np.broadcast_to(grads[0][:1], start.shape)]:
        along = np.array(grad, order=home)
        across = np.asarray(grad, order="F" if home == "C" else "C")
        expected = run(OPTIMIZERS["adamw"], start.copy(home), [along], clip_norm=0.7)
        assert run(OPTIMIZERS["adamw"], start.copy(home), [across], clip_norm=0.7) == expected
        assert run(OPTIMIZERS["adamw"], start.copy(home), [grad], clip_norm=0.7) == expected


def test_many_axes(rng):
    """As many axes as NumPy has, ten of which cannot be merged with a neighbour."""
    shape = (2,) * 10 + (1,) * 54
    start, grads = values(rng, shape, np.float32)
    expected, _ = run(OPTIMIZERS["adamw"], start.copy(), grads)
    big = np.zeros((4,) * 10, np.float32)
    param = big[(slice(None, None, 3),) * 10][(...,) + (None,) * 54]
    param[...] = start
    assert run(OPTIMIZERS["adamw"], param, [g[::-1][::-1] for g in grads])[0] == expected
    assert np.count_nonzero(big) == 1024


def test_strange_strides_of_axes_of_length_one(rng):
    start, grads = values(rng, (6, 1), np.float64)
    expected, _ = run(OPTIMIZERS["adamw"], start.copy(), grads)
    param = np.lib.stride_tricks.as_strided(start.copy(), (6, 1), (8, 1 << 40))
    laid = [np.lib.stride_tricks.as_strided(g, (6, 1), (8, -1)) for g in grads]
    assert run(OPTIMIZERS["adamw"], param, laid)[0] == expected


def test_a_column_and_its_neighbours(make, dtype, rng):
    """Interleaved parameters of one buffer, each with its own gradient."""
    table = rng.normal(size=(40, 3)).astype(dtype)
    before = table.copy()
    grads = [rng.normal(0.3, 1.0, (40, 2)).astype(dtype) for _ in range(STEPS)]
    opt = make([table[:, 0], table[:, 2]])
    apart = make(parts := [before[:, 0].copy(), before[:, 2].copy()])
    for grad in grads:
        opt.step([grad[:, 0], grad[:, 1]])
        apart.step([grad[:, 0].copy(), grad[:, 1].copy()])
    assert bits(table[:, 1]) == bits(before[:, 1])
    assert [bits(table[:, 0]), bits(table[:, 2])] == [bits(p) for p in parts]


def test_fields_of_a_packed_record(make, rng):
    record = np.dtype([("flag", "i1"), ("w", "f4"), ("v", "f8")])
    assert record.itemsize == 13
    table = np.zeros(50, record)
    start, grads = values(rng, 50, np.float32)
    table["flag"], table["w"], table["v"] = 7, start, start
    opt = make({"w": table["w"], "v": table["v"]})
    other = make(apart := {"w": start.copy(), "v": start.astype(np.float64)})
    for grad in grads:
        opt.step({"w": grad, "v": grad})
        other.step({"w": grad, "v": grad})
    assert (table["flag"] == 7).all()
    assert everything(opt, table["w"], table["v"]) == everything(other, *apart.values())


# ---- gradients -------------------------------------------------------------------------------


def test_broadcast_and_readonly_gradients(make, dtype, rng):
    for shape, small in [((5, 7), (7,)), ((5, 7), (5, 1)), ((3, 4, 5), ()), ((600,), ())]:
        start, grads = values(rng, small, dtype)
        start = rng.normal(size=shape).astype(dtype)
        views = [np.broadcast_to(grad, shape) for grad in grads]
        assert not views[0].flags.writeable and 0 in views[0].strides
        expected = run(make, start.copy(), [np.array(v, order="C") for v in views], clip_norm=0.9)
        assert run(make, start.copy(), views, clip_norm=0.9) == expected


def test_overlapping_readonly_window_as_gradient(make, dtype, rng):
    """A gradient may overlap itself: it is only read."""
    start, _ = values(rng, (6, 4), dtype)
    window = np.lib.stride_tricks.sliding_window_view(rng.normal(size=9).astype(dtype), 4)
    expected = run(make, start.copy(), [window.copy()] * 3)
    assert run(make, start.copy(), [window] * 3) == expected


def gradient_dtypes():
    dtypes = [np.dtype(code) for code in ("f2", "f4", "f8", "g")]
    try:
        import ml_dtypes
    except ImportError:
        return dtypes
    return [*dtypes, np.dtype(ml_dtypes.bfloat16)]


@pytest.mark.parametrize("given", gradient_dtypes(), ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_of_another_dtype(given, name, dtype, isa, rng, guarded):
    """Widening is exact: the bits of the converted gradient. Narrowing agrees with the twin."""
    make = OPTIMIZERS[name]
    for shape, layout in itertools.product([(), (1,), (37,), (6, 9), (1030,)], LAYOUTS):
        start, grads = values(rng, shape, given, 20 if layout == "C" else 2)
        start = start.astype(dtype)
        laid = [guarded.array(g, layout=layout) for g in grads]
        param = guarded.array(start)
        opt = make(param, clip_norm=2.0)
        for grad in laid:
            opt.step(grad)
        if given.itemsize <= dtype.itemsize:
            same = [grad.astype(dtype) for grad in grads]
            assert everything(opt, param) == run(make, start.copy(), same, clip_norm=2.0)[0]
        if layout == "C":
            # The optimizers above are those of these hyperparameters.
            group = {k: v for k, v in opt.param_groups[0].items() if k != "params"}
            wanted, states, _ = reference.run(
                reference.RULES[name], [start], [[g] for g in grads], clip_norm=2.0, **group
            )
            assert_close_to_twin(opt, [param], [start], wanted, states)


@pytest.mark.parametrize("given", ["f2", "bfloat16"])
def test_every_half_precision_value(given, isa):
    """All 65,536 patterns arrive as their exact values, subnormals, infinities and NaN too."""
    if given == "bfloat16":
        given = pytest.importorskip("ml_dtypes").bfloat16
    grads = np.arange(1 << 16, dtype=np.uint16).view(given)
    for dtype in DTYPES:
        param = np.zeros(1 << 16, dtype)
        instep.SGD(param, lr=1.0).step(grads)
        with np.errstate(invalid="ignore"):  # signalling NaN
            np.testing.assert_array_equal(param, -grads.astype(dtype))


def test_gradients_beyond_the_range_of_the_parameters(isa):
    """float64 gradients are scaled before they are rounded to float32."""
    for grads, expected in [((3e50, 4e50), (0.6, 0.8)), ((3e-50, 4e-50), (0.6, 0.8))]:
        scale = 1.0 if grads[0] > 1 else 1e-60
        param = np.zeros(2, np.float32)
        opt = instep.SGD(param, lr=1.0, clip_norm=1.0)
        report = opt.step(np.array(grads), grad_scale=scale)
        np.testing.assert_allclose(param, -np.array(expected), rtol=3e-7)
        np.testing.assert_allclose(report.grad_norm, 5 * grads[0] / 3 / scale, rtol=1e-14)


def test_extreme_grad_scale_of_float32_gradients(isa):
    """A factor that float32 cannot hold: 1e-30 / 1e-40 is 1e10."""
    param = np.zeros(3, np.float32)
    instep.SGD(param, lr=1.0).step(np.float32([1e-30, -3e-30, 0]), grad_scale=1e-40)
    np.testing.assert_allclose(param, [-1e10, 3e10, 0], rtol=3e-7)


# ---- other objects ---------------------------------------------------------------------------


class HasArray:
    """What many array libraries offer."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype=dtype)


class HasDLPack:
    """DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def torch_tensor(array):
    return pytest.importorskip("torch").from_numpy(array.copy())


def a_memmap(array, folder):
    mapped = np.memmap(folder / "param", array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    return mapped


def a_buffer(values):
    raw = bytearray(values.tobytes())
    return memoryview(raw).cast(values.dtype.char)


HOLDERS = {
    "array.array": lambda v, _: array.array(v.dtype.char, v.tolist()),
    "memoryview": lambda v, _: a_buffer(v),
    "frombuffer": lambda v, _: np.frombuffer(bytearray(v.tobytes()), v.dtype),
    "ctypes": lambda v, _: (ctypes.c_float * 6 if v.itemsize == 4 else ctypes.c_double * 6)(*v),
    "memmap": a_memmap,
    "matrix": lambda v, _: v.copy().view(type("Sub", (np.ndarray,), {})),
    "dlpack": lambda v, _: HasDLPack(v.copy()),
    "torch": lambda v, _: torch_tensor(v),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_parameters_that_are_no_numpy_arrays(holder, make, dtype, rng, tmp_path):
    """Whatever shares its memory is updated in place; gradients of the same kinds are read."""
    start, grads = values(rng, 6, dtype)
    plain = start.copy()
    expected, _ = run(make, plain, grads)
    param = HOLDERS[holder](start, tmp_path)
    if holder == "dlpack" and not np.from_dlpack(param).flags.writeable:
        pytest.skip("this NumPy reads what DLPack hands over, and does not write to it")
    opt = make(param)
    for grad in grads:
        opt.step(grad)
    seen = param.array if isinstance(param, HasDLPack) else param
    assert everything(opt, seen) == expected


@pytest.mark.parametrize("holder", ["array", *(h for h in HOLDERS if h != "memmap")])
def test_gradients_that_are_no_numpy_arrays(holder, make, dtype, rng):
    start, grads = values(rng, 6, dtype)
    expected = run(make, start.copy(), grads, clip_norm=1.0, nonfinite="raise")
    convert = HOLDERS.get(holder, lambda grad, _: HasArray(grad))
    strange = [convert(grad, None) for grad in grads]
    assert run(make, start.copy(), strange, clip_norm=1.0, nonfinite="raise") == expected


def test_scalars_as_gradients_of_a_zero_dimensional_parameter(make):
    expected = run(make, np.array(1.5), [np.array(0.25), np.array(-2.0)])
    for grads in [(0.25, -2.0), (np.float32(0.25), np.float16(-2)), (np.float64(0.25), -2.0)]:
        assert run(make, np.array(1.5), list(grads)) == expected


def test_a_parameter_keeps_its_buffer_alive():
    """The memory may not move while an optimizer holds it."""
    raw = bytearray(np.ones(4, np.float32).tobytes())
    opt = instep.SGD(memoryview(raw).cast("f"), lr=0.5)
    with pytest.raises(BufferError):
        raw.extend(b"more")
    opt.step(np.ones(4, np.float32))
    assert np.frombuffer(raw, np.float32).tolist() == [0.5] * 4
    numbers = array.array("d", [1, 2, 3])
    opt = instep.SGD(numbers, lr=0.5)
    with pytest.raises(BufferError):
        numbers.append(4)
    opt.step(np.ones(3))
    assert numbers.tolist() == [0.5, 1.5, 2.5]
