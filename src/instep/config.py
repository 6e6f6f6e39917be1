"""Threads and instruction set."""

import os
import platform
from pathlib import Path
from typing import Literal, overload

import numpy as np

from instep import _check, _core

__all__ = ["available_isas", "get_num_threads", "isa", "set_num_threads", "show_config"]


def _cgroup_cpus() -> float:
    """CPUs that the control group grants (v2, then v1); infinite where there is no quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float("inf") if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        granted = int((folder / "cpu.cfs_quota_us").read_text())
        return granted / int((folder / "cpu.cfs_period_us").read_text()) if granted > 0 else 1e9
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")


def _usable_cpus() -> int:
    """CPUs that this process may use: its affinity, held to the control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return max(1, int(min(cpus, _cgroup_cpus())))  # a quota may be infinite


def _initial_threads() -> int:
    text = os.environ.get("INSTEP_NUM_THREADS")
    if not text:
        return _usable_cpus()
    threads = int(text) if text.isdecimal() and len(text) < 20 else 0
    if not 1 <= threads <= _check.MOST_THREADS:
        raise ImportError(f"INSTEP_NUM_THREADS={text!r}: expected an int in [1, 2**31)")
    return threads


def _select_isa() -> None:
    name = os.environ.get("INSTEP_ISA") or None
    if not _core.select_isa(name):
        choices = ", ".join(_core.available_isas())
        raise ImportError(
            f"INSTEP_ISA={name!r} is unknown or not supported here; choose: {choices}"
        )


_select_isa()
_core.set_threads(_initial_threads())


def set_num_threads(threads: int) -> None:
    """Set how many threads a step or a loss may use, for the whole process.

    The result does not depend on it, to the last bit. Small work is not split.

    Parameters
    ----------
    threads : int
        At least 1. The start value is ``INSTEP_NUM_THREADS``, else the number of CPUs this
        process may use (affinity and control-group quota).
    """
    _core.set_threads(_check.thread_count("threads", threads))


def get_num_threads() -> int:
    """How many threads a step or a loss may use."""
    return _core.get_threads()


def isa() -> str:
    """The instruction set in use: "baseline" (SSE2, or NEON on ARM), "avx2" or "avx512".

    The best that the CPU runs, unless the environment variable ``INSTEP_ISA`` names another
    before instep is imported. Results are the same bits on each.
    """
    return _core.isa()


def available_isas() -> list[str]:
    """The instruction sets that this build has and this CPU runs, slowest first."""
    return _core.available_isas()


@overload
def show_config() -> None: ...
@overload
def show_config(mode: Literal["stdout"]) -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, object]: ...


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, object] | None:
    """Print (or with ``mode="dicts"`` return) version, instruction set, threads and platform."""
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    from instep import __version__

    facts: dict[str, object] = {
        "instep": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "isa": isa(),
        "available_isas": available_isas(),
        "threads": get_num_threads(),
    }
    if mode == "dicts":
        return facts
    for name, value in facts.items():
        print(f"{name:>15}: {value}")
    return None
