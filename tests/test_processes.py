"""Processes: fork, forkserver and spawn after stepping; limits of threads, memory and CPUs."""

import os
import sys

import pytest
from conftest import run_python

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits that Linux holds")

# ---- multiprocessing -------------------------------------------------------------------------

WORKER = '''
import multiprocessing, pickle, sys
import numpy as np
import instep

N = 200_000

def trainer():
    param = np.ones(N, np.float32)
    return param, instep.Adam({"w": param}, lr=0.1, clip_norm=1.0, ema_decay=0.5, threads=2)

def step(opt, number):
    grad = np.random.default_rng(number).normal(size=N).astype(np.float32)
    return opt.step({"w": grad})

def go_on(opt, queue):
    """In the child: three steps more with what was handed over; five with one of its own."""
    fresh, own = trainer()
    for number in range(5):
        step(own, number)
    for number in range(2, 5):
        step(opt, number)
    param = opt.param_groups[0]["params"]["w"]
    queue.put((opt.steps, param.tobytes() == fresh.tobytes(),
               opt.ema["w"].tobytes() == own.ema["w"].tobytes()))
'''
PARENT = """
import os, queue as queues, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
sys.path.insert(0, os.path.dirname(__file__))
from worker import *

if __name__ == "__main__":
    context = multiprocessing.get_context(METHOD)
    param, opt = trainer()
    step(opt, 0), step(opt, 1)
    before, queue = param.tobytes(), context.Queue()
    children = [context.Process(target=go_on, args=(opt, queue)) for _ in range(3)]
    for child in children:
        child.start()
    step(opt, 2)  # the parent steps while they do
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 3
    assert found == [(5, True, True)] * 3, found
    step(opt, 3), step(opt, 4)
    other, own = trainer()
    for number in range(5):
        step(own, number)
    assert param.tobytes() == other.tobytes() != before
    print("fine")
"""


def methods():
    import multiprocessing

    return multiprocessing.get_all_start_methods()


@pytest.mark.parametrize("method", methods())
def test_children_go_on_where_the_parent_is(method, tmp_path):
    """An optimizer that has stepped is handed to children, by fork or by pickle."""
    (tmp_path / "worker.py").write_text(WORKER)
    program = tmp_path / "parent.py"
    program.write_text("import sys\n" + PARENT.replace("METHOD", repr(method)))
    code = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    if method != "fork":  # the child imports the program by its path
        code = (
            f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(program)!r}]))"
        )
    done = run_python(code, timeout=200)
    assert done.returncode == 0 and done.stdout.split()[-1:] == ["fine"], done.stderr


# ---- threads ---------------------------------------------------------------------------------

STEPS = """
import numpy as np, instep
def steps(threads, count=3):
    param = np.ones(300_000, np.float32)
    opt = instep.AdamW(param, clip_norm=1.0, threads=threads)
    for number in range(count):
        opt.step(np.random.default_rng(number).normal(size=param.size).astype(np.float32))
    instep.losses.mse(param, param)
    return param.tobytes(), [state.tobytes() for entry in opt.state.values()
                             for state in entry.values() if not isinstance(state, int)]
"""

NO_THREAD = (
    """
import ctypes, os, resource, threading
"""
    + STEPS
    + """
one = steps(1)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.getuid() == 0:  # whom the limit does not bind
    os.setgid(65534)
    os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    raise SystemExit(77)  # no limit here
count = len(os.listdir("/proc/self/task"))
assert steps(8) == one
assert len(os.listdir("/proc/self/task")) == count
print("fine")
"""
)


@linux
def test_no_thread_can_be_started():
    """It runs on one, with the same bits."""
    done = run_python(NO_THREAD, timeout=120, OPENBLAS_NUM_THREADS="1")
    if done.returncode == 77:
        pytest.skip("this system does not limit the threads of a user")
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_and_a_quota_of_the_control_group():
    """The smaller of both, at least one; where they are read is tested in test_config.py."""
    code = """
import os
from pathlib import Path
read = Path.read_text
def fake(path, *arguments, **named):
    if str(path) == "/sys/fs/cgroup/cpu.max":
        return os.environ["QUOTA"]
    return read(path, *arguments, **named)
Path.read_text = fake
os.sched_getaffinity = lambda pid: set(range(6))
import instep
print(instep.get_num_threads())
"""
    for quota, threads in [
        ("max 100000", 6), ("300000 100000", 3), ("50000 100000", 1), ("900000 100000", 6)
    ]:  # fmt: skip
        done = run_python(code, QUOTA=quota)
        assert done.stdout.strip() == str(threads), (quota, done.stderr)


# ---- memory ----------------------------------------------------------------------------------

OUT_OF_MEMORY = """
import resource
import numpy as np, instep
from instep import _core

def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

params = [np.ones(4_000_000, np.float32), np.ones(4_000_000, np.float16)]
grads = [np.ones(4_000_000, np.float32), np.ones(4_000_000, np.float16)]
MAKE
warm = instep.Adam([np.ones(3, np.float32), np.ones(3, np.float16)], **OPTIONS)
warm.step([np.ones(3), np.ones(3)])
before = [p.tobytes() for p in params]
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
refused = done = 0
for room in range(0, 140, 7):
    resource.setrlimit(resource.RLIMIT_AS, (size() + (room << 20), hard))
    try:
        CALL
        done += 1
    except MemoryError:
        refused += 1
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        CHECK
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    UNDO
assert refused > 1 and done > 0, (refused, done)
print("fine")
"""


def out_of_memory(make, options, call, check, undo):
    code = OUT_OF_MEMORY
    for name, text in [
        ("MAKE", make), ("OPTIONS", repr(options)), ("CALL", call), ("CHECK", check), ("UNDO", undo)
    ]:  # fmt: skip
        code = code.replace(name, text)
    done = run_python(code, timeout=120, OPENBLAS_NUM_THREADS="1", INSTEP_NUM_THREADS="1")
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stderr


@linux
def test_out_of_memory_at_construction():
    """With a master and averages: MemoryError, and the parameters as they were."""
    options = {"ema_decay": 0.5}
    out_of_memory(
        "opt = None",
        options,
        f"opt = instep.Adam(params, **{options})",
        "assert opt is None and [p.tobytes() for p in params] == before",
        "opt = None",
    )


@linux
@pytest.mark.parametrize("state_dtype", [None, "8bit"])
def test_out_of_memory_at_the_first_step(state_dtype):
    """No state is there, no parameter has moved, and with memory the step is taken."""
    options = {"state_dtype": state_dtype}
    out_of_memory(
        f"opt = instep.Adam(params, **{options})",
        options,
        "report = opt.step(grads)",
        "assert opt.steps == 0 and opt.state == {} and [p.tobytes() for p in params] == before",
        "params[0][...] = 1; params[1][...] = 1; opt = None; "
        f"opt = instep.Adam(params, **{options})",
    )


@linux
@pytest.mark.parametrize(
    "change", ["opt.ema_decay = 0.5", "opt.add_param_group({'params': [new]})"]
)
def test_out_of_memory_when_something_changes(change):
    """The average of another option, the master of another group."""
    out_of_memory(
        "opt = instep.Adam(params); new = np.ones(8_000_000, np.float16)",
        {},
        change,
        "assert opt.ema is None and opt.ema_decay is None and len(opt.param_groups) == 1\n"
        "        assert [p.tobytes() for p in params] == before",
        "opt = None; opt = instep.Adam(params)",
    )
