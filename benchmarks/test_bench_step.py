"""Rows for pytest-benchmark: every rule and loss of the core, one by one, for work on a kernel.

Not part of the tests: run with ``python -m pytest benchmarks``. Each row is verified against the
float64 twin before it is timed.
"""

from typing import Any

import numpy as np
import pytest

import instep
from benchmarks.contenders.instep_step import Instep
from benchmarks.verify import BOUND
from benchmarks.works import LOSSES, RULES, Optimizer, StepTask, Work, load_reference
from instep import _core

pytest.importorskip("pytest_benchmark")

SHAPES = {"4K": ((4096,),), "64K": ((65_536,),)}  # first-level and second-level cache


def test_every_rule_and_loss_has_a_row() -> None:
    assert set(RULES) == set(_core.rules())
    assert set(LOSSES) == set(_core.losses())


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


@pytest.mark.parametrize("name", LOSSES)
def test_loss(benchmark: Any, name: str) -> None:
    pred, target = LOSSES[name](np.random.default_rng(1))
    loss, twin = getattr(instep.losses, name), load_reference().LOSSES[name]
    expected_value, expected_grad = twin(pred, target)
    value, grad = loss(pred, target)
    assert abs(value - expected_value) <= BOUND * abs(expected_value)
    assert np.max(np.abs(grad - expected_grad)) <= BOUND * np.max(np.abs(expected_grad))
    benchmark.group = "loss"
    benchmark(loss, pred, target, out=np.empty_like(pred))
