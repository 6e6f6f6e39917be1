"""Calls everything that is counted, under callgrind: ``worker.py LIBRARY`` (compiled marks.c).

Each work runs on two lengths. What the longer call takes more is the cost of its elements; what
the shorter one, of a few elements, takes is the cost of a call.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import instep
from benchmarks.works import LOSSES, RULES, Loss, Shape, laid_out

SHORT, LONG = 2048, 6144  # elements; multiples of every block and tile
FEW = 10  # elements, where the call is what counts
# Calls before counting, until Python has specialized its code for them, and counted.
WARM, CALLS = 20, 2
CALLS_ON_FEW = 20  # counted where the call itself is what counts
Call = Callable[[], Any]

# Options whose code is another: each once, with AdamW.
_OPTIONS: dict[str, dict[str, Any]] = {
    "bfloat16 states": {"state_dtype": "bfloat16"},
    "8-bit states": {"state_dtype": "8bit"},
    "clip_norm": {"clip_norm": 1.0},
    "clip_value": {"clip_value": 1.0},
    "nonfinite": {"nonfinite": "skip"},
    "ema_decay": {"ema_decay": 0.99},
    "zero_grads": {"zero_grads": True},
    "stats": {"stats": True},
}


def _aligned(array: Any) -> Any:
    """A copy that begins at a cache line: elsewhere a step has some elements before the first."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _step(kind: str, shape: Shape, dtype: str, options: dict[str, Any], layout: str = "C") -> Call:
    rng = np.random.default_rng(1)
    p = _aligned(rng.standard_normal(shape).astype(_dtype(dtype)))
    g = _aligned(np.abs(rng.standard_normal(shape)).astype(p.dtype))
    if layout != "C":
        g = laid_out(g, layout)
    opt = getattr(instep, kind)(p, threads=1, **options)
    return lambda: opt.step(g)


def _dtype(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _loss(kind: str, loss: Loss, elements: int, dtype: str, columns: int) -> Call:
    shape = (elements // columns, columns) if columns else (elements,)
    pred, target = loss.make(np.random.default_rng(1), shape)
    pred = pred.astype(dtype)
    target = target.astype(dtype) if target.dtype.kind == "f" else target
    function, out = getattr(instep.losses, kind), np.empty_like(pred)
    return lambda: function(pred, target, out=out)


def _per_element() -> Iterator[tuple[str, Callable[[int], Call]]]:
    """Each work by its name, as a function of its number of elements."""
    for dtype in ("float32", "float64"):
        for rule, (kind, options) in RULES.items():
            yield f"{rule} {dtype}", lambda n, k=kind, d=dtype, o=options: _step(k, (n,), d, o)
    for dtype in ("float16", "bfloat16"):
        yield f"adam {dtype}", lambda n, d=dtype: _step("AdamW", (n,), d, {})
    for layout, c in (("strided", 64), ("F", 64), ("F of long rows", 512)):  # the last by panels
        yield (
            f"adam float32, gradient {layout}",
            lambda n, o=layout, c=c: _step("AdamW", (n // c, c), "float32", {}, o),
        )
    for name, options in _OPTIONS.items():
        yield f"adam float32, {name}", lambda n, o=options: _step("AdamW", (n,), "float32", o)
    for kind, loss in LOSSES.items():
        for dtype in ("float32", "float64"):
            for columns in (8, 256) if loss.labels else (256,) if loss.per_row else (0,):
                name = f"{kind} {dtype}" + (f", rows of {columns}" if columns else "")
                yield (
                    name,
                    lambda n, k=kind, one=loss, d=dtype, c=columns: _loss(k, one, n, d, c),
                )


def _per_call() -> Iterator[tuple[str, Call]]:
    """Calls whose cost is that of the checks and of the way to the core."""
    few = (FEW,)
    yield "AdamW.step", _step("AdamW", few, "float32", {})
    yield "SGD.step", _step("SGD", few, "float32", {"momentum": 0.9})
    schedule = instep.schedules.CosineAnnealing(1e-3, 1000)
    yield "AdamW.step, schedule", _step("AdamW", few, "float32", {"lr": schedule})
    yield "AdamW.step, clip_norm", _step("AdamW", few, "float32", {"clip_norm": 1.0})
    yield "AdamW.step, 100 arrays", _many_arrays(100)
    yield "mse", _loss("mse", LOSSES["mse"], FEW, "float32", 0)
    yield "cross_entropy", _loss("cross_entropy", LOSSES["cross_entropy"], FEW, "float32", FEW)


def _many_arrays(count: int) -> Call:
    rng = np.random.default_rng(1)
    params, grads = rng.standard_normal((2, count, FEW), dtype=np.float32)
    opt = instep.AdamW(list(params), threads=1)
    given = list(grads)
    return lambda: opt.step(given)


def main(library: str) -> None:
    marks = ctypes.CDLL(library)
    if not marks.counted():
        raise SystemExit("worker.py counts nothing outside of callgrind")
    instep.set_num_threads(1)
    gc.disable()
    marks.start()

    def count(name: str, call: Call, calls: int = CALLS) -> None:
        for _ in range(WARM):
            call()
        marks.begin()
        for _ in range(calls):
            call()
        marks.end(name.encode())

    for _ in range(2):  # the first time marks cost more
        count("nothing", lambda: None, CALLS_ON_FEW)
    for name, call in _per_call():
        count(f"call|{name}", call, CALLS_ON_FEW)
    for name, make in _per_element():
        for elements in (SHORT, LONG):
            count(f"{elements}|{name}", make(elements))


if __name__ == "__main__":
    main(sys.argv[1])
