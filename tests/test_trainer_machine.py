"""Random programs of calls, and those that found something. `make fuzz-python` runs for long."""

import numpy as np
import pytest
from trainer_machine import TrainerMachine, run_for


def test_random_programs():
    """The same in every run."""
    assert run_for(0.1, first_seed=7, examples=25, steps=30) == 25


@pytest.mark.parametrize("by", ["pickle", "deepcopy"])
def test_a_copy_in_another_order_of_memory(by):
    """NumPy pickles what is not contiguous in C order: blocks of 8-bit states are others then."""
    machine = TrainerMachine()
    leaf = np.dtype(np.float32), (9, 31)
    machine.begin("adam", [leaf], "reversed_sliced_F", "8bit", {})
    machine.step(isa="baseline", missing=0, number=0, scale=1.0)
    machine.copied(by=by)
    machine.step(isa="baseline", missing=0, number=1, scale=1.0)
