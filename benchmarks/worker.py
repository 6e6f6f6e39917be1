"""The process of one contender: told over a pipe to prepare a work and to run timed batches.

Started by `benchmarks.harness` as ``python -m benchmarks.worker MODULE CLASS THREADS CPUS``.
Requests and answers are one JSON object a line.
"""

import ctypes
import gc
import importlib
import json
import os
import sys
import time
from typing import Any, TextIO

from benchmarks.contenders.base import Contender


def _pin(cpus: list[int]) -> None:
    """Hold the process to these CPUs: the one limit that every library respects, XLA too."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def _own_output() -> TextIO:
    """The pipe to the parent; what libraries print goes to standard error instead."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _give_back() -> None:
    """To the system what the allocator keeps of freed arrays: other contenders need the memory."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # glibc
        trim(0)


class Worker:
    def __init__(self, module: str, name: str, threads: int) -> None:
        found = importlib.import_module(f"benchmarks.contenders.{module}")
        self.kind: type[Contender] = getattr(found, name)
        self.kind.start(threads)
        self.threads = threads
        self.contender: Contender | None = None

    def prepare(self, kind: str, work: str, seconds: float) -> dict[str, Any]:
        """Verify, then find out how many times fill a batch of `seconds`."""
        task = self.kind.tasks[kind, work]
        refusal = self.kind.unsupported(task)
        if refusal:
            return {"unsupported": refusal}
        self.release()
        self.contender = self.kind(task, self.threads)
        error = self.contender.error()
        bound = self.contender.bound
        if not error <= bound:  # NaN fails too
            self.release()
            raise ArithmeticError(f"error {error:.1e} against the twin, allowed {bound:.0e}")
        times = self._times_in(seconds)
        self.contender.forget()
        _give_back()
        return {"times": times, "error": error}

    def _times_in(self, seconds: float) -> int:
        times = 1
        while True:
            took = min(self._time(times)[0] for _ in range(2))  # one alone may meet a hiccup
            if took > seconds / 4:
                return max(1, round(times * seconds / took))
            times *= 2

    def batch(self, times: int) -> dict[str, Any]:
        """Seconds for once, from new arrays.

        New ones each time, because where arrays come to lie can cost or gain a tenth. The first
        ones are not timed: states are made, caches are cold, threads asleep.
        """
        assert self.contender is not None
        self.contender.renew()
        gc.collect()
        self.contender.run(max(2, times // 10))
        seconds, cpu = self._time(times)
        self.contender.forget()
        _give_back()
        return {"seconds": seconds / times, "cpu": cpu / seconds}

    def _time(self, times: int) -> tuple[float, float]:
        """Wall and CPU seconds."""
        assert self.contender is not None
        gc.disable()  # as timeit does: a collection is not part of any contender
        try:
            cpu, wall = time.process_time(), time.perf_counter()
            self.contender.run(times)
            return time.perf_counter() - wall, time.process_time() - cpu
        finally:
            gc.enable()

    def release(self) -> dict[str, Any]:
        self.contender = None
        _give_back()
        return {}

    def note(self) -> dict[str, Any]:
        return {"note": self.kind.note()}


def main() -> None:
    module, name, threads, cpus = sys.argv[1:]
    answers = _own_output()

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    _pin([int(cpu) for cpu in cpus.split(",")])
    try:
        worker = Worker(module, name, int(threads))
    except ModuleNotFoundError as error:
        return answer({"missing": error.name})
    except Exception as error:
        return answer({"failed": f"{type(error).__name__}: {error}"})
    answer({})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(getattr(worker, request.pop("do"))(**request))
        except Exception as error:
            answer({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
