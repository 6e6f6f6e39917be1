"""What the tests of states in fewer bits share."""

import numpy as np
import reference_storage as twin
from conftest import walk_order

import instep
from instep import _core

ROUNDED = ["bfloat16", "8bit"]
STORAGES = ["float32", *ROUNDED]
RULES = _core.rules()
SCALED = {None: 8.0, "float32": 8.0, "bfloat16": 4.0, "8bit": 2.0625}  # bytes of Adam's states


def rows_without_difference(rows):
    """Those whose states may be rounded."""
    return {name: row for name, row in rows.items() if "centered" not in row.rule}


def walk(array):
    """Its elements in the order in which blocks run: by falling |stride|."""
    return array.transpose(walk_order(array)).ravel()


def codes_of(opt, name, state):
    """(codes, scales) of a state in the order of the walk; bfloat16 as its bits."""
    entry = opt.state[name]
    codes = walk(entry[state])
    if codes.dtype.itemsize == 2:
        return codes.view(np.uint16), None
    return codes, entry[f"{state}_scale"]


def expected_codes(opt, rule, leaf, state, values, step):
    """What the twin makes of the values of a state after the 0-based step."""
    if state in twin.NEAREST:
        r = twin.nearest_bits(values.size)
    else:
        stream = RULES[rule][1].index(state)
        r = twin.random_bits(opt.seed, step, leaf, values.size, stream)
    return twin.encode(state, values, opt.state_dtype, r)


def assert_same_codes(found, wanted):
    codes, scales = found
    np.testing.assert_array_equal(codes, wanted[0])
    if scales is not None:
        np.testing.assert_array_equal(scales, wanted[1])


def rounded_once(values, state_dtype, seed=0, betas=(0.0, 0.0)):
    """An Adam after one step whose averages were `values` and their squares before rounding."""
    opt = instep.Adam(
        np.zeros(values.shape, np.float32),
        lr=0.0,
        betas=betas,
        state_dtype=state_dtype,
        seed=seed,
    )
    opt.step(values)
    return opt


def some_optimizer(state_dtype, dtype=np.float32, order="C", steps=3):
    rng = np.random.default_rng(8)
    param = np.array(rng.normal(size=(33, 50)), dtype, order=order)
    opt = instep.Adam(param, amsgrad=True, state_dtype=state_dtype)
    for _ in range(steps):
        opt.step(rng.normal(size=(33, 50)))
    return opt


def fresh(state_dtype, dtype=np.float32, order="C"):
    return instep.Adam(np.zeros((33, 50), dtype, order=order), state_dtype=state_dtype)
