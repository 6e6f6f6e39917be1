"""optax compiled by XLA: parameters and states donated, so that XLA updates them in place."""

from itertools import repeat

import jax
import jax.numpy as jnp
import optax

from benchmarks.contenders.base import GivenGradients, StepContender
from benchmarks.works import Array, StepTask

_MOST_ARRAYS = 1000  # each is compiled for itself: seconds for 1,000, minutes for 10,000


class OptaxJit(StepContender):
    def compile(self) -> None:
        transform = self.transform = self._transform()

        def update(parameters, state, gradients):
            updates, state = transform.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))

    @classmethod
    def unsupported(cls, task: StepTask) -> str | None:
        if task.optimizer.rule == "adam_amsgrad":
            return "optax has another formula: the largest bias-corrected second moment"
        if len(task.work.shapes) > _MOST_ARRAYS:
            return "XLA compiles for minutes"
        known = ("AdamW", "SGD", "RMSprop")
        return None if task.optimizer.class_name in known else "no form"

    def allocate(self, parameters: list[Array]) -> None:
        # jnp.array copies: a donated buffer must be XLA's own.
        self.parameters = [jnp.array(array) for array in parameters]
        self.state = self.transform.init(self.parameters)

    def _transform(self) -> optax.GradientTransformation:
        hyper = self.hyper
        if self.optimizer.class_name == "AdamW":
            return optax.adamw(hyper["lr"], weight_decay=hyper["weight_decay"])
        if self.optimizer.class_name == "SGD":
            return optax.sgd(hyper["lr"], momentum=hyper.get("momentum"))
        return optax.rmsprop(
            hyper["lr"],
            decay=hyper["alpha"],
            momentum=hyper.get("momentum"),
            centered=hyper.get("centered", False),
            eps_in_sqrt=False,  # the formula of everyone else here
        )

    def set_gradients(self, gradients: list[Array]) -> None:
        self.gradients = [jnp.array(array) for array in gradients]

    def step(self) -> None:
        self.run(1)

    def run(self, times: int) -> None:
        """Waits once at the end: a step may be dispatched while the one before still runs."""
        update, gradients = self.update, self.gradients
        parameters, state = self.parameters, self.state
        for _ in repeat(None, times):
            parameters, state = update(parameters, state, gradients)
        self.parameters, self.state = jax.block_until_ready((parameters, state))

    def values(self) -> list[Array]:
        return jax.device_get(self.parameters)


class OptaxGiven(GivenGradients, OptaxJit):
    def receive(self) -> None:
        """Copied, as what the caller may overwrite before the step is done must be."""
        self.gradients = [jnp.array(given) for given in self.given]

    def run(self, times: int) -> None:
        for _ in repeat(None, times):
            self.receive()
            state = self.update(self.parameters, self.state, self.gradients)
            self.parameters, self.state = state
        jax.block_until_ready((self.parameters, self.state))
