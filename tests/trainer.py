"""An optimizer and what it should be, step by step, through any order of calls.

`Trainer` has one method per thing that may happen to an optimizer; each checks what followed. A
step is compared with the float64 twin of `reference.py`, which starts anew from what the optimizer
held before it: errors do not add up, so that bounds are those of one step."""

import contextlib
import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
import reference
from conftest import ISAS, Guarded, bits, leaves, on_isa, walk_order

import instep

CLASSES = {
    "sgd": instep.SGD,
    "rmsprop": instep.RMSprop,
    "adam": instep.Adam,
    "adamw": instep.AdamW,
}
# Of the values that a rule adds up, in units of the type computed in.
ROUNDINGS = 40
# What rounding to fewer bits may change, relative to the largest of the leaf.
STORED = {None: 0.0, "float32": 0.0, "bfloat16": 2.0**-7, "8bit": 2.1 / 255}


def snapshot(opt):
    """All that a refused call must leave as it was, as bytes and plain values."""
    states = {
        name: {key: bits(v) if isinstance(v, np.ndarray) else v for key, v in entry.items()}
        for name, entry in opt.state.items()
    }
    given = [bits(a) for group in opt.param_groups for a in leaves(group["params"])]
    masters = [bits(a) for a in leaves(opt.master)]
    averages = None if opt.ema is None else [bits(a) for a in leaves(opt.ema)]
    options = opt.clip_norm, opt.clip_value, opt.nonfinite, opt.ema_decay, opt.threads, opt.seed
    return opt.steps, states, given, masters, averages, options, len(opt.param_groups)


def walks(opt):
    """The order of the axes in memory, of each parameter."""
    return [walk_order(a) for group in opt.param_groups for a in leaves(group["params"])]


def gradients(params, number, missing, how="fine"):
    """A list of lists, one per group. `missing`: bits of the leaves that have none."""
    rng, found, place = np.random.default_rng(number), [], 0
    for group in params:
        trees = []
        for param in group:
            dtype = [param.dtype, np.float32, np.float64][number % 3]
            grad = np.asarray(rng.normal(0.3, 1, param.shape)).astype(dtype)
            if number % 5 == 4 and grad.ndim > 1:
                grad = np.asfortranarray(grad)
            if how != "fine" and grad.size:
                grad.flat[number % grad.size] = np.nan if how == "nan" else np.inf
            trees.append(None if missing >> place & 1 else grad)
            place += 1
        found.append(trees)
    return found


class Trainer:
    """An optimizer with one list of parameters per group."""

    def __init__(self, name, dtypes, shapes, layout="C", **options):
        self.name, self.arrays, self.layout = name, Guarded(), layout
        self.params = [self._new(dtypes, shapes, 0)]
        self.opt = CLASSES[name]([{"params": self.params[0]}], **options)
        self.master = options.get("master", True)

    def _new(self, dtypes, shapes, number):
        rng = np.random.default_rng(1000 + number)
        return [
            self.arrays.array(rng.normal(size=shape).astype(dtype), layout=self.layout)
            for dtype, shape in zip(dtypes, shapes, strict=True)
        ]

    # ---- steps ---------------------------------------------------------------------------------

    def step(self, number=0, missing=0, scale=1.0, isa=ISAS[0]):
        grads = gradients(self.params, number, missing)
        before = self._held()
        steps = self.opt.steps
        given = [[None if g is None else g.copy() for g in group] for group in grads]
        with on_isa(isa):
            report = self.opt.step(grads, grad_scale=scale)
        assert report.applied and report.step == self.opt.steps == steps + 1
        for mine, theirs in zip(leaves(given), leaves(grads), strict=True):
            if mine is not None:
                wanted = np.zeros_like(mine) if self.opt.zero_grads else mine
                assert bits(wanted) == bits(theirs)
        self._compare(before, given, scale, report)

    def _held(self):
        """Parameters, decoded states and counts of every leaf, and averages."""
        counts = {name: entry["step"] for name, entry in self.opt.state.items()}
        labels = [f"{g}.{i}" for g, group in enumerate(self.params) for i in range(len(group))]
        states = []
        for label in labels:
            entry = self.opt.decoded_state(label) if label in counts else {}
            states.append({k: v for k, v in entry.items() if k != "step"})
        averages = self.opt.ema
        return {
            "params": [np.array(a) for a in leaves(self.opt.master)],
            "states": [{k: np.array(v, np.float64) for k, v in s.items()} for s in states],
            "counts": [counts.get(label, 0) for label in labels],
            "averages": None if averages is None else [np.array(a) for a in leaves(averages)],
        }

    def _compare(self, before, grads, scale, report):
        opt, after = self.opt, self._held()
        ready, norm = reference.prepare(
            leaves(grads), grad_scale=scale, clip_norm=opt.clip_norm, clip_value=opt.clip_value
        )
        if report.grad_norm is not None:
            np.testing.assert_allclose(report.grad_norm, norm, rtol=1e-6)
        groups = [g for g, group in enumerate(self.params) for _ in group]
        for i, grad in enumerate(ready):
            label = f"leaf {i}"
            if grad is None:
                assert bits(after["params"][i]) == bits(before["params"][i]), label
                assert after["counts"][i] == before["counts"][i], label
            else:
                assert after["counts"][i] == before["counts"][i] + 1, label
                hyper = {k: v for k, v in opt.param_groups[groups[i]].items() if k != "params"}
                self._compare_leaf(i, before, after, grad, hyper)
        self._compare_averages(before, after)

    def _compare_leaf(self, i, before, after, grad, hyper):
        start, found = before["params"][i], after["params"][i]
        held = before["states"][i] if before["counts"][i] else {}
        if self.name == "sgd" and not hyper["momentum"]:
            held = {}
        wanted, states = reference.RULES[self.name](
            start, grad, held, step=before["counts"][i] + 1, **hyper
        )
        low = found.dtype.itemsize == 2
        unit = np.finfo(np.float64 if found.dtype == np.float64 else np.float32).eps
        if found.size == 0:
            return
        size = max(np.max(np.abs(wanted)), np.max(np.abs(start.astype(np.float64))))
        way = np.max(np.abs(wanted - start))
        bound = ROUNDINGS * unit * (size + way) + (2.0**-7 * size if low else 0)
        assert np.max(np.abs(found - wanted)) <= bound, f"leaf {i}"
        for key, value in states.items():
            error = np.abs(after["states"][i][key] - value)
            largest = max(np.max(np.abs(value)), np.max(np.abs(held.get(key, 0.0))))
            # A state in float32 beside a float64 parameter has the precision of float32.
            coarse = np.finfo(np.float32).eps if self.opt.state_dtype else unit
            bound = (ROUNDINGS * coarse + STORED[self.opt.state_dtype]) * largest + 1e-37
            assert np.max(error, initial=0) <= bound, f"leaf {i}, {key}"

    def _compare_averages(self, before, after):
        decay = self.opt.ema_decay
        assert (decay is None) == (before["averages"] is None)
        if decay is None:
            return
        if self.opt.ema_warmup:
            decay = min(decay, self.opt.steps / (9 + self.opt.steps))
        for old, param, new in zip(
            before["averages"], after["params"], after["averages"], strict=True
        ):
            wanted = old + (1 - decay) * (param.astype(np.float64) - old)
            unit = np.finfo(new.dtype).eps
            np.testing.assert_allclose(new, wanted, rtol=4 * unit, atol=8 * unit)

    # ---- what is refused -----------------------------------------------------------------------

    @contextlib.contextmanager
    def refused(self, *errors):
        before = snapshot(self.opt)
        try:
            yield
        except errors:
            pass
        else:
            raise AssertionError("nothing was refused")
        assert snapshot(self.opt) == before

    def bad_step(self, kind, number=0):
        grads = gradients(self.params, number, 0)
        last = grads[-1]
        if kind == "shape":
            last[-1] = np.zeros((*last[-1].shape, 2))
        elif kind == "dtype":
            last[-1] = np.zeros(last[-1].shape, [int, complex, object, bool][number % 4])
        elif kind == "structure":
            grads = [*grads[:-1], last[:-1]]
        elif kind == "type":
            last[-1] = [[1.0], "text", np.ma.ones(3), {"w": np.ones(3)}][number % 4]
        elif kind == "overlap" and last[-1].size:
            last[-1] = self.params[-1][-1]
        elif kind == "scale":
            with self.refused(TypeError, ValueError):
                self.opt.step(grads, grad_scale=[0.0, -1.0, float("nan"), "1"][number % 4])
            return
        else:
            grads = None
        with self.refused(TypeError, ValueError):
            self.opt.step(grads)

    def nonfinite_step(self, policy, how="nan", number=0):
        """NaN or infinity under a policy that lets neither in."""
        kept, self.opt.nonfinite = self.opt.nonfinite, policy
        grads = gradients(self.params, number, 0, how)
        if any(grad.size for grad in leaves(grads)):
            before = snapshot(self.opt)
            try:
                report = self.opt.step(grads)
                assert policy == "skip" and not report.applied
            except FloatingPointError:
                assert policy == "raise"
            assert snapshot(self.opt) == before
        self.opt.nonfinite = kept

    def bad_value(self, key, value):
        """A hyperparameter that the next step refuses, and its way back."""
        group = self.opt.param_groups[-1]
        key = key if key in group else "lr"
        kept = group[key]
        group[key] = value
        try:
            with self.refused(TypeError, ValueError):
                self.opt.step(gradients(self.params, 0, 0))
        finally:
            group[key] = kept

    def bad_option(self, name, value):
        with self.refused(TypeError, ValueError):
            setattr(self.opt, name, value)

    def bad_group(self, kind):
        new = {
            "overlap": lambda: {"params": [self.params[0][0]]},
            "dtype": lambda: {"params": [np.ones(3, int)]},
            "empty": lambda: {"params": []},
            "value": lambda: {"params": [np.ones(3)], "lr": -1.0},
            "name": lambda: {"params": [np.ones(3)], "rate": 1.0},
            "type": lambda: [np.ones(3)],
        }[kind if kind != "overlap" or self.params[0][0].size else "empty"]()
        with self.refused(TypeError, ValueError):
            self.opt.add_param_group(new)

    def bad_load(self, kind):
        state = copy.deepcopy(self.opt.state_dict())
        if kind == "groups":
            state["param_groups"].append({})
        elif kind == "missing":
            del state[sorted(state)[len(state) // 2]]
        elif kind == "value":
            state["param_groups"][-1]["lr"] = "fast"
        elif kind == "steps":
            state["steps"] = -3
        elif kind == "state" and state["state"]:
            entry = state["state"][sorted(state["state"])[-1]]
            entry["step"] = -1
        else:
            state = [1, 2]
        with self.refused(TypeError, ValueError, KeyError):
            self.opt.load_state_dict(state)

    # ---- changes -------------------------------------------------------------------------------

    def set_value(self, key, value):
        for group in self.opt.param_groups:
            if key in group:
                group[key] = value

    def set_option(self, name, value):
        alone = {"ema_decay": self.opt.ema_warmup and value is None}
        alone["ema_warmup"] = value is True and self.opt.ema_decay is None
        if alone.get(name):  # a warmup of nothing
            with self.refused(ValueError):
                setattr(self.opt, name, value)
        else:
            setattr(self.opt, name, value)

    def add_group(self, dtypes, shapes, lr=0.05):
        new = self._new(dtypes, shapes, len(self.params))
        if not self.master and any(a.dtype == np.float16 for a in new):
            return
        self.opt.add_param_group({"params": new, "lr": lr})
        self.params.append(new)

    # ---- there and back ------------------------------------------------------------------------

    def reload(self, state_dtype="same"):
        """Into a new optimizer over the same arrays."""
        before, old = snapshot(self.opt), self.opt
        kind = old.state_dtype if state_dtype == "same" else state_dtype
        new = CLASSES[self.name](
            [{"params": group} for group in self.params], state_dtype=kind, master=self.master
        )
        new.load_state_dict(old.state_dict())
        for name in ("clip_norm", "clip_value", "nonfinite", "threads", "stats"):
            setattr(new, name, getattr(old, name))
        self.opt = new
        if kind == old.state_dtype:
            assert snapshot(new) == before

    def save_and_load(self):
        """Through a file, into the optimizer itself, after a step that is thereby undone."""
        before = snapshot(self.opt)
        given = [a.copy() for a in leaves(self.params)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.npz"
            instep.save(path, self.opt)
            self.opt.step(gradients(self.params, 3, 0))
            self.opt.load_state_dict(instep.load(path).state_dict)
        for array, values in zip(leaves(self.params), given, strict=True):
            array[...] = values
        assert snapshot(self.opt) == before

    def copied(self, by):
        """Go on with a copy; the old one stays as it is."""
        old, before = self.opt, snapshot(self.opt)
        self.opt = copy.deepcopy(old) if by == "deepcopy" else pickle.loads(pickle.dumps(old))
        self.params = [list(group["params"]) for group in self.opt.param_groups]
        found, expected = snapshot(self.opt), before
        if old.state_dtype == "8bit" and walks(old) != walks(self.opt):
            self._check_rounded_anew(old)
            found, expected = found[:1] + found[2:], before[:1] + before[2:]
        assert found == expected
        self.opt.step(gradients(self.params, 1, 0))
        assert snapshot(old) == before

    def _check_rounded_anew(self, old):
        """What pickle lays out in another order has other blocks: 8-bit states are near."""
        assert list(self.opt.state) == list(old.state)
        for name in old.state:
            entry, found = old.decoded_state(name), self.opt.decoded_state(name)
            assert list(found) == list(entry) and found.pop("step") == entry.pop("step")
            for key, values in entry.items():
                most = STORED["8bit"] * np.abs(values).max(initial=0)
                assert np.abs(found[key] - values).max(initial=0) <= most

    def swap(self, fail=False):
        if self.opt.ema_decay is None:
            with self.refused(ValueError), self.opt.swap_ema():
                pass
            return
        before, averages = snapshot(self.opt), [a.copy() for a in leaves(self.opt.ema)]
        with contextlib.suppress(ZeroDivisionError), self.opt.swap_ema():
            for array, average in zip(leaves(self.params), averages, strict=True):
                np.testing.assert_array_equal(array, average.astype(array.dtype))
            with self.refused(RuntimeError):
                self.opt.step(gradients(self.params, 0, 0))
            if fail:
                raise ZeroDivisionError
        assert snapshot(self.opt) == before

    def check(self):
        self.arrays.check()
        assert self.opt.steps >= max([e["step"] for e in self.opt.state.values()], default=0)
