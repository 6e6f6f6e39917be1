"""Random programs of calls, and those that found something. `make fuzz-python` runs for long."""

from trainer_machine import run_for


def test_random_programs():
    """The same in every run."""
    assert run_for(0.1, first_seed=7, examples=25, steps=30) == 25
