"""The same bits on any number of threads; forks; Python threads."""

import os
import sysconfig
import threading

import numpy as np
import pytest
from conftest import everything, run_python

import instep
from instep import losses

COUNTS = [1, 2, 3, 7]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def sizes_of_one_block_and_many():
    return {
        "one_array": [300_000],
        "many_small": [100 + n % 7 for n in range(3000)],
        "mixed": [1, 50_000, 3, 16_384, 0, 120_001, 17],
    }


SHAPES = sizes_of_one_block_and_many()


def train(sizes, dtype, threads, steps=3, layout=slice(None), **options):
    rng = np.random.default_rng(9)
    params = [rng.normal(size=n).astype(dtype)[layout] for n in sizes]
    opt = instep.AdamW(
        params, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, threads=threads, **options
    )
    reports = []
    for _ in range(steps):
        flat = rng.normal(size=sum(sizes)).astype(dtype)
        grads = np.split(flat, np.cumsum(sizes)[:-1])
        reports.append(opt.step([grad[layout] for grad in grads]))
    return reports, everything(opt, *params)


@pytest.mark.parametrize("layout", [slice(None), slice(None, None, -2)], ids=["dense", "strided"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_steps(shapes, layout, dtype):
    """Threads per optimizer, with and without the norm."""
    for options in ({}, {"clip_norm": 2.0, "nonfinite": "raise"}):
        results = [
            train(SHAPES[shapes], dtype, threads, layout=layout, **options) for threads in COUNTS
        ]
        assert all(result == results[0] for result in results[1:])


def test_steps_follow_the_global_number(num_threads):
    results = []
    for threads in COUNTS:
        num_threads(threads)
        results.append(train([200_000], np.float32, None, clip_norm=1.0))
    assert all(result == results[0] for result in results[1:])


def test_threads_may_change_between_steps():
    def run(plan):
        param = np.ones(200_000, np.float32)
        opt = instep.SGD(param, lr=0.1, momentum=0.9)
        rng = np.random.default_rng(2)
        for threads in plan:
            opt.threads = threads
            opt.step(rng.normal(size=200_000).astype(np.float32))
        return everything(opt, param)

    assert run([1, 1, 1, 1]) == run([2, 7, 1, 300])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(reduction, dtype, num_threads, rng):
    pred, target = rng.normal(size=(2, 300_000)).astype(dtype)
    logits = (5 * rng.normal(size=(30_000, 10))).astype(dtype)
    labels = rng.integers(0, 10, 30_000)
    results = []
    for threads in COUNTS:
        num_threads(threads)
        found = [
            losses.mse(pred, target, weight=target**2, reduction=reduction),
            losses.cross_entropy(logits, labels, label_smoothing=0.1, reduction=reduction),
        ]
        results.append([(np.asarray(f.value).tobytes(), f.grad.tobytes()) for f in found])
    assert all(result == results[0] for result in results[1:])


# ---- Python threads --------------------------------------------------------------------------


def together(*functions):
    """Run all at once; pass on the first exception."""
    failures, gate = [], threading.Barrier(len(functions))

    def guard(function):
        try:
            gate.wait(timeout=30)
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guard, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "hangs"
    if failures:
        raise failures[0]


def test_two_threads_step_two_optimizers():
    def trainer(seed, steps=20):
        rng = np.random.default_rng(seed)
        param = rng.normal(size=120_000).astype(np.float32)
        opt = instep.Adam(param, lr=0.1, clip_norm=1.0, threads=2)
        grads = [rng.normal(size=120_000).astype(np.float32) for _ in range(4)]

        def run():
            for t in range(steps):
                opt.step(grads[t % 4])

        return opt, param, run

    expected = []
    for seed in (1, 2):
        opt, param, run = trainer(seed)
        run()
        expected.append(everything(opt, param))
    (one, a, run_one), (two, b, run_two) = trainer(1), trainer(2)
    together(run_one, run_two)
    assert [everything(one, a), everything(two, b)] == expected


@pytest.mark.parametrize("size", [50, 100_000])
def test_threads_step_one_optimizer(size):
    """Steps are whole: with equal gradients the result is the serial one."""
    grad = np.random.default_rng(5).normal(size=size).astype(np.float32)

    def make():
        param = np.ones(size, np.float32)
        return param, instep.AdamW(
            param, lr=lambda t: 0.1 / (1 + t), betas=(0.8, 0.9), clip_norm=1.0, threads=2
        )

    serial, opt = make()
    for _ in range(60):
        opt.step(grad)
    shared, other = make()
    reports = []

    def run():
        for _ in range(20):
            reports.append(other.step(grad))

    together(run, run, run)
    assert everything(other, shared) == everything(opt, serial)
    assert sorted(report.step for report in reports) == list(range(1, 61))
    assert sorted(report.lr for report in reports) == sorted(0.1 / (1 + t) for t in range(60))


def test_reading_and_saving_while_another_thread_steps():
    """A snapshot is of one step: step counts, buffers and parameters belong together."""
    size = 50_000
    param = np.zeros(size)
    opt = instep.SGD({"w": param}, lr=1.0, momentum=0.5)
    snapshots = []

    def step():
        for _ in range(100):
            opt.step({"w": np.ones(size)})

    def save():
        for _ in range(30):
            snapshots.append(opt.state_dict())

    together(step, save)
    for saved in snapshots:
        if saved["state"]:
            steps = saved["state"]["w"]["step"]
            assert saved["steps"] == steps
            buffer = saved["state"]["w"]["momentum_buffer"]
            assert (buffer == sum(0.5**k for k in range(steps))).all()


# ---- fork ------------------------------------------------------------------------------------

CHILD = """
import os, sys, threading, time, warnings
import numpy as np, instep
warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
instep.set_num_threads(2)
N = 200_000

def trainer():
    param = np.ones(N, np.float32)
    opt = instep.Adam({"w": param}, lr=0.1, clip_norm=1.0)
    grad = np.random.default_rng(3).normal(size=N).astype(np.float32)
    return param, opt, lambda: opt.step({"w": grad})

def in_child(work):
    '''Exit status of a child that does the work; killed after 20 s.'''
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 3)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(4)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"
"""


def check(program, timeout=150):
    done = run_python(CHILD + program, timeout=timeout)
    assert done.returncode == 0 and done.stdout.split()[-1:] == ["fine"], done.stderr + done.stdout


@needs_fork
def test_a_child_steps_as_its_parent_does():
    check("""
param, opt, step = trainer()
for _ in range(3):
    step()
before = param.tobytes()

def work():
    for _ in range(5):
        step()
    other, _, step_other = trainer()
    for _ in range(8):
        step_other()
    return opt.steps == 8 and param.tobytes() == other.tobytes() != before

assert in_child(work) == 0
# The parent is untouched, goes on, and its other children step too.
assert param.tobytes() == before and opt.steps == 3
step()
assert in_child(lambda: in_child(lambda: step().step == 5) == 0) == 0
print("fine")
""")


@needs_fork
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")
def test_a_child_gets_workers_of_its_own():
    check("""
param, opt, step = trainer()
step()
count = len(os.listdir("/proc/self/task"))
assert count >= 2  # NumPy's BLAS may have started some

def work():
    assert len(os.listdir("/proc/self/task")) == 1
    step()
    return len(os.listdir("/proc/self/task")) == 2

assert in_child(work) == 0
print("fine")
""")


@needs_fork
def test_fork_while_another_thread_steps():
    """The other thread, its lock and the workers do not exist in the child."""
    check("""
param, opt, step = trainer()
other, second, step_second = trainer()
stop = threading.Event()

def busy():
    while not stop.is_set():
        step()

threads = [threading.Thread(target=busy, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
time.sleep(0.05)

def work():
    for _ in range(3):
        step_second()  # an optimizer that nobody used
        step()  # the one whose lock another thread may hold
    fresh, opt, step_fresh = trainer()
    for _ in range(3):
        step_fresh()
    return fresh.tobytes() == other.tobytes()

for _ in range(25):
    status = in_child(work)
    assert status == 0, status
stop.set()
for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
step()
print("fine")
""")


@needs_fork
def test_fork_within_a_step():
    """By a schedule: parent and child both finish the step and take more."""
    check("""
param, opt, step = trainer()
clean, _, step_clean = trainer()
statuses = []

def rate(t):
    if t == 1:
        pid = os.fork()
        if pid == 0:
            child.append(True)
        else:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return 0.1

child, fine = [], False
opt.param_groups[0]["lr"] = rate
for _ in range(4):
    step_clean()
try:
    for _ in range(4):
        step()
    # Another thread can take the lock: nothing was left locked.
    thread = threading.Thread(target=opt.state_dict, daemon=True)
    thread.start()
    thread.join(10)
    fine = not thread.is_alive() and param.tobytes() == clean.tobytes()
finally:
    if child:
        os._exit(0 if fine else 3)
assert fine and statuses == [0], statuses
print("fine")
""")


@needs_fork
def test_losses_in_a_child():
    check("""
x, y = np.random.default_rng(1).normal(size=(2, 300_000))
value = instep.losses.mse(x, y).value
assert in_child(lambda: instep.losses.mse(x, y).value == value) == 0
print("fine")
""")


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is not free-threaded"
)
def test_a_free_threaded_python_stays_so():
    """The extension says that it needs no global lock; importing it warns of nothing."""
    done = run_python("import sys, instep; print(sys._is_gil_enabled())")
    assert done.stdout.strip() == "False", done.stderr


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "threads"), [("1", 1), ("3", 3), ("64", 64)])
def test_environment(text, threads):
    code = "import instep; print(instep.get_num_threads())"
    assert run_python(code, INSTEP_NUM_THREADS=text).stdout.strip() == str(threads)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " ", "²", str(2**31), "9" * 5000])
def test_bad_environment(text):
    done = run_python("import instep", INSTEP_NUM_THREADS=text)
    assert done.returncode == 1
    assert "ImportError: " in done.stderr and f"INSTEP_NUM_THREADS={text!r}" in done.stderr


@pytest.mark.parametrize("threads", [1000, 2**31 - 1])
def test_more_threads_than_there_can_be(threads, num_threads):
    """The pool starts as many as it can use."""
    num_threads(threads)
    assert instep.SGD(np.ones(100_000)).step(np.ones(100_000)).applied
    assert instep.SGD(np.ones(100_000), threads=threads).step(np.ones(100_000)).applied


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_default_is_what_the_process_may_use():
    code = """
import os
allowed = sorted(os.sched_getaffinity(0))[:1]
os.sched_setaffinity(0, allowed)
import instep
print(instep.get_num_threads())
"""
    assert run_python(code).stdout.strip() == "1"
    whole = run_python("import instep; print(instep.get_num_threads())").stdout
    assert 1 <= int(whole) <= len(os.sched_getaffinity(0))
