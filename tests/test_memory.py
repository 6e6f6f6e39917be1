"""After the first step nothing is allocated, in Python or in the core."""

import gc
import tracemalloc

import numpy as np
import pytest

import instep
from instep import _core
from instep.schedules import CosineAnnealing, Warmup

SHAPES = {"W1": (200, 200), "b1": (300,), "W2": (100, 50), "scale": ()}  # 45,301 elements
OPTIMIZERS = {
    "sgd": lambda p, **k: instep.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, **k),
    "rmsprop": lambda p, **k: instep.RMSprop(p, momentum=0.5, centered=True, **k),
    "adamw": lambda p, **k: instep.AdamW(
        p, lr=Warmup(CosineAnnealing(0.1, 100), 10), amsgrad=True, **k
    ),
}
# Step counts, schedule values and reports are Python objects: some hundred bytes each.
SLACK = 4096


def trees(dtype):
    rng = np.random.default_rng(1)

    def tree():  # an array also where the shape is ()
        return {k: np.array(rng.normal(size=shape), dtype) for k, shape in SHAPES.items()}

    return tree(), tree()


def allocated_by(steps):
    """(growth, peak) in bytes of Python's allocators, NumPy's arrays included."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        steps()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    return after - before, peak - before


def check(opt, step, times=200, slack=SLACK):
    for _ in range(3):
        step()
    core = _core.allocations()

    def steps():
        for _ in range(times):
            step()

    steps()
    assert _core.allocations() == core
    growth, peak = allocated_by(steps)
    assert growth < slack and peak < slack, (growth, peak)
    assert opt.steps == 3 + 2 * times


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 1.0, "clip_value": 0.5, "nonfinite": "skip"},
        {"ema_decay": 0.9, "zero_grads": True},
    ],
    ids=["plain", "clip", "extras"],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps(name, options, threads, dtype):
    params, grads = trees(dtype)
    opt = OPTIMIZERS[name](params, threads=threads, **options)
    check(opt, lambda: opt.step(grads))


def test_own_gradient_buffers():
    params, grads = trees(np.float32)
    opt = OPTIMIZERS["adamw"](params, clip_norm=1.0, threads=2)
    buffers = opt.grads

    def step():
        for name, buffer in buffers.items():
            np.copyto(buffer, grads[name])
        opt.step()

    check(opt, step)


def test_strided_parameters_and_converted_gradients():
    """Codecs work in tiles on the stack."""
    wide = np.zeros((400, 600), np.float32)
    grad = np.asfortranarray(np.ones((400, 300)))
    opt = OPTIMIZERS["adamw"](wide[:, ::2], clip_norm=1.0)
    check(opt, lambda: opt.step(grad))


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["plain", "clip"])
def test_low_precision_parameters(options, low):
    """Rounded to the parameter in the same pass: no array in between."""
    params, grads = trees(low)
    opt = OPTIMIZERS["rmsprop"](params, **options)
    check(opt, lambda: opt.step(grads))


def test_groups_and_alternating_leaves():
    """Cohorts that split and merge again: small objects come and go, but do not add up."""
    params, grads = trees(np.float32)
    opt = OPTIMIZERS["adamw"]([{"params": params}, {"params": np.ones(1000), "lr": 0.1}])
    some = [{**grads, "W1": None}, np.ones(1000)]
    patterns = [[grads, np.ones(1000)], some, [grads, None]]
    turn = iter(range(10**6))
    check(opt, lambda: opt.step(patterns[next(turn) % 3]), times=600, slack=4 * SLACK)


def test_a_refused_step_allocates_no_state():
    params, grads = trees(np.float64)
    opt = OPTIMIZERS["adamw"](params, nonfinite="skip")
    grads["scale"][...] = np.nan
    opt.step(grads)  # warm
    core = _core.allocations()
    growth, _ = allocated_by(lambda: [None for _ in range(20) if opt.step(grads) is None])
    assert growth < SLACK and _core.allocations() == core and opt.state == {}


def test_states_are_the_only_lasting_memory():
    """The first step allocates the states and hardly more; dropping the optimizer frees them."""
    params, grads = trees(np.float32)
    elements = sum(p.size for p in params.values())
    kept = []

    def first():
        opt = OPTIMIZERS["sgd"](params)
        opt.step(grads)
        kept.append(opt)

    growth, peak = allocated_by(first)
    assert 4 * elements <= growth < 4 * elements + 100_000
    assert peak < 4 * elements + 200_000

    def drop():
        kept.clear()
        gc.collect()

    tracemalloc.start()
    first()
    before, _ = tracemalloc.get_traced_memory()
    drop()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert before - after >= 4 * elements
