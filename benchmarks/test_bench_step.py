"""Rows for pytest-benchmark: every rule of the core, one by one, for work on a kernel.

Not part of the tests: run with ``python -m pytest benchmarks``. Each row is verified against the
float64 twin before it is timed.
"""

from typing import Any

import pytest

from benchmarks.contenders.instep_step import Instep
from benchmarks.verify import BOUND
from benchmarks.works import RULES, Optimizer, StepTask, Work
from instep import _core

pytest.importorskip("pytest_benchmark")

SHAPES = {"4K": ((4096,),), "64K": ((65_536,),)}  # first-level and second-level cache


def test_every_rule_has_a_row() -> None:
    assert set(RULES) == set(_core.rules())


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_rule(benchmark: Any, rule: str, size: str) -> None:
    states = len(_core.rules()[rule][1])
    task = StepTask(Optimizer(rule, states), Work(SHAPES[size], threads=(1,), optimizers=()))
    contender = Instep(task, threads=1)
    assert contender.error() <= BOUND
    contender.renew()
    contender.run(10)
    benchmark.group = f"step, {size}"
    benchmark(contender.step)
