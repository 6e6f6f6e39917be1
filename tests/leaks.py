"""Memory stays flat over many constructions, steps, refusals and losses: `make leaks`.

`python tests/leaks.py [COUNT [NAME...]]` does each of them COUNT (100,000) times and fails if what
is in use grows in most fifths of it after the first: bytes of malloc (the core, NumPy's arrays),
blocks of Python's allocator, resident memory. A leak does; a table that grows once does not. Where
malloc does not tell what is in use (other C libraries than glibc), the other two are looked at."""

import copy
import ctypes
import gc
import itertools
import resource
import statistics
import sys
from pathlib import Path

import numpy as np

import instep
from instep import _core

FIFTHS = 5
# In a fifth: free lists, caches and interned names, which do not follow the count.
ALLOWED = {"malloc bytes": 4096, "Python blocks": 50, "resident bytes": 64 * 1024}


class Mallinfo2(ctypes.Structure):
    """What glibc's malloc has given out, from 2.33 on: see mallinfo(3)."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


MALLINFO = getattr(ctypes.CDLL(None), "mallinfo2", None)
if MALLINFO is not None:
    MALLINFO.restype = Mallinfo2


def in_use():
    """By the names of ALLOWED, what is in use now."""
    gc.collect()
    found = {"Python blocks": sys.getallocatedblocks()}
    if MALLINFO is not None:
        info = MALLINFO()
        found["malloc bytes"] = info.uordblks + info.hblkhd
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found["resident bytes"] = pages * resource.getpagesize()
    return found


W, G = np.ones(300, np.float32), np.ones(300, np.float32)
LOW = np.ones(300, np.float16)
BAD = np.ones(299, np.float32)


def construct():
    opt = instep.AdamW({"w": W, "low": LOW}, lr=1e-3, ema_decay=0.9, clip_norm=1.0)
    opt.step({"w": G, "low": G})


def construct_in_8_bits():
    opt = instep.Adam([W], state_dtype="8bit", amsgrad=True)
    opt.step([G])
    with_group = {"params": [np.ones(3)]}
    opt.add_param_group(with_group)


STEPPED = instep.AdamW([W.copy(), LOW.copy()], stats=True, ema_decay=0.5, zero_grads=False)
SHORT = instep.SGD([W.copy()], momentum=0.9)


def step():
    STEPPED.step([G, G])
    SHORT.step([G])
    with STEPPED.swap_ema():
        pass


def refuse():
    for call in (
        lambda: instep.AdamW([W, W]),
        lambda: instep.AdamW([W], lr=-1.0),
        lambda: SHORT.step([BAD]),
        lambda: SHORT.add_param_group({"params": [SHORT.param_groups[0]["params"][0]]}),
        lambda: SHORT.load_state_dict({}),
    ):
        try:
            call()
        except (TypeError, ValueError):
            continue
        raise AssertionError("nothing was refused")


def save_and_load():
    STEPPED.load_state_dict(STEPPED.state_dict())
    copy.deepcopy(SHORT).step([G])


PRED, LABELS = np.ones((20, 5), np.float32), np.arange(20) % 5


def losses():
    instep.losses.mse(W, G, weight=G, reduction="none")
    instep.losses.cross_entropy(PRED, LABELS, label_smoothing=0.1)
    instep.losses.dice(PRED, PRED)
    try:
        instep.losses.cross_entropy(PRED, LABELS + 1)
    except ValueError:
        pass


def growth(work, count):
    """What came into use in a fifth of the calls: the median, the first left out."""
    seen = []
    for _ in range(FIFTHS):
        for _ in range(count // FIFTHS):
            work()
        seen.append(in_use())
    steps = list(itertools.pairwise(seen))
    return {
        name: statistics.median(after[name] - before[name] for before, after in steps)
        for name in seen[0]
    }


def main(count=100_000, *names):
    failed = False
    for work in (construct, construct_in_8_bits, step, refuse, save_and_load, losses):
        if names and work.__name__ not in names:
            continue
        allocations = _core.allocations()
        grown = growth(work, int(count))
        made = _core.allocations() - allocations
        failed |= any(number > ALLOWED[name] for name, number in grown.items())
        failed |= work is step and made > 0
        found = ", ".join(f"{number:+,.0f} {name}" for name, number in grown.items())
        print(f"{work.__name__:>20}: {count} times, {found}, {made} allocations", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
