"""Where the arrays that an optimizer makes for itself lie."""

from itertools import pairwise

import numpy as np

import instep

PAGE, LINE = 4096, 64


def arrays_of(opt):
    entries = (entry for state in opt.state.values() for entry in state.values())
    return [entry for entry in entries if isinstance(entry, np.ndarray)]


def stepped(params, **options):
    opt = instep.AdamW(params, **options)
    opt.step([np.ones_like(p) for p in params])
    return opt


def pages(arrays):
    """The pages that they touch."""
    ends = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
    return {page for low, high in ends for page in range(low // PAGE, (high - 1) // PAGE + 1)}


def test_small_arrays_lie_together():
    params = [np.ones(100, np.float32) for _ in range(3000)]
    opt = stepped(params, ema_decay=0.9)
    for arrays in (arrays_of(opt), opt.ema, opt.grads):
        needed = sum(a.nbytes for a in arrays) / PAGE
        # A line lost to alignment each, and the two ends of each of ten blocks of memory.
        assert len(pages(arrays)) < needed * (1 + LINE / 400) + 20


def any_parameters():
    """Arrays of each size, dtype and place in a line."""
    rng = np.random.default_rng(2)
    for size in (0, 1, 3, 100, 1023, 1024, 1025, 16383, 16384, 20_000):
        for dtype in (np.float32, np.float64):
            for offset in (0, 4, 8, 60, 1):
                room = np.zeros(8 * size + 2 * LINE, np.uint8)
                start = (offset - room.ctypes.data) % LINE
                view = room[start : start + size * np.dtype(dtype).itemsize].view(dtype)
                view[...] = rng.normal(size=size)
                yield view
    yield np.ones((7, 9), np.float32, order="F")
    yield np.ones((4, 6, 5), np.float32).transpose(2, 0, 1)
    yield np.array(2.0, np.float32)


def test_each_lies_in_a_line_as_its_parameter_does():
    params = list(any_parameters())
    opt = instep.AdamW(params)
    grads = opt.grads
    opt.step()
    made = [arrays_of(opt)[::2], arrays_of(opt)[1::2], grads]  # two states each
    for arrays in made:
        for array, p in zip(arrays, params, strict=True):
            assert array.flags.aligned and array.flags.writeable
            assert array.shape == p.shape and array.dtype == p.dtype
            if p.flags.aligned and 0 < p.nbytes < 16 * PAGE:
                assert (array.ctypes.data - p.ctypes.data) % LINE == 0


def test_no_two_share_memory_and_all_begin_as_zeros():
    params = list(any_parameters())
    opt = instep.AdamW(params, amsgrad=True)
    assert all((g == 0).all() for g in opt.grads)
    opt.step()  # of zeros: all states stay zeros
    arrays = [a for a in [*arrays_of(opt), *opt.grads] if a.size > 0]
    assert all((a == 0).all() for a in arrays)
    ends = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays)
    assert all(high <= low for (_, high), (low, _) in pairwise(ends))
