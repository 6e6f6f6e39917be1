"""Damaged files: every length, every byte. Never other data, always the same error."""

import json

import numpy as np
import pytest
from checkpoint_common import SUFFIXES, assert_same, small_optimizer
from conftest import everything

import instep
from instep import CheckpointError


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


@pytest.fixture(scope="module", params=SUFFIXES)
def saved(request, tmp_path_factory):
    """(path, its bytes, what is in it)"""
    path = tmp_path_factory.mktemp("damage") / f"model{request.param}"
    opt, w = small_optimizer()
    instep.save(path, opt, w=w, order=np.asfortranarray(np.ones((2, 2))), note="ü", n=3)
    return path, path.read_bytes(), instep.load(path)


def damaged_or_equal(path, data, expected):
    """Load these bytes; was it refused?"""
    path.write_bytes(data)
    try:
        found = instep.load(path)
    except CheckpointError as error:
        assert repr(str(path)) in str(error)
        return True
    assert_same(tuple(found), tuple(expected))
    return False


def test_every_length(saved):
    path, data, expected = saved
    for length in range(len(data)):
        assert damaged_or_equal(path, data[:length], expected), length
    assert not damaged_or_equal(path, data, expected)


@pytest.mark.parametrize("flip", [0x01, 0xFF], ids=hex)
def test_every_byte(saved, flip):
    """Nearly all are noticed; dates in a ZIP archive and the like mean nothing."""
    path, data, expected = saved
    refused = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= flip
        refused += damaged_or_equal(path, changed, expected)
    assert refused > 0.9 * len(data)


def test_a_block_of_zeros_or_noise(saved, rng):
    """As a disk loses it."""
    path, data, expected = saved
    last = len(data) - 64  # of less than a block, the end is a length that means nothing
    for start in [*range(0, last, 16), last]:
        for block in (bytes(64), rng.bytes(64)):
            changed = data[:start] + block + data[start + 64 :]
            assert damaged_or_equal(path, changed, expected) or changed == data, start


def test_bytes_that_are_missing_or_doubled(saved):
    path, data, expected = saved
    for start in range(0, len(data) - 8, 8):
        assert damaged_or_equal(path, data[:start] + data[start + 8 :], expected)
        damaged_or_equal(path, data[:start] + data[start : start + 8] + data[start:], expected)


def test_a_damaged_file_leaves_the_optimizer_as_it_was(path):
    opt, w = small_optimizer()
    instep.save(path, opt)
    data = bytearray(path.read_bytes())
    place = bytes(data).index(opt.state["w"]["momentum_buffer"].tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    before = everything(opt, w)
    with pytest.raises(CheckpointError, match=r"damaged|checksum"):
        opt.load_state_dict(instep.load(path).state_dict)
    assert everything(opt, w) == before


def test_errors_of_the_system_are_not_called_damage(path, monkeypatch):
    instep.save(path, {}, a=np.ones(3))

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(json, "loads", fail)
    with pytest.raises(OSError, match="Input/output error"):
        instep.load(path)
