"""The range test leaves no trace: every bit is restored, whatever happens in it."""

import importlib
import math
import signal

import numpy as np
import pytest
from conftest import LAYOUTS, bits, copy_tree, leaves, near_zero, quadratic

import instep
from instep import lr_range_test

lr_range = importlib.import_module("instep.lr_range")


def awkward(guarded, layout, dtype):
    """A tree of arrays of one layout, with values that arithmetic would not keep."""
    special = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, 1e-45, -3.5], dtype)
    shapes = [(), (7,), (3, 4), (2, 3, 5)]
    arrays = [
        guarded.array(np.resize(special, math.prod(shape)).reshape(shape), dtype, layout)
        for shape in shapes
    ]
    return {"first": arrays[0], "rest": [arrays[1], (arrays[2], {"last": arrays[3]})]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bits_are_restored_in_every_layout(layout, dtype, guarded):
    params = awkward(guarded, layout, dtype)
    before = [bits(leaf) for leaf in leaves(params)]
    count, moved = 0, 0

    def loss_and_grad(tree):
        nonlocal count, moved
        assert tree is params
        count += 1
        moved += [bits(leaf) for leaf in leaves(tree)] != before
        grads = copy_tree(tree)
        for leaf in leaves(grads):
            leaf[...] = 1.0
        return 1.0 / count, grads

    arrays = leaves(params)
    lr_range_test(loss_and_grad, params)
    assert [bits(leaf) for leaf in leaves(params)] == before
    assert all(a is b for a, b in zip(leaves(params), arrays, strict=True))
    assert count == 100 and moved == 99


def test_payloads_of_nan_are_restored(dtype):
    raw = np.random.default_rng(0).integers(0, 256, 4096, np.uint8)
    w = raw.view(dtype)  # all kinds of NaN among them
    assert np.isnan(w).any()
    before = raw.tobytes()
    lr_range_test(lambda w: (1.0, np.ones_like(w)), w)
    assert raw.tobytes() == before


def test_views_of_one_array():
    base = np.random.default_rng(0).normal(size=(6, 8))
    before = base.tobytes()
    params = {"even": base[:, ::2], "odd": base[::-1, 1::2], "again": []}
    lr_range_test(lambda p: (1.0, {"even": p["even"] + 1, "odd": None, "again": []}), params)
    assert base.tobytes() == before


class Stop(Exception):
    pass


def interrupt():
    signal.raise_signal(signal.SIGINT)


def stop():
    raise Stop


@pytest.mark.parametrize(("event", "error"), [(interrupt, KeyboardInterrupt), (stop, Stop)])
@pytest.mark.parametrize("when", [1, 2, 50, 100])
def test_restored_when_the_callback_stops(event, error, when):
    w, calls = near_zero(), 0

    def loss_and_grad(w):
        nonlocal calls
        calls += 1
        if calls == when:
            event()
            raise AssertionError("a signal must arrive here")
        return quadratic()(w)

    with pytest.raises(error):
        lr_range_test(loss_and_grad, w)
    assert calls == when and bits(w) == bits(near_zero())


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda w: (1.0, w[:3].copy()), ValueError, "grads has shape"),
        (lambda w: (1.0, None), TypeError, "grads is None"),
        (lambda w: (1.0, w), ValueError, "overlaps params"),
        (lambda w: (1.0, w + np.nan), FloatingPointError, "NaN or infinite"),
        (lambda w: 1.0, TypeError, r"loss_and_grad must return \(loss, grads\), got float"),
        (lambda w: (1.0, w, w), TypeError, r"must return \(loss, grads\), got tuple"),
        (lambda w: ("1", w), TypeError, "a number as loss, got '1'"),
        (lambda w: (None, w), TypeError, "a number as loss, got None"),
        (lambda w: (True, w), TypeError, "a number as loss, got True"),
        (lambda w: (10**400, w), ValueError, "loss_and_grad returned an int beyond float64"),
        (lambda w: (1j, w), TypeError, "number as loss, got 1j"),
        (lambda w: (np.complex64(1j), w), TypeError, "real number as loss"),
        (lambda w: (w, w), TypeError, "a number as loss, got array"),
    ],
)
def test_restored_when_a_result_is_refused(result, error, message):
    w, calls = near_zero(), 0

    def loss_and_grad(w):
        nonlocal calls
        calls += 1
        return result(w) if calls == 30 else quadratic()(w)

    with pytest.raises(error, match=message):
        lr_range_test(loss_and_grad, w, nonfinite="raise")
    assert calls == 30 and bits(w) == bits(near_zero())


class Fragile(np.ndarray):
    """Writing to it raises what `events` has left, as a signal between two lines would."""

    events = None

    def __setitem__(self, key, value):
        if Fragile.events:
            raise Fragile.events.pop()
        super().__setitem__(key, value)


@pytest.mark.parametrize("count", [1, 2])
def test_signals_while_restoring_stop_nothing(count, monkeypatch):
    arrays = [near_zero() for _ in range(5)]
    pairs = [(array.view(Fragile), near_zero()) for array in arrays]
    for array in arrays:
        array += 1.0
    monkeypatch.setattr(Fragile, "events", [KeyboardInterrupt() for _ in range(count)])
    with pytest.raises(KeyboardInterrupt):
        lr_range._write_back(pairs)
    assert pairs == [] and all(bits(array) == bits(near_zero()) for array in arrays)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_a_real_signal_while_restoring():
    # Alarms at other moments of the restoring: some come between two arrays.
    params = [near_zero() for _ in range(2000)]
    grads = [np.ones_like(array) for array in params]
    hits, calls = [], 0

    def loss_and_grad(params):
        nonlocal calls
        calls += 1
        if calls == 20:
            signal.setitimer(signal.ITIMER_REAL, delay)
        return 1.0, grads

    def hit(_, frame):
        if frame.f_code.co_name == "_write_back":  # elsewhere nothing would catch it
            hits.append(1)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, hit)
    try:
        for trial in range(600):
            if len(hits) >= 3:
                break
            calls, delay = 0, 1e-5 + trial % 30 * 2e-4
            try:
                lr_range_test(loss_and_grad, params, instep.SGD, min_lr=0.1, steps=20)
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert all(bits(array) == bits(near_zero()) for array in params)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert hits


def test_an_array_that_became_read_only_does_not_stop_the_others():
    params, calls = {"a": near_zero(), "b": near_zero(), "c": near_zero()}, 0

    def loss_and_grad(params):
        nonlocal calls
        calls += 1
        if calls == 50:
            params["b"].flags.writeable = False
            raise Stop
        return quadratic()(params["a"])[0], {key: np.ones(50) for key in params}

    with pytest.raises(ValueError, match="read-only"):
        lr_range_test(loss_and_grad, params)
    assert bits(params["a"]) == bits(params["c"]) == bits(near_zero())


@pytest.mark.parametrize("listed", [False, True])
def test_an_array_in_the_place_of_another_is_named(listed):
    tree = {"a": near_zero(), "w": near_zero()}
    original = tree["w"]
    params = [{"params": tree}] if listed else tree
    calls = 0

    def loss_and_grad(_):
        nonlocal calls
        calls += 1
        if calls == 30:
            tree["w"] = tree["w"] - 0.1
        grads = {key: array - 2 for key, array in tree.items()}
        return float(np.mean(grads["w"] ** 2)), [grads] if listed else grads

    with pytest.raises(ValueError, match=r"in the place of params.*'w'") as raised:
        lr_range_test(loss_and_grad, params)
    assert calls == 30 and ("[0]" in str(raised.value)) is listed
    assert bits(original) == bits(tree["a"]) == bits(near_zero())


def test_parameters_of_a_subclass_are_not_another_array(tmp_path):
    mapped = np.memmap(tmp_path / "w", np.float64, "w+", shape=50)
    mapped[...] = near_zero()
    found = lr_range_test(quadratic(), mapped)
    assert found.losses.size > 20 and bits(mapped) == bits(near_zero())
