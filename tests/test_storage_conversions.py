"""Snapshots of another state_dtype or another order of memory: decoded, rounded to the nearest."""

import numpy as np
import pytest
from conftest import bits, everything
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_common import ROUNDED, SCALED, fresh, some_optimizer, walk

import instep


@pytest.mark.parametrize("there", SCALED)
@pytest.mark.parametrize("here", SCALED)
def test_another_state_dtype_is_converted(here, there):
    """Each value goes to the nearest that the new type has."""
    source, target = some_optimizer(there), fresh(here)
    target.load_state_dict(source.state_dict())
    old, new = source.decoded_state("param"), target.decoded_state("param")
    for name in old.keys() - {"step"}:
        error = np.abs(new[name] - old[name])
        if here == "bfloat16":
            assert (error <= np.abs(old[name]) * 2.0**-8).all()
        elif here == "8bit":
            scale = np.repeat(target.state["param"][f"{name}_scale"], 128)[: old[name].size]
            near = walk(target.state["param"][name]).astype(np.float64)
            half = scale / 2 if name == "exp_avg" else scale * (2 * near + 1) / 2
            tiny = walk(old[name]) < scale  # of second moments: 1 is the least code
            assert ((walk(error) <= half * 1.001) | tiny).all()
        else:
            assert (error == 0).all()


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_there_and_back_changes_no_bit(state_dtype):
    """Decoded, and encoded to the nearest."""
    source = some_optimizer(state_dtype)
    for between in (None, "float32"):
        wide, again = fresh(between), fresh(state_dtype)
        wide.load_state_dict(source.state_dict())
        again.load_state_dict(wide.state_dict())
        assert everything(again)[2] == everything(source)[2]


@pytest.mark.parametrize("state_dtype", ROUNDED)
def test_another_memory_order_is_converted(state_dtype):
    """Blocks follow memory; a snapshot says in which order its own do."""
    source, target = some_optimizer(state_dtype), fresh(state_dtype, order="F")
    saved = source.state_dict()
    target.load_state_dict(saved)
    old, new = source.decoded_state("param"), target.decoded_state("param")
    for name in old.keys() - {"step"}:
        assert np.max(np.abs(old[name] - new[name])) <= np.max(old[name]) / 100
    back = fresh(state_dtype)
    back.load_state_dict(target.state_dict())
    if state_dtype == "bfloat16":  # no blocks, nothing to round
        assert everything(target)[2] == everything(source)[2] == everything(back)[2]
    else:
        assert saved["state"]["param"]["axes"] == (0, 1)
        assert target.state_dict()["state"]["param"]["axes"] == (1, 0)


def test_the_order_of_memory_of_a_snapshots_arrays_does_not_matter():
    """Its own note does: a file may have laid them out anew."""
    source, target = some_optimizer("8bit", order="F"), fresh("8bit", order="F")
    saved = source.state_dict()
    for entry in saved["state"].values():
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            entry[name] = np.ascontiguousarray(entry[name])
    target.load_state_dict(saved)
    assert everything(target)[2] == everything(source)[2]
    wide = fresh(None)
    wide.load_state_dict(saved)
    assert bits(wide.state["param"]["exp_avg"]) == bits(source.decoded_state("param")["exp_avg"])


def test_axes_of_length_one_change_nothing():
    rng = np.random.default_rng(1)
    source = instep.SGD(np.ones((300, 1), np.float32, order="F"), momentum=0.5, state_dtype="8bit")
    source.step(rng.normal(size=(300, 1)))
    other = instep.SGD(np.ones((1, 300), np.float32).T.copy("C"), momentum=0.5, state_dtype="8bit")
    other.load_state_dict(source.state_dict())
    assert everything(other)[2] == everything(source)[2]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 300),
    st.sampled_from(["bfloat16", "8bit"]),
    st.floats(-40, 35),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_any_numbers_there_and_back(size, state_dtype, magnitude, seed, hard):
    """Signs and zeros stay, the largest of a block is exact to 2^-20, twice is once."""
    rng = np.random.default_rng(seed)
    m = (rng.standard_cauchy(size) * 10.0**magnitude).astype(np.float32)
    m[rng.random(size) < 0.2] = 0.0
    if hard and size > 2:
        m[rng.integers(0, size, 2)] = [1e-45, np.finfo(np.float32).max]
    with np.errstate(over="ignore"):
        states = {"exp_avg": m, "exp_avg_sq": np.abs(m)}
    start = instep.Adam(np.zeros(size, np.float32), state_dtype=state_dtype)
    saved = start.state_dict()
    saved["state"]["param"] = {"step": 3, **states}
    start.load_state_dict(saved)
    found = start.decoded_state("param")
    for name, values in states.items():
        known = np.isfinite(values)
        zero = found[name] == 0
        assert (zero | (np.sign(found[name]) == np.sign(values)) | ~known).all()
        assert zero[values == 0].all() or not known.all()
        for k in range(0, size if state_dtype == "8bit" else 0, 128):
            largest = np.max(np.abs(values[k : k + 128]))
            if np.isfinite(largest) and largest > 2.0**-100:
                there = np.max(np.abs(found[name][k : k + 128].astype(np.float64)))
                assert abs(there / largest - 1) < 2.0**-19
    again = instep.Adam(np.zeros(size, np.float32), state_dtype=state_dtype)
    again.load_state_dict({**saved, "state": {"param": found}})
    for name in states:
        assert bits(again.state["param"][name]) == bits(start.state["param"][name])
