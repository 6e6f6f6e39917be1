"""Threads, instruction set and what the package shows of itself."""

import ast
import json

import numpy as np
import pytest
from conftest import ISAS, run_python

import instep
from instep import config


def test_number_of_threads(num_threads):
    assert instep.get_num_threads() >= 1
    for threads in (1, 5, np.int64(3)):
        num_threads(threads)
        assert instep.get_num_threads() == threads
        assert type(instep.get_num_threads()) is int


@pytest.mark.parametrize(
    ("value", "kind"),
    [(0, ValueError), (-2, ValueError), (1.0, TypeError), ("2", TypeError), (True, TypeError),
     (None, TypeError), ([2], TypeError), (2**31, ValueError), (10**30, ValueError)],
)  # fmt: skip
def test_bad_number_of_threads(value, kind, num_threads):
    num_threads(3)
    with pytest.raises(kind, match="threads") as caught:
        instep.set_num_threads(value)
    assert repr(value) in str(caught.value) and instep.get_num_threads() == 3


def test_instruction_sets():
    assert instep.isa() in instep.available_isas() == ISAS
    found = instep.available_isas()
    found.clear()  # a list of the caller's own
    assert instep.available_isas() == ISAS


def test_show_config(capsys, num_threads):
    num_threads(5)
    facts = instep.show_config(mode="dicts")
    assert capsys.readouterr().out == ""
    assert facts["instep"] == instep.__version__ and facts["numpy"] == np.__version__
    assert facts["isa"] == instep.isa() and facts["threads"] == 5
    assert json.loads(json.dumps(facts)) == facts
    assert instep.show_config() is None
    lines = dict(
        line.strip().split(": ", 1) for line in capsys.readouterr().out.splitlines() if line
    )
    assert lines.keys() == facts.keys()
    assert lines["threads"] == "5" and ast.literal_eval(lines["available_isas"]) == ISAS
    for mode in ("json", None, 3):
        with pytest.raises(ValueError, match=r"mode.*'stdout' or 'dicts'"):
            instep.show_config(mode)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu.max": "nonsense"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_control_group_quota(files, cpus, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def elsewhere(path):
        return tmp_path / str(path).removeprefix("/sys/fs/cgroup").lstrip("/")

    monkeypatch.setattr(config, "Path", elsewhere)
    assert config._cgroup_cpus() == cpus


@pytest.mark.parametrize(
    ("quota", "cpus", "usable"),
    [(0.5, 4, 1), (2.5, 4, 2), (9.0, 4, 4), (1e9, 4, 4), (float("inf"), 4, 4), (0.0, 1, 1)],
)
def test_the_smaller_of_affinity_and_quota(quota, cpus, usable, monkeypatch):
    monkeypatch.setattr(config, "_cgroup_cpus", lambda: quota)
    monkeypatch.setattr(config.os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    assert config._usable_cpus() == usable and type(config._usable_cpus()) is int


def test_importing_needs_numpy_alone_and_starts_no_thread():
    code = """
import sys, threading
import numpy
before = set(sys.modules)
import instep
heavy = {name.split(".")[0] for name in set(sys.modules) - before} & {
    "torch", "scipy", "sklearn", "matplotlib", "tqdm", "ml_dtypes", "hypothesis", "jax"}
print(sorted(heavy), threading.active_count(), instep._core.allocations())
"""
    done = run_python(code)
    assert done.stdout.strip() == "[] 1 0", done.stderr + done.stdout


def test_public_names():
    for name in instep.__all__:
        assert hasattr(instep, name), name
    assert {"SGD", "RMSprop", "Adam", "AdamW", "StepReport", "losses", "schedules"} <= set(
        instep.__all__
    )
    assert {"set_num_threads", "get_num_threads", "show_config", "isa", "available_isas"} <= set(
        instep.__all__
    )
