"""What is saved comes back: optimizers bit for bit, any nesting of values, both formats."""

import json
import os
import random
import sys
import zipfile
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
from checkpoint_common import (
    SUFFIXES,
    assert_same,
    ml_dtypes,
    small_optimizer,
    temporary_files,
    through_file,
)
from conftest import copy_tree, everything, leaves, tiny_problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from schedules_common import JSON_SCHEDULES
from test_optim import ROWS
from test_schedules_resume import RATES, problem

import instep
from instep import _checkpoint_tree as tree
from instep.schedules import ReduceOnPlateau, Warmup

needs_ml_dtypes = pytest.mark.skipif(ml_dtypes is None, reason="needs ml_dtypes")


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


# ---- optimizers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_every_optimizer_resumes_bit_for_bit(name, path):
    """Parameters and optimizer from one file, in mid-run, with clipping and late gradients."""
    params, steps = tiny_problem(steps=10)
    opt = ROWS[name].make(params, clip_norm=2.0, nonfinite="skip")
    for t, grads in enumerate(steps[:5]):
        grads["scale"] = None if t < 2 else grads["scale"]
        opt.step(grads)
    instep.save(path, opt, params=params)
    checkpoint = instep.load(path)
    assert_same(checkpoint.state_dict, opt.state_dict())
    other_params = checkpoint.extra["params"]
    other = type(opt)(other_params)
    assert other.load_state_dict(checkpoint.state_dict) == ((), ())
    for grads in steps[5:]:
        assert opt.step(grads) == other.step(grads)
    assert everything(other, *leaves(other_params)) == everything(opt, *leaves(params))


@pytest.mark.parametrize("schedule", [s for s in JSON_SCHEDULES if s in RATES], ids=repr)
def test_every_schedule_resumes_bit_for_bit(schedule, path):
    params, steps = problem()
    opt = instep.AdamW(params, lr=schedule, clip_norm=3.0, nonfinite="skip")
    for grads in steps[:9]:
        opt.step(grads)
    instep.save(path, opt)
    copies = copy_tree(params)
    other = instep.AdamW(copies)
    other.load_state_dict(instep.load(path).state_dict)
    assert other.param_groups[0]["lr"] == schedule
    assert [other.step(grads) for grads in steps[9:]] == [opt.step(grads) for grads in steps[9:]]
    assert everything(other, *leaves(copies)) == everything(opt, *leaves(params))


def test_a_plateau_in_two_groups_comes_back_as_one(path):
    plateau = ReduceOnPlateau(0.5, patience=0, factor=0.5)
    groups = [
        {"params": np.ones(2), "lr": plateau},
        {"params": np.ones(2), "lr": Warmup(0.5 * plateau, 3)},
    ]
    opt = instep.SGD(groups)
    plateau.observe(1.0)
    plateau.observe(2.0)
    instep.save(path, opt)
    first, second = instep.load(path).state_dict["param_groups"]
    assert first["lr"] is second["lr"].after.second
    assert first["lr"] is not plateau and first["lr"].state == plateau.state
    plateau.observe(3.0)
    assert opt.load_state_dict(instep.load(path).state_dict) == ((), ())
    assert opt.param_groups[0]["lr"] is plateau and plateau.state == first["lr"].state


def test_an_optimizer_and_its_state_dict_make_the_same_file(path, tmp_path):
    """Equal content makes equal bytes, too."""
    opt, _ = small_optimizer()
    other = tmp_path / f"other{path.suffix}"
    instep.save(path, opt, a=1)
    instep.save(other, opt.state_dict(), a=1)
    assert path.read_bytes() == other.read_bytes()


def test_a_file_does_not_change_with_later_steps(path):
    opt, w = small_optimizer()
    instep.save(path, opt, w=w)
    before, state = w.copy(), opt.state_dict()
    opt.step({"w": w.copy()})
    checkpoint = instep.load(path)
    assert_same(checkpoint.extra["w"], before)
    assert_same(checkpoint.state_dict, state)


def test_partial_loading(path):
    old = instep.SGD({"a": np.ones(2), "b": np.ones(2)}, momentum=0.5)
    old.step({"a": np.ones(2), "b": np.ones(2)})
    instep.save(path, old)
    new = instep.SGD({"a": np.ones(2), "c": np.ones(2)}, momentum=0.5)
    with pytest.raises(ValueError, match=r"missing \['c'\], unexpected \['b'\]"):
        new.load_state_dict(instep.load(path).state_dict)
    assert new.state == {}
    report = new.load_state_dict(instep.load(path).state_dict, strict=False)
    assert report == (("c",), ("b",))
    assert_same(new.state["a"], old.state["a"])


def test_random_states(path):
    """Of NumPy's generators and Python's."""
    generators = [np.random.Generator(bits(3)) for bits in (np.random.PCG64, np.random.MT19937)]
    generators += [np.random.Generator(bits(3)) for bits in (np.random.Philox, np.random.SFC64)]
    python = random.Random(5)
    states = [generator.bit_generator.state for generator in generators]
    found = through_file(path, states=states, python=python.getstate())
    assert_same(found, {"states": states, "python": python.getstate()})
    for generator, state in zip(generators, found["states"], strict=True):
        expected = generator.random(5)
        generator.bit_generator.state = state
        assert_same(generator.random(5), expected)
    expected = python.random()
    python.setstate(found["python"])
    assert python.random() == expected


# ---- values ----------------------------------------------------------------------------------

VALUES = {
    "none": None,
    "flags": [True, False, np.True_],
    "integers": [0, -1, 2**63 - 1, -(2**63), 2**63, -(2**64), 10**5000],
    "floats": [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, np.inf, -np.inf, np.nan],
    "complex": [1j, complex(-0.0, np.nan), complex(np.inf, 0.1)],
    "text": ["", "ü/\\\0\n", "\U0001f600", "\ud83d", "\ud83d\ude00", '"#'],
    "bytes": [b"", b"\x00\xff"],
    "containers": [[], (), {}, [[]], ((),), ([{"a": (1, [2, (3,)])}],)],
    "keys": {"": 1, "layers.0.W": 2, "a/b": 3, "#array": 4, "\ud83d": 5, "ä": 6, "..": 7},
    "one mark": {"#tuple": [1]},
    "other keys": {1: "a", 1.5: "b", None: "c", (1, ("x", b"y")): "d", 2**70: "e", "z": {}},
    "scalars": [
        np.float16(0.1),
        np.float32(np.nan),
        np.float64(-0.0),
        np.longdouble("0.1"),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.complex64(1 + 2j),
        np.str_("ü"),
        np.bytes_(b"ab"),
        np.datetime64("2026-01-02T03:04"),
        np.timedelta64(5, "s"),
        np.array([(1, 2.5)], "i4,f8")[0],
        *([ml_dtypes.bfloat16(1.5)] if ml_dtypes else []),
    ],
    "schedules": JSON_SCHEDULES,
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name, path):
    assert_same(through_file(path, value=VALUES[name]), {"value": VALUES[name]})


DTYPE_NAMES = "? b B h H i I l L e f d g F D G S3 U2 V5 M8[ns] m8[s] >f8 >i2 >c8 >U2 >M8[s]".split()
RECORD = np.dtype([("ä", "<i4"), (("title", "b"), ">f8", (2, 3)), ("c", [("d", "S2")])])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
DTYPES = [*map(np.dtype, DTYPE_NAMES), RECORD, ALIGNED, np.dtype("U0"), np.dtype("V0")]
ADDED = ["bfloat16", "float8_e4m3fn", "int4"] if ml_dtypes else []
EXTENSIONS = [np.dtype(getattr(ml_dtypes, name)) for name in ADDED]


def filled(shape, dtype, rng):
    """Any bits; of text, numbers; of small types, what they hold."""
    if dtype.kind == "U" or dtype.itemsize == 0:
        return rng.integers(0, 10, shape).astype(dtype)
    if dtype in EXTENSIONS or dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    array = np.zeros(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = rng.integers(0, 256, array.nbytes)
    if dtype.names:  # nothing in the gaps between fields
        array = np.array(array.tolist(), dtype)
    return array


@pytest.mark.parametrize("dtype", [*DTYPES, *EXTENSIONS], ids=str)
def test_arrays_of_every_dtype_and_layout(dtype, path, rng):
    whole = filled((4, 3, 6), dtype, rng)
    arrays = {
        "c": whole,
        "f": np.asfortranarray(whole),
        "permuted": whole.transpose(1, 0, 2).copy(order="K"),
        "gaps": whole[::2, :, ::3],
        "gaps_f": np.asfortranarray(whole)[::2, 1:],
        "gaps_permuted": whole.transpose(2, 0, 1)[1:4],
        "backwards": whole[::-1, :, ::-2],
        "broadcast": np.broadcast_to(whole[0], (2, 3, 6)),
        "vector": whole.reshape(-1),
        "one": whole[:1, :1, :1],
        "zero_d": whole[1, 2, 3, ...],
        "empty": whole[:0],
        "empty_f": np.zeros((2, 0, 3), dtype, order="F"),
    }
    assert_same(through_file(path, **arrays), arrays)


def test_read_only_arrays_and_memory_maps(path, tmp_path):
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    np.save(tmp_path / "big.npy", np.arange(5))
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    found = through_file(path, fixed=fixed, mapped=mapped)
    assert_same(found["fixed"], fixed)
    assert_same(found["mapped"], np.arange(5))


def test_subclasses_come_back_as_their_base(path):
    point = namedtuple("point", "x y")(1, 2)
    found = through_file(path, a=point, b=OrderedDict(z=1, a=2), c=np.float64(1.5))
    assert_same(found, {"a": (1, 2), "b": {"z": 1, "a": 2}, "c": np.float64(1.5)})


def test_an_array_in_two_places_is_kept_once(path):
    array = np.arange(1000.0)
    found = through_file(path, a=array, b=[array], c=array.copy())
    assert found["a"] is found["b"][0] and found["a"] is not found["c"]
    assert path.stat().st_size < 2 * array.nbytes + 6000


def test_names_that_the_functions_use_themselves(path):
    opt, _ = small_optimizer()
    names = ["path", "state", "state_dict", "extra", "arrays", "version", "file", "self", "format"]
    instep.save(path, opt, **{name: k for k, name in enumerate(names)})
    checkpoint = instep.load(path)
    assert checkpoint.extra == {name: k for k, name in enumerate(names)}
    assert_same(checkpoint.state_dict, opt.state_dict())


simple = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.binary(max_size=5)
    | st.text(st.characters(), max_size=5)
    | npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, min_side=0, max_side=3))
    | npst.arrays(npst.scalar_dtypes(), ()).map(lambda array: array[()])
    | st.sampled_from(JSON_SCHEDULES)
)
keys = st.text(st.characters(), max_size=3) | st.integers() | st.tuples(st.integers(), st.text())
nested = st.recursive(
    simple,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=nested)
def test_any_nesting(tmp_path_factory, suffix, value):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    assert_same(through_file(path, value=value), {"value": value})


def test_the_deepest_nesting(path):
    value = []
    for k in range(tree._DEEPEST - 2):
        value = (value,) if k % 2 else {1: value}
    assert_same(through_file(path, value=value), {"value": value})


# ---- files -----------------------------------------------------------------------------------


@needs_ml_dtypes
def test_numpy_reads_the_arrays(tmp_path):
    opt, w = small_optimizer()
    extra = {"w": w, "f": np.asfortranarray(np.ones((2, 3))), "b": np.ones(2, ml_dtypes.bfloat16)}
    instep.save(tmp_path / "model.npz", opt, **extra, odd={"../x": w + 1, "a/b": w + 2}, n=3)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as found:
        momentum = found["state_dict/state/w/momentum_buffer"]
        assert_same(momentum, opt.state["w"]["momentum_buffer"])
        assert_same(found["extra/w"], w)
        assert_same(found["extra/f"], extra["f"])
        assert_same(found["extra/b"], extra["b"].view(np.uint16))
        assert_same(found["extra/odd/.._x"], w + 1)
        document = json.loads(found["checkpoint.json"])
    assert document["extra"]["n"] == 3 and document["version"] == 1
    assert zipfile.ZipFile(tmp_path / "model.npz").testzip() is None


@needs_ml_dtypes
def test_safetensors_reads_the_arrays(tmp_path):
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    opt, w = small_optimizer()
    extra = {"w": w, "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    path = tmp_path / "model.safetensors"
    instep.save(path, opt, **extra, half=np.ones(3, ml_dtypes.bfloat16), c=np.ones(2, complex))
    found = safetensors_numpy.load_file(path)
    assert_same(found["extra/w"], w)
    np.testing.assert_array_equal(found["extra/f"], extra["f"])
    assert found["extra/half"].dtype == ml_dtypes.bfloat16
    assert found["extra/c"].tobytes() == np.ones(2, complex).tobytes()


def test_names_of_members_are_safe_and_unique(path):
    """Whatever the keys; archives are unpacked by other programs too."""
    keys = ["..", ".", "/etc/x", "a\\b", "a/b", "a_b", "a b", "", "\0", "é" * 300, "C:", "\ud800"]
    value = {key: np.array([k]) for k, key in enumerate(keys)}
    assert_same(through_file(path, value=value), {"value": value})
    if path.suffix == ".npz":
        names = zipfile.ZipFile(path).namelist()
    else:
        names = list(pytest.importorskip("safetensors.numpy").load_file(path))
    assert len(set(names)) == len(names)
    for name in names:
        assert not {"..", ".", ""} & set(name.split("/")) and "\\" not in name and ":" not in name


def test_the_suffix_chooses_the_format_and_none_is_added(tmp_path):
    pytest.importorskip("safetensors")
    for name, magic in [("a.npz", b"PK"), ("a.ckpt", b"PK"), ("a", b"PK"), ("a.safetensors", b"")]:
        instep.save(str(tmp_path / name), {}, a=np.ones(2))
        start = (tmp_path / name).read_bytes()[:9]
        assert start.startswith(magic) if magic else start[8:] == b"{"
    assert sorted(os.listdir(tmp_path)) == ["a", "a.ckpt", "a.npz", "a.safetensors"]
    (tmp_path / "a.safetensors").rename(tmp_path / "b.npz")  # what is in it decides
    assert_same(instep.load(tmp_path / "b.npz").extra, {"a": np.ones(2)})


def test_kinds_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = ["plain", Path("as_path"), b"bytes", "x" * 250 + ".npz", "ü 😀.npz"]
    for path in paths + ["\udcff"] * (sys.platform == "linux"):
        instep.save(path, {}, a=1)
        assert instep.load(path).extra == {"a": 1}
    assert temporary_files(tmp_path) == []


def test_saving_and_loading_take_the_memory_of_one_buffer(path, tmp_path):
    """No second copy of what is saved; loading takes the arrays and one of them more at most."""
    from tracemalloc import get_traced_memory, reset_peak, start, stop

    arrays = [np.ones(1_000_000, np.float32) for _ in range(24)]  # 96 MB
    arrays[1] = np.asfortranarray(np.ones((1000, 1000), np.float32))
    opt = instep.SGD(arrays, momentum=0.9)
    opt.step([np.ones_like(array) for array in arrays])
    start()
    try:
        before = get_traced_memory()[0]
        instep.save(path, opt, params=arrays)
        assert get_traced_memory()[1] - before < 40e6
        reset_peak()
        before = get_traced_memory()[0]
        checkpoint = instep.load(path)
        size = 2 * sum(array.nbytes for array in arrays)
        assert size < get_traced_memory()[1] - before < size + 20e6
        assert len(checkpoint.extra["params"]) == 24
    finally:
        stop()
