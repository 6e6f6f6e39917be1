"""optax compiled by XLA: parameters and states donated, so that XLA updates them in place."""

from itertools import repeat

import jax
import jax.numpy as jnp
import optax

from benchmarks.contenders.base import StepContender
from benchmarks.works import Array


class OptaxJit(StepContender):
    def compile(self) -> None:
        transform = self.transform = self._transform()

        def update(parameters, state, gradients):
            updates, state = transform.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))

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
            momentum=hyper["momentum"],
            centered=hyper["centered"],
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
