"""`swap_ema`: parameters and averages exchanged for an evaluation, and back whatever happens."""

import copy
import pickle
import signal
import threading

import numpy as np
import pytest
from conftest import LAYOUTS, bits, everything
from test_ema import make, one_step

import instep


@pytest.mark.parametrize("layout", LAYOUTS)
def test_swapped_in_place_and_back(layout, dtype, rng, guarded):
    params = [
        guarded.array(rng.normal(size=shape).astype(dtype), layout=layout)
        for shape in [(33, 50), (), (0, 3), (3, 4, 5)]
    ]
    opt = instep.AdamW(params, lr=0.1, ema_decay=0.9, threads=2)
    opt.step([rng.normal(size=p.shape).astype(dtype) for p in params])
    there, averages = [bits(p) for p in params], [bits(a) for a in opt.ema]
    assert there[0] != averages[0]
    before, held = everything(opt, *params), opt.ema
    with opt.swap_ema() as nothing:
        assert nothing is None
        assert [bits(p) for p in params] == averages and [bits(a) for a in opt.ema] == there
        assert all(a is b for a, b in zip(opt.ema, held, strict=True))
    assert everything(opt, *params) == before
    opt.step([rng.normal(size=p.shape).astype(dtype) for p in params])


def test_swapped_back_after_an_exception():
    w, opt = make()
    one_step(opt)
    before = everything(opt, w)
    with pytest.raises(KeyError), opt.swap_ema():
        assert w.tolist() == [4, 12, 28]
        raise KeyError("x")
    assert everything(opt, w) == before
    one_step(opt)


def test_what_may_not_happen_meanwhile():
    w, opt = make()
    one_step(opt)
    one_step(opt)  # the short way is open
    saved, before = opt.state_dict(), everything(opt, w)
    for attempt, what in [
        (lambda: one_step(opt), r"step\(\)"),
        (lambda: opt.step(), r"step\(\)"),
        (lambda: opt.load_state_dict(saved), r"load_state_dict\(\)"),
        (lambda: opt.add_param_group({"params": np.ones(1)}), r"add_param_group\(\)"),
        (lambda: opt.swap_ema().__enter__(), r"swap_ema\(\)"),
        (lambda: copy.deepcopy(opt), "a copy"),
        (lambda: pickle.dumps(opt), "a copy"),
        (lambda: setattr(opt, "ema_decay", None), "a switch of ema_decay"),
    ]:
        with opt.swap_ema():
            with pytest.raises(RuntimeError, match=f"{what} was called within swap_ema"):
                attempt()
            assert bits(w) == before[3][0]
        assert everything(opt, w) == before
    one_step(opt)
    assert opt.steps == 3


def test_what_may():
    w, opt = make()
    one_step(opt)
    outside = opt.state_dict()
    with opt.swap_ema():
        inside = opt.state_dict()
        opt.ema_decay = 0.25
        opt.param_groups[0]["lr"] = 4.0
        assert opt.state == {"param": {"step": 1}} and opt.grads.shape == (3,)
    assert bits(inside["ema"]["param"]) == bits(outside["ema"]["param"]) == bits(opt.ema)
    one_step(opt)
    assert w.tolist() == [-4, 4, 20] and opt.ema.tolist() == [-2, 6, 22]


def test_nothing_to_swap():
    _w, opt = make(ema_decay=None)
    with pytest.raises(ValueError, match="no averages to swap; set ema_decay"), opt.swap_ema():
        pass
    opt.ema_decay = 0.5
    with opt.swap_ema():
        pass


def test_a_read_only_parameter_is_not_swapped():
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    opt = instep.SGD(params, lr=1.0, ema_decay=0.5)
    opt.step({"a": np.ones(2), "b": np.ones(2)})
    params["b"].flags.writeable = False
    before = everything(opt, *params.values())
    with pytest.raises(ValueError, match=r"\['b'\] is read-only, and swap_ema"), opt.swap_ema():
        pass
    assert everything(opt, *params.values()) == before
    opt.step({"a": np.ones(2), "b": None})  # its average still follows
    assert opt.ema["b"].tolist() == [-0.75] * 2


def test_within_a_step():
    _w, opt = make()

    def look(step):
        with opt.swap_ema():
            return 1.0

    opt.param_groups[0]["lr"] = look
    with pytest.raises(RuntimeError, match=r"swap_ema\(\) was called within a step"):
        one_step(opt)


def test_another_thread_is_refused_meanwhile():
    _w, opt = make()
    one_step(opt)
    caught = []

    def attempt():
        try:
            one_step(opt)
        except RuntimeError as error:
            caught.append(str(error))

    with opt.swap_ema():
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(caught) == 1 and opt.steps == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_interrupts_never_leave_them_swapped(rng):
    """A thousand times Ctrl-C, at any moment of an exchange or what is within."""
    w, opt = make()
    one_step(opt)
    before, caught, armed = everything(opt, w), 0, False

    def interrupt(number, frame):
        if armed:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in rng.uniform(5e-6, 2e-4, 1000):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, delay)
                for _ in range(60):
                    with opt.swap_ema():
                        sum(range(100))
            except KeyboardInterrupt:
                caught += 1
            finally:
                armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert everything(opt, w) == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert caught > 100


def test_left_without_being_entered_or_twice():
    w, opt = make()
    one_step(opt)
    before, swap = everything(opt, w), opt.swap_ema()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="left without being entered, or twice"):
            swap.__exit__(None, None, None)
        assert everything(opt, w) == before
        with swap:
            assert w.tolist() == [4, 12, 28]
        assert everything(opt, w) == before
    with pytest.raises(TypeError):
        type(swap).__new__(type(swap))
    one_step(opt)
