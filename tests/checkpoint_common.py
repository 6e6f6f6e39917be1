"""What the tests of checkpoints share: exact comparison, files, small optimizers."""

import dataclasses
import math
import os
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import walk_order

import instep
from instep import _atomic

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None
posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX systems")
SUFFIXES = [".npz"] + [".safetensors"] * (find_spec("safetensors") is not None)


def memory_order(array):
    """Axes by stride; equal for arrays that lie alike."""
    if array.flags.c_contiguous:
        return "C"
    return walk_order(array)


def assert_same(found, expected, place="value"):
    """Same types all the way down, same bits, same order of memory."""
    if isinstance(expected, np.ndarray):
        assert type(found) is np.ndarray, place
        assert found.dtype == expected.dtype and found.shape == expected.shape, place
        assert memory_order(found) == memory_order(np.array(expected, order="K")), place
        if expected.dtype.names:  # what is between the fields is nothing
            assert repr(found.tolist()) == repr(expected.tolist()), place
        else:
            assert found.tobytes() == expected.tobytes(), place
        assert found.flags.writeable, place
        return
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert list(found) == list(expected), place  # NaN as a key is not tried
        for key in expected:
            assert_same(found[key], expected[key], f"{place}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{place}[{k}]")
    elif isinstance(expected, instep.schedules.Schedule):
        for field in dataclasses.fields(expected):
            one, other = getattr(found, field.name), getattr(expected, field.name)
            assert_same(one, other, f"{place}.{field.name}")
    elif isinstance(expected, np.generic):
        assert found.dtype == expected.dtype, place
        same = found.tobytes() == expected.tobytes()
        assert same or (found == expected and found.dtype.char in "gG"), place  # gaps in them
    elif isinstance(expected, float):
        same = found == expected and math.copysign(1, found) == math.copysign(1, expected)
        assert same or (math.isnan(found) and math.isnan(expected)), place
    elif isinstance(expected, complex):
        assert_same((found.real, found.imag), (expected.real, expected.imag), place)
    else:
        assert found == expected, place


def through_file(path, **extra):
    """What comes back of it."""
    instep.save(path, {}, **extra)
    checkpoint = instep.load(path)
    assert checkpoint.state_dict == {}
    return checkpoint.extra


def temporary_files(folder):
    return [entry for entry in folder.iterdir() if entry.name.endswith(_atomic.SUFFIX)]


def small_optimizer(seed=0):
    """An optimizer with a state, and its parameter."""
    w = np.random.default_rng(seed).normal(size=3).astype(np.float32)
    opt = instep.SGD({"w": w}, lr=0.1, momentum=0.5)
    opt.step({"w": w.copy()})
    return opt, w
