"""Verify, then time: contenders in processes of their own, interleaved batch by batch.

Machines drift: clocks, neighbours, heat. So in every round each contender runs one batch, one
after the other, and what counts is the ratio of two times of the same round; the table shows the
median ratio over the rounds. While one runs, all the others are asleep, which is checked.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import CEILING, OURS, OURS_IN_PLACE, Contenders
from benchmarks.works import ROOT


class ContenderError(Exception):
    """A contender that cannot be timed; the message says why."""


def usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _environment(threads: int) -> dict[str, str]:
    """Equal thread counts for every library that reads one at its start."""
    count = str(threads)
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA", "INSTEP", "VECLIB", "NUMEXPR")
    environment = {**os.environ, **{f"{name}_NUM_THREADS": count for name in names}}
    # A worker thread of OpenMP that wakes on its master's CPU costs milliseconds: bound, it does
    # not. Bound and left to spin within a batch is what suits torch and numba best; between
    # batches they fall asleep, which `Process.wait_until_asleep` sees to.
    environment.setdefault("OMP_PROC_BIND", "true")
    environment["JAX_PLATFORMS"] = "cpu"  # XLA has no thread count: the CPUs it may use limit it
    return environment


class Process:
    """A contender's process, asleep unless it is asked something."""

    def __init__(
        self, name: str, entry: tuple[str, str], threads: int, python: str = sys.executable
    ) -> None:
        self.name = name
        self.restless = False
        # From the last CPU on: the first is the one that serves most interrupts.
        cpus = ",".join(map(str, usable_cpus()[-threads:]))
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", *entry, str(threads), cpus],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=_environment(threads),
        )
        self._receive()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise ContenderError("FAILED: its process has ended") from None
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ContenderError(f"FAILED: its process ended with code {code}")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise ContenderError(f"not installed ({answer['missing']})")
        if "failed" in answer:
            raise ContenderError(f"FAILED: {answer['failed']}")
        if "unsupported" in answer:
            raise ContenderError(f"not offered: {answer['unsupported']}")
        return answer

    def wait_until_asleep(self, limit: float = 0.5) -> None:
        """Thread pools spin for a while after work; the next contender must not run beside them."""
        folder = Path(f"/proc/{self._process.pid}/task")
        deadline = time.monotonic() + limit
        if not folder.exists():
            time.sleep(0.02)
            return
        while time.monotonic() < deadline:
            if all(_is_asleep(task) for task in folder.iterdir()):
                return
            time.sleep(0.001)
        self.restless = True

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # of a request that a killed process did not read
                    pipe.close()
        self._process.wait()


def _is_asleep(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:  # the thread has ended
        return True


@contextmanager
def processes(
    contenders: Contenders, threads: int, pythons: Mapping[str, str]
) -> Iterator[tuple[list[Process], dict[str, str]]]:
    """The contenders' processes, and for those that cannot take part the reason.

    `pythons`: the interpreter of each contender that does not run in this one.
    """
    started, absent = [], {}
    with ExitStack() as stack:
        for name, entry in contenders.items():
            try:
                process = Process(name, entry, threads, pythons.get(name, sys.executable))
            except ContenderError as error:
                absent[name] = str(error)
            else:
                stack.callback(process.close)
                started.append(process)
        yield started, absent


@dataclass
class Result:
    """What one contender did at one task."""

    name: str
    seconds: list[float] = field(default_factory=list)  # for once, one entry a round
    cpu: list[float] = field(default_factory=list)  # CPU time over wall time, one entry a round
    trouble: str = ""  # why there are no times

    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratios(self, base: "Result") -> list[float]:
        """This time over that of `base`, round by round."""
        return [mine / its for mine, its in zip(self.seconds, base.seconds, strict=True)]

    def ratio(self, base: "Result") -> float:
        """Their median."""
        return statistics.median(self.ratios(base))

    def quartiles(self, base: "Result") -> tuple[float, float]:
        low, high = np.quantile(self.ratios(base), [0.25, 0.75])
        return float(low), float(high)


@dataclass
class Race:
    """All contenders at one task, found by its kind (an optimizer, a loss) and its work."""

    kind: str
    work: str
    task: Any
    threads: int
    results: list[Result] = field(default_factory=list)

    def result(self, name: str) -> Result | None:
        """The times of a contender, if it has any."""
        return next((r for r in self.results if r.name == name and r.seconds), None)

    @property
    def ours(self) -> Result | None:
        return self.result(OURS)

    @property
    def ours_in_place(self) -> Result | None:
        return self.result(OURS_IN_PLACE)

    @property
    def ceiling(self) -> Result | None:
        return self.result(CEILING)

    @property
    def peers(self) -> list[Result]:
        """The times of all others."""
        others = (OURS, OURS_IN_PLACE, CEILING)
        return [r for r in self.results if r.seconds and r.name not in others]

    def fastest(self, results: list[Result]) -> Result | None:
        """The one of these with the lowest ratio to instep's times, if there are any."""
        ours = self.ours
        if ours is None:
            return None
        return min(results, key=lambda result: result.ratio(ours), default=None)


def race(entrants: list[Process], into: Race, rounds: int, batch: float) -> None:
    """Verify everyone at the task, then time them in turn."""
    results, times = {process.name: Result(process.name) for process in entrants}, {}
    into.results.extend(results.values())
    for process in entrants:
        try:
            answer = process.ask("prepare", kind=into.kind, work=into.work, seconds=batch)
            times[process.name] = answer["times"]
        except ContenderError as error:
            results[process.name].trouble = str(error)
        process.wait_until_asleep()
    running = [process for process in entrants if process.name in times]
    for turn in range(rounds):
        # Another one begins each round, and the others follow in any order: nobody always has the
        # same place, nor the pages that the same one freed before.
        order = random.sample(running, len(running))
        order.sort(key=lambda process: process is not running[turn % len(running)])
        for process in order:
            result = results[process.name]
            if result.trouble:
                continue
            try:
                answer = process.ask("batch", times=times[process.name])
                result.seconds.append(answer["seconds"])
                result.cpu.append(answer["cpu"])
            except ContenderError as error:
                result.trouble, result.seconds = str(error), []
            process.wait_until_asleep()
    for process in running:
        if not results[process.name].trouble:
            process.ask("release")
