"""Rows for pytest-benchmark: every loss, one by one, for work on a kernel; and whether all
contenders of `benchmarks.bench_loss` compute what the twins compute.

Not part of the tests: run with ``python -m pytest benchmarks``.
"""

import importlib
from typing import Any

import pytest

import instep
from benchmarks import bench_loss
from benchmarks.contenders import LOSS_CONTENDERS
from benchmarks.contenders.instep_loss import InstepOut
from benchmarks.verify import BOUND
from benchmarks.works import LOSS_TASKS, LOSSES, LossTask

pytest.importorskip("pytest_benchmark")

ROWS = {
    f"{kind} {work}": task for (kind, work), task in LOSS_TASKS.items() if task.elements <= 2**20
}


def test_every_loss_has_a_row() -> None:
    assert set(LOSSES) == set(instep.losses.__all__) - {"LossGrad"}


@pytest.mark.parametrize("name", ROWS)
def test_loss(benchmark: Any, name: str) -> None:
    contender = InstepOut(ROWS[name], threads=1)
    contender.start(1)
    assert contender.error() <= BOUND
    contender.renew()
    benchmark.group = name
    benchmark(contender.run, 1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", LOSS_CONTENDERS)
def test_contender(name: str, loss: str) -> None:
    module, kind = LOSS_CONTENDERS[name]
    try:
        contender_class = getattr(importlib.import_module(f"benchmarks.contenders.{module}"), kind)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    task = LossTask(loss, (300, 7) if LOSSES[loss].per_row else (2100,))
    if contender_class.unsupported(task):
        pytest.skip("not offered")
    contender_class.start(2)
    assert contender_class(task, threads=2).error() <= BOUND


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = "--quick --losses mse --works 1K --contenders".split()
    assert bench_loss.main([*command, "instep,instep out=,numpy in place"]) == 0
    table = capsys.readouterr().out
    assert "like for like" in table and "FAILED" not in table
