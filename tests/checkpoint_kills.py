"""Kill a process again and again while it saves, and look at the file each time.

``python tests/checkpoint_kills.py 1000`` (``make kills``). The file must be readable after every
kill, and hold what the last finished save wrote or what the interrupted one was about to.
"""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from checkpoint_common import SUFFIXES

import instep
from instep import _atomic

SIZE = 100_000  # float32 elements, changing by up to a half


class Outcome(NamedTuple):
    kills: int
    in_mid_save: int  # kills that left a temporary file
    saves: int  # finished ones


def content(number):
    """What the save of this number writes, of a length of its own."""
    array = np.full(SIZE // 2 + number * 7919 % (SIZE // 2), number, np.float32)
    return {"number": number, "array": array, "nested": {"again": [number, (array[:5],)]}}


def save_for_ever(path, number, pipe):
    """Report each number when its save has returned."""
    opt = instep.SGD({"w": np.zeros(SIZE // 10, np.float32)}, momentum=0.9)
    while True:
        number += 1
        opt.step({"w": np.ones(SIZE // 10, np.float32)})
        instep.save(path, opt, **content(number))
        os.write(pipe, number.to_bytes(8, "little"))


def kill_once(path, number, wait):
    """Start a process that saves from `number` on, kill it `wait` seconds after its first save."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(inlet)
        try:
            save_for_ever(path, number, outlet)
        finally:
            os._exit(1)
    os.close(outlet)
    with open(inlet, "rb") as pipe:
        reported = pipe.read(8)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        reported += pipe.read()
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the saving process failed"
    return int.from_bytes(reported[-8:], "little")


def check(path, last):
    """The file is whole, and no older than the last save that has returned."""
    checkpoint = instep.load(path)
    number = checkpoint.extra["number"]
    assert number in (last, last + 1), (number, last)
    expected = content(number)
    np.testing.assert_array_equal(checkpoint.extra["array"], expected["array"])
    np.testing.assert_array_equal(checkpoint.extra["nested"]["again"][1][0], expected["array"][:5])
    opt = instep.SGD({"w": np.zeros(SIZE // 10, np.float32)}, momentum=0.9)
    assert opt.load_state_dict(checkpoint.state_dict) == ((), ())
    return number


def left_behind(folder):
    return [entry for entry in os.listdir(folder) if entry.endswith(_atomic.SUFFIX)]


def kill_often(path, kills, seed=0):
    """Kill at random instants over the length of a save."""
    rng = random.Random(seed)
    start = time.perf_counter()
    for number in range(5):
        instep.save(path, {}, **content(number))
    length = (time.perf_counter() - start) / 5
    in_mid_save = 0
    for _ in range(kills):
        last = kill_once(path, number, rng.uniform(0, 3 * length))
        in_mid_save += len(left_behind(path.parent))
        assert last > number
        number = check(path, last)
        assert len(left_behind(path.parent)) <= 1  # each save removes what the one before left
    instep.save(path, {}, **content(number + 1))
    assert left_behind(path.parent) == []
    return Outcome(kills, in_mid_save, number)


def main(kills):
    for suffix in SUFFIXES:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            outcome = kill_often(Path(folder) / f"model{suffix}", kills // len(SUFFIXES))
            took = time.perf_counter() - start
            print(f"{suffix}: {outcome}, no file unreadable, none lost, {took:.1f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
