"""Code of the user that raises within a call: nothing has happened, and all goes on."""

import threading

import numpy as np
import pytest
from conftest import Shelf, bits, everything, leaves

import instep
from instep.schedules import Lambda, Schedule, Warmup

ERRORS = [ValueError("broken"), KeyboardInterrupt(), SystemExit(3), MemoryError()]
errors = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


class Fuse:
    """A function that raises in the call that follows `light`, from where it is `delay` further."""

    def __init__(self, function):
        self.function, self.error, self.delay = function, None, 0

    def light(self, error, delay=0):
        self.error, self.delay = error, delay

    def __call__(self, *arguments):
        if self.error is not None:
            if self.delay == 0:
                error, self.error = self.error, None
                raise error
            self.delay -= 1
        return self.function(*arguments)


class Own(Schedule):
    """A schedule of the user's."""

    def __init__(self, function):
        object.__setattr__(self, "function", function)

    def _at(self, step):
        return self.function(step)


PLACES = {
    "lr": lambda fuse: {"lr": fuse},
    "weight_decay": lambda fuse: {"weight_decay": fuse},
    "beta": lambda fuse: {"betas": (0.9, fuse)},
    "eps": lambda fuse: {"eps": fuse},
    "clip_norm": lambda fuse: {"clip_norm": fuse},
    "clip_value": lambda fuse: {"clip_value": fuse},
    "ema_decay": lambda fuse: {"ema_decay": fuse},
    "Lambda": lambda fuse: {"lr": 0.5 * Lambda(fuse)},
    "Schedule": lambda fuse: {"lr": Own(fuse)},
    "nested": lambda fuse: {"lr": Warmup(Lambda(fuse), 1)},
}


def params():
    rng = np.random.default_rng(4)
    return [rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=7).astype(np.float16)]


def gradients(step):
    rng = np.random.default_rng(40 + step)
    return [rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=7).astype(np.float16)]


def assert_usable(opt):
    """No lock is held, and no step is under way."""
    done = []

    def use():
        opt.step(gradients(99))
        opt.state_dict()
        done.append(opt.steps)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(20)
    assert done, "another thread cannot step"
    if opt.ema_decay is not None:
        with opt.swap_ema():
            pass


@errors
@pytest.mark.parametrize("place", PLACES)
def test_in_a_step(place, error):
    def make():
        fuse, arrays = Fuse(lambda t: 0.9 / (1 + t)), params()
        return fuse, arrays, instep.AdamW(arrays, stats=True, **PLACES[place](fuse))

    fuse, mine, opt = make()
    _, theirs, other = make()
    for step in range(6):
        before = everything(opt, *mine, *opt.master)
        fuse.light(error)
        grads = gradients(step)
        with pytest.raises(type(error)):
            opt.step(grads)
        assert everything(opt, *mine, *opt.master) == before
        assert [bits(g) for g in grads] == [bits(g) for g in gradients(step)]
        assert opt.step(grads) == other.step(gradients(step))
    assert everything(opt, *mine, *opt.master) == everything(other, *theirs, *other.master)
    assert_usable(opt)


class Tree(dict):
    def __init__(self, leaf, fuse):
        super().__init__(w=leaf)
        self.fuse = fuse

    def __getitem__(self, key):
        self.fuse()
        return super().__getitem__(key)


@errors
def test_in_a_tree_of_gradients(error):
    """On the short way of a step too."""
    w, fuse = np.ones(3), Fuse(lambda: None)
    opt = instep.SGD({"w": w}, lr=0.25, momentum=0.5)
    for step in range(4):
        before = everything(opt, w)
        fuse.light(error)
        with pytest.raises(type(error)):
            opt.step(Tree(np.ones(3), fuse))
        assert everything(opt, w) == before
        assert opt.step(Tree(np.ones(3), fuse)).step == step + 1
    assert w.tolist() == [1 - 0.25 * (1 + 1.5 + 1.75 + 1.875)] * 3


# ---- state_factory ---------------------------------------------------------------------------


def factory():
    return Fuse(Shelf())


@errors
@pytest.mark.parametrize("call", [0, 1])
def test_in_a_factory_that_constructs(call, error):
    """Of a master, of an average."""
    fuse, arrays = factory(), params()
    before = [bits(a) for a in arrays]
    fuse.light(error, call)
    with pytest.raises(type(error)):
        instep.AdamW(arrays, state_factory=fuse, ema_decay=0.5)
    assert [bits(a) for a in arrays] == before
    opt = instep.AdamW(arrays, state_factory=fuse, ema_decay=0.5)
    opt.step(gradients(0))
    assert_usable(opt)


@errors
@pytest.mark.parametrize("call", range(4))
def test_in_a_factory_at_the_first_step(call, error):
    """Two states of two parameters: some have been made when one fails."""
    fuse, mine, theirs = factory(), params(), params()
    opt, other = instep.Adam(mine, state_factory=fuse), instep.Adam(theirs)
    before = everything(opt, *mine, *opt.master)
    fuse.light(error, call)
    with pytest.raises(type(error)):
        opt.step(gradients(0))
    assert everything(opt, *mine, *opt.master) == before and opt.state == {}
    for step in range(3):
        assert opt.step(gradients(step)) == other.step(gradients(step))
    assert everything(opt, *mine, *opt.master) == everything(other, *theirs, *other.master)
    assert_usable(opt)


CHANGES = {
    "add_param_group": lambda opt: opt.add_param_group({"params": [np.ones(4, np.float16)]}),
    "ema_decay": lambda opt: setattr(opt, "ema_decay", 0.5),
    "load_state_dict": lambda opt: opt.load_state_dict(with_states()),
}


def with_states():
    other = instep.Adam(params(), lr=0.3)
    other.step(gradients(7))
    return other.state_dict()


@errors
@pytest.mark.parametrize("change", CHANGES)
def test_in_a_factory_when_something_changes(change, error):
    fuse, arrays = factory(), params()
    opt = instep.Adam(arrays, state_factory=fuse)
    before = everything(opt, *arrays, *opt.master), opt.param_groups[0]["lr"]
    fuse.light(error)
    with pytest.raises(type(error)):
        CHANGES[change](opt)
    assert (everything(opt, *arrays, *opt.master), opt.param_groups[0]["lr"]) == before
    assert len(opt.param_groups) == 1 and opt.ema is None
    CHANGES[change](opt)
    grads = gradients(0) if change != "add_param_group" else [gradients(0), [np.ones(4)]]
    assert opt.step(grads).applied
    assert all(np.isfinite(a).all() for a in leaves(opt.master))


@errors
def test_in_a_block_with_averages(error):
    w = np.ones(3)
    opt = instep.SGD(w, lr=1.0, ema_decay=0.5)
    opt.step(np.ones(3))
    before = everything(opt, w)
    with pytest.raises(type(error)), opt.swap_ema():
        assert w.tolist() == [0.5] * 3
        raise error
    assert everything(opt, w) == before
    assert opt.step(np.ones(3)).applied


def test_a_progress_bar_that_raises(monkeypatch):
    """Ctrl-C arrives while it is drawn: the search ends and gives the parameters back."""
    tqdm = pytest.importorskip("tqdm")
    w, fuse = np.full(4, 3.0), Fuse(tqdm.tqdm.update)
    monkeypatch.setattr(tqdm.tqdm, "update", lambda self, n=1: fuse(self, n))
    before = bits(w)

    def search():
        return instep.lr_range_test(lambda w: (w @ w, 2 * w), w, instep.SGD, progress=True)

    fuse.light(KeyboardInterrupt(), 5)
    with pytest.raises(KeyboardInterrupt):
        search()
    assert bits(w) == before
    assert search().lrs.size > 5 and bits(w) == before
