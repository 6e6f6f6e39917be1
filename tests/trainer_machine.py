"""Hypothesis chooses what happens to a `Trainer`.

`python tests/trainer_machine.py SECONDS [SEED]` chooses for so long; a finding is printed as a
program of calls, and becomes a test in test_trainer_machine.py."""

import sys
import time

from conftest import DTYPES, ISAS, LAYOUTS, LOW
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from trainer import CLASSES, Trainer

SHAPES = [(), (1,), (0,), (5,), (3, 4), (2, 3, 2), (130,), (9, 31)]
trained = st.sampled_from([*DTYPES, *LOW])
some_leaves = st.lists(st.tuples(trained, st.sampled_from(SHAPES)), min_size=1, max_size=3)
numbers = st.integers(0, 30)
VALUES = {
    "lr": [0.0, 1e-3, 0.1],
    "weight_decay": [0.0, 0.1],
    "momentum": [0.0, 0.5, 0.9],
    "betas": [(0.0, 0.5), (0.9, 0.999)],
    "eps": [1e-3, 1e-2],
    "maximize": [False, True],
    "alpha": [0.5, 0.99],
}
OPTIONS = {
    "clip_norm": [None, 0.5, 100.0],
    "clip_value": [None, 0.3],
    "ema_decay": [None, 0.0, 0.5, 0.99],
    "ema_warmup": [False, True],
    "zero_grads": [False, True],
    "stats": [False, True],
    "threads": [None, 1, 3],
    "seed": [0, 12345, 2**64 - 1],
}
BAD_OPTIONS = ["clip_norm", "clip_value", "nonfinite", "ema_decay", "threads", "seed", "stats"]


def pairs(table):
    return st.sampled_from([(key, value) for key, values in table.items() for value in values])


class TrainerMachine(RuleBasedStateMachine):
    trainer = None

    @initialize(
        name=st.sampled_from(sorted(CLASSES)),
        start=some_leaves,
        layout=st.sampled_from(sorted(LAYOUTS)),
        state_dtype=st.sampled_from([None, "float32", "bfloat16", "8bit"]),
        options=st.dictionaries(
            st.sampled_from(["amsgrad", "nesterov", "centered"]), st.just(True)
        ),
    )
    def begin(self, name, start, layout, state_dtype, options):
        fitting = {"sgd": "nesterov", "rmsprop": "centered"}.get(name, "amsgrad")
        chosen = {key: True for key in options if key == fitting}
        if "nesterov" in chosen:
            chosen["momentum"] = 0.9
        if "centered" in chosen:
            state_dtype = None
        dtypes, shapes = zip(*start, strict=True)
        self.trainer = Trainer(
            name, dtypes, shapes, layout, lr=0.05, state_dtype=state_dtype, **chosen
        )

    @rule(number=numbers, missing=st.integers(0, 7), scale=st.sampled_from([1.0, 8.0]),
          isa=st.sampled_from(ISAS))  # fmt: skip
    def step(self, **chosen):
        self.trainer.step(**chosen)

    @rule(kind=st.sampled_from(["shape", "dtype", "structure", "type", "overlap", "scale", "none"]),
          number=numbers)  # fmt: skip
    def bad_step(self, **chosen):
        self.trainer.bad_step(**chosen)

    @rule(policy=st.sampled_from(["skip", "raise"]), how=st.sampled_from(["nan", "inf"]),
          number=numbers)  # fmt: skip
    def nonfinite_step(self, **chosen):
        self.trainer.nonfinite_step(**chosen)

    @rule(key=st.sampled_from(sorted(VALUES)), value=st.sampled_from(["fast", [0.1], 1j, -2.0]))
    def bad_value(self, **chosen):
        self.trainer.bad_value(**chosen)

    @rule(name=st.sampled_from(BAD_OPTIONS), value=st.sampled_from(["some", -1.5, [1], 1j]))
    def bad_option(self, **chosen):
        self.trainer.bad_option(**chosen)

    @rule(kind=st.sampled_from(["overlap", "dtype", "empty", "value", "name", "type"]))
    def bad_group(self, **chosen):
        self.trainer.bad_group(**chosen)

    @rule(kind=st.sampled_from(["groups", "missing", "value", "steps", "state", "type"]))
    def bad_load(self, **chosen):
        self.trainer.bad_load(**chosen)

    @rule(change=pairs(VALUES))
    def set_value(self, change):
        if change != ("momentum", 0.0):  # nesterov needs one
            self.trainer.set_value(*change)

    @rule(change=pairs(OPTIONS))
    def set_option(self, change):
        self.trainer.set_option(*change)

    @precondition(lambda self: self.trainer and len(self.trainer.params) < 3)
    @rule(new=some_leaves)
    def add_group(self, new):
        self.trainer.add_group(*zip(*new, strict=True))

    @rule(state_dtype=st.sampled_from(["same", "same", None, "float32", "bfloat16", "8bit"]))
    def reload(self, state_dtype):
        if self.trainer.opt.param_groups[0].get("centered"):
            state_dtype = "same"
        self.trainer.reload(state_dtype)

    @rule()
    def save_and_load(self):
        self.trainer.save_and_load()

    @rule(by=st.sampled_from(["deepcopy", "pickle"]))
    def copied(self, by):
        self.trainer.copied(by)

    @rule(fail=st.booleans())
    def swap(self, fail):
        self.trainer.swap(fail)

    def teardown(self):
        if self.trainer:
            self.trainer.check()


def run_for(seconds, first_seed=0, examples=100, steps=40):
    """Programs until the time is over; returns how many."""
    end, count = time.monotonic() + seconds, 0
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    while time.monotonic() < end:
        run(seed(first_seed + count)(type("Machine", (TrainerMachine,), {})), settings=chosen)
        count += examples
    return count


if __name__ == "__main__":
    start = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    done = run_for(float(sys.argv[1]), start)
    print(f"{done} programs of up to 40 calls from seed {start}: nothing found")
