"""The short way of a step, open while nothing needs deciding: it does what the long way does, and
whatever changes what a step must do closes it."""

import copy
import gc
import pickle
import signal
import threading
import weakref

import numpy as np
import pytest

import instep


def gradient(seed, shape=(7,), dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def optimizers(**options):
    """Two alike: what `long` does in `compare` never takes the short way."""
    return [instep.AdamW([np.ones(7, np.float32), np.ones(3)], lr=0.1, **options) for _ in range(2)]


def is_open(opt):
    """Whether the next step would take the short way, asked without taking it."""
    before = opt.param_groups[0]["params"][0].copy()
    done = opt._steady.take([np.zeros(7, np.float32), None])  # None sends it the long way
    assert type(done) is not instep.StepReport and np.array_equal(
        opt.param_groups[0]["params"][0], before
    )
    return opt._steady.ready


def compare(short, long, steps=3, start=0, short_way=True):
    for k in range(start, start + steps):
        grads = [gradient(k), gradient(k + 100, (3,), np.float64)]
        long._steady.close()
        given = [grad.copy() for grad in grads]
        reports = short.step(grads), long.step(given)
        assert [grad.tobytes() for grad in grads] == [grad.tobytes() for grad in given]
        assert reports[0] == reports[1] and type(reports[0]) is instep.StepReport
    assert short.steps == long.steps
    for left, right in zip(arrays(short), arrays(long), strict=True):
        assert left.tobytes() == right.tobytes()
    assert is_open(short) == short_way


def arrays(opt):
    for entry in opt.state.values():
        yield from (value for value in entry.values() if isinstance(value, np.ndarray))
    for group in opt.param_groups:
        yield from group["params"]
    if opt.ema is not None:
        yield from opt.ema


def lower(opt):
    opt.param_groups[0]["lr"] = 0.01


def lower_and_save(opt):
    lower(opt)
    opt.state_dict()  # looks at what changed


def replace_betas(opt):
    opt.param_groups[0]["betas"] = (0.5, 0.9)


def set_to(name, value):
    return lambda opt: setattr(opt, name, value)


def reload(opt):
    other = instep.AdamW([np.ones(7, np.float32), np.ones(3)], lr=0.3)
    for k in range(4):
        other.step([gradient(k + 50), None])
    opt.load_state_dict(other.state_dict())


def miss_one(opt):
    opt.step([None, gradient(9, (3,))])


def swap(opt):
    opt.ema_decay = 0.5
    opt.step([gradient(3), gradient(4, (3,))])
    assert opt._steady.ready
    with opt.swap_ema():
        pass


def schedule(opt):
    opt.param_groups[0]["lr"] = instep.schedules.CosineAnnealing(0.1, 5)


@pytest.mark.parametrize(
    ("change", "short_way"),
    [
        pytest.param(lower, True, id="lr"),
        pytest.param(lower_and_save, True, id="lr, saved"),
        pytest.param(replace_betas, True, id="betas"),
        pytest.param(schedule, False, id="schedule"),
        pytest.param(set_to("clip_norm", 0.1), False, id="clip_norm"),
        pytest.param(set_to("clip_value", 0.1), False, id="clip_value"),
        pytest.param(set_to("nonfinite", "skip"), False, id="nonfinite"),
        pytest.param(set_to("threads", 2), True, id="threads"),
        pytest.param(reload, True, id="load_state_dict"),
        pytest.param(set_to("ema_decay", 0.9), True, id="ema_decay"),
        pytest.param(set_to("ema_decay", lambda t: 0.9), False, id="ema_decay scheduled"),
        pytest.param(set_to("zero_grads", True), True, id="zero_grads"),
        pytest.param(set_to("stats", True), False, id="stats"),
        pytest.param(swap, True, id="swap_ema"),
        pytest.param(miss_one, True, id="a leaf without gradient"),
    ],
)
def test_what_changes_between_steps_is_honoured(change, short_way):
    short, long = optimizers()
    compare(short, long)
    change(short)
    change(long)
    compare(short, long, start=10, short_way=short_way)


def test_opens_after_a_step_and_is_closed_by_what_a_step_must_look_at():
    short, _ = optimizers()
    assert not short._steady.ready
    compare(*optimizers())
    compare(*optimizers(ema_decay=0.9, zero_grads=True))
    closed = [{"clip_norm": 1e9}, {"clip_value": 1e9}, {"nonfinite": "raise"}, {"stats": True}]
    for options in closed:
        compare(*optimizers(**options), short_way=False)


@pytest.mark.parametrize(
    "changes",
    [
        [("ema_decay", 0.5, True), ("ema_decay", 0.75, True), ("ema_decay", None, True)],
        [("ema_decay", 0.5, True), ("zero_grads", True, True), ("zero_grads", False, True)],
        [("ema_decay", 0.2, True), ("ema_warmup", True, True)],  # 0.2 is reached at once
        [("ema_decay", 0.9, True), ("ema_warmup", True, False), ("ema_warmup", False, True)],
    ],
)
def test_extras_are_honoured_from_the_next_step_on(changes):
    short, long = optimizers()
    compare(short, long)
    for k, (name, value, short_way) in enumerate(changes):
        set_to(name, value)(short)
        set_to(name, value)(long)
        compare(short, long, start=10 * (k + 1), short_way=short_way)


def test_the_short_way_opens_when_the_warmup_ends():
    short, long = optimizers(ema_decay=0.4, ema_warmup=True)
    compare(short, long, steps=4, short_way=False)  # the next decay: 5/14
    compare(short, long, steps=1, short_way=False)
    compare(short, long, steps=1, short_way=True)  # 6/15 was the last below it


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_a_copy_steps_its_own_arrays(clone):
    short, long = optimizers()
    compare(short, long)
    before = [array.copy() for array in arrays(short)]
    other = clone(short)
    compare(other, long, start=5)
    for array, kept in zip(arrays(short), before, strict=True):
        assert array.tobytes() == kept.tobytes()


def test_a_group_added_takes_part():
    opt, _ = optimizers()
    opt.step([gradient(0), gradient(1, (3,))])
    late = np.ones(2, np.float32)
    opt.add_param_group({"params": late, "lr": 0.5})
    opt.step([[gradient(0), gradient(1, (3,))], gradient(2, (2,))])
    report = opt.step([[gradient(0), gradient(1, (3,))], gradient(2, (2,))])
    assert report.step == 3 and np.all(late != 1) and opt._steady.ready


@pytest.mark.parametrize(
    ("grads", "kind", "text"),
    [
        ([gradient(0)], ValueError, "grads has 1 entries"),
        ([gradient(0, (8,)), gradient(1, (3,))], ValueError, r"grads\[0\]"),
        ([gradient(0).astype(np.int32), gradient(1, (3,))], TypeError, r"grads\[0\]"),
        ([gradient(0), object()], TypeError, r"grads\[1\]"),
        (None, TypeError, "grads is None"),
        ({"a": 1}, TypeError, "grads is dict"),
    ],
)
def test_bad_gradients_are_refused_as_on_the_long_way(grads, kind, text):
    opt, _ = optimizers()
    opt.step([gradient(0), gradient(1, (3,))])
    before = [array.copy() for array in arrays(opt)]
    assert opt._steady.ready
    with pytest.raises(kind, match=text):
        opt.step(grads)
    assert opt.steps == 1
    for array, kept in zip(arrays(opt), before, strict=True):
        assert array.tobytes() == kept.tobytes()


def test_a_parameter_made_read_only_is_refused():
    opt, _ = optimizers()
    opt.step([gradient(0), gradient(1, (3,))])
    opt.param_groups[0]["params"][1].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[1\]"):
        opt.step([gradient(0), gradient(1, (3,))])


def test_low_precision_parameters(low):
    """The master is updated and rounded to the parameter on the short way too."""
    short, long = (
        instep.AdamW([np.ones(7, low), np.ones(3, np.float16)], lr=1e-3) for _ in range(2)
    )
    for k in range(4):
        grads = [gradient(k, dtype=low), gradient(k + 100, (3,), np.float64)]
        long._steady.close()
        assert short._steady.ready == (k > 0)
        assert short.step(grads) == long.step(grads)
        for left, right in zip(short.master, long.master, strict=True):
            assert left.tobytes() == right.tobytes()
        for left, right in zip(arrays(short), arrays(long), strict=True):
            assert left.tobytes() == right.tobytes()
        for master, param in zip(short.master, short.param_groups[0]["params"], strict=True):
            assert master.astype(param.dtype).tobytes() == param.tobytes()


def test_a_schedule_that_steps_its_own_optimizer_is_refused():
    opt, _ = optimizers()
    grads = [gradient(0), gradient(1, (3,))]
    opt.step(grads)

    def inner(step):
        opt.step(grads)
        return 0.1

    opt.param_groups[0]["lr"] = inner
    with pytest.raises(RuntimeError, match="within a step"):
        opt.step(grads)
    assert opt.steps == 1


@pytest.mark.parametrize(
    ("params", "grads"),
    [
        (lambda: np.ones(5), lambda: gradient(0, (5,), np.float64)),
        (lambda: (np.ones(5), np.ones(2)), lambda: (gradient(0, (5,)), gradient(1, (2,)))),
        (
            lambda: {"a": np.ones(5), "b": [np.ones(2)]},
            lambda: {"a": gradient(0, (5,)), "b": [gradient(1, (2,))]},
        ),
        (
            lambda: [{"params": np.ones(5)}, {"params": [np.ones(2)], "lr": 0.3}],
            lambda: [gradient(0, (5,)), [gradient(1, (2,))]],
        ),
        (lambda: [np.zeros((0, 3)), np.ones(())], lambda: [np.zeros((0, 3)), np.ones(())]),
    ],
    ids=["array", "tuple", "tree", "groups", "empty"],
)
def test_every_nesting(params, grads):
    short, long = instep.SGD(params(), momentum=0.9), instep.SGD(params(), momentum=0.9)
    for _ in range(3):
        long._steady.close()
        assert short.step(grads()) == long.step(grads())
    assert short._steady.ready
    for left, right in zip(short.state.values(), long.state.values(), strict=True):
        assert left["momentum_buffer"].tobytes() == right["momentum_buffer"].tobytes()


def test_buffers_and_a_scale_take_the_long_way():
    opt, other = optimizers()
    for k in range(3):
        for buffer, value in zip(opt.grads, (gradient(k), gradient(k + 9, (3,))), strict=True):
            buffer[...] = value
        opt.step()
        other.step([2 * gradient(k), 2 * gradient(k + 9, (3,))], grad_scale=2.0)
    for left, right in zip(arrays(opt), arrays(other), strict=True):
        assert left.tobytes() == right.tobytes()


class Nested(dict):
    """A gradient tree that runs code when it is read, `during`, and counts its reads."""

    def __init__(self, leaves, during=lambda: None):
        super().__init__(leaves)
        self.during, self.reads = during, 0

    def __getitem__(self, key):
        self.reads += 1
        self.during()
        return super().__getitem__(key)


def named(**options):
    return instep.SGD({"a": {"w": np.ones(3)}}, lr=0.5, **options)


def tree(leaf, during=lambda: None):
    return {"a": Nested({"w": leaf}, during)}


def test_code_run_by_a_tree_may_not_step_load_or_add():
    opt = named()
    opt.step(tree(np.ones(3)))
    saved = opt.state_dict()
    for inner in (
        lambda: opt.step(tree(np.ones(3))),
        lambda: opt.load_state_dict(saved),
        lambda: opt.add_param_group({"params": np.ones(2)}),
    ):
        assert opt._steady.ready
        with pytest.raises(RuntimeError, match="within a step"):
            opt.step(tree(np.ones(3), inner))
        assert opt.steps == opt.step(tree(np.ones(3))).step - 1


@pytest.mark.parametrize("leaf", [np.ones(3), None, np.float16([1, 2, 3])], ids=str)
def test_a_tree_is_read_once(leaf):
    opt = named()
    for _ in range(3):
        grads = tree(leaf)
        opt.step(grads)
        assert grads["a"].reads == 1


def test_an_option_that_a_tree_sets_holds_from_the_next_step_on():
    opt = named()
    opt.step(tree(np.ones(3)))
    w = opt.param_groups[0]["params"]["a"]["w"]
    before = w.copy()

    def change():
        opt.param_groups[0]["lr"] = 100.0
        opt.clip_norm = 1e-3
        opt.state_dict()

    assert opt.step(tree(np.ones(3), change)).lr == 0.5
    np.testing.assert_array_equal(w, before - 0.5)
    report = opt.step(tree(np.ones(3)))
    assert report.lr == 100.0 and report.grad_norm == pytest.approx(3**0.5)
    assert np.linalg.norm(before - 0.5 - w) == pytest.approx(0.1)


def test_an_option_set_by_another_thread_during_a_step_is_not_lost():
    size = 4_000_000
    w, g = np.ones(size, np.float32), np.ones(size, np.float32)
    opt = instep.SGD([w], lr=0.0)
    for _ in range(10):
        opt.clip_norm = None
        thread = threading.Thread(target=opt.step, args=([g],))
        thread.start()
        opt.clip_norm = 1.0
        thread.join()
        assert opt.step([g]).grad_norm is not None


def steps_elsewhere(opt, grads):
    """Whether another thread can take a step."""
    thread = threading.Thread(target=opt.step, args=(grads,), daemon=True)
    before = opt.steps
    thread.start()
    thread.join(10)
    return opt.steps == before + 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["short", "long"])
def test_interrupts_leave_a_usable_optimizer(options, rng):
    """A thousand times Ctrl-C, at any moment of a step."""
    opt = instep.AdamW([np.ones(7, np.float32)], **options)
    grads = [np.ones(7, np.float32)]
    opt.step(grads)

    def interrupt(number, frame):
        if armed:
            raise KeyboardInterrupt

    armed = False
    before, caught = signal.signal(signal.SIGALRM, interrupt), 0
    try:
        for delay in rng.uniform(5e-6, 6e-5, 1000):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, delay)
                for _ in range(60):
                    opt.step(grads)
            except KeyboardInterrupt:
                caught += 1
            finally:
                armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert opt.steps == opt.state["0"]["step"]  # what was written is counted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught > 100 and steps_elsewhere(opt, grads)


@pytest.mark.parametrize("groups", [False, True])
def test_an_optimizer_is_freed_without_the_garbage_collector(groups):
    w = np.ones(3)
    opt = instep.AdamW([{"params": w}, {"params": np.ones(2)}] if groups else [w])
    opt.step([np.ones(3), np.ones(2)] if groups else [np.ones(3)])
    assert opt._steady.ready
    alive = weakref.ref(opt)
    gc.disable()
    try:
        del opt
        assert alive() is None
    finally:
        gc.enable()


def test_a_seed_set_while_the_way_is_opened():
    """As another thread may, after the step has read it."""
    opt = instep.SGD(np.ones(2))
    way = opt._open_steady

    def opened():
        opt.seed = 5
        way()

    opt._open_steady = opened
    opt.step(np.ones(2))
    assert not opt._steady.ready
    opt.step(np.ones(2))  # takes the new one
    assert opt._steady.ready
