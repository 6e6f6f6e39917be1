"""The options that all optimizers share: keyword-only at first, attributes afterwards."""

from collections.abc import Callable
from typing import Any, Literal, TypedDict

import numpy as np

from instep._check import Array


class StepOptions(TypedDict, total=False):
    """The keyword-only options of every optimizer; documented with `SGD`."""

    maximize: bool
    clip_norm: Any
    clip_value: Any
    nonfinite: Literal["propagate", "skip", "raise"]
    ema_decay: Any
    ema_warmup: bool
    zero_grads: bool
    stats: bool
    threads: int | None
    master: bool
    state_factory: Callable[[str, tuple[int, ...], np.dtype[Any]], Array] | None
    state_dtype: Literal["float32", "bfloat16", "8bit"] | None
    seed: int


class Option:
    """An attribute that is checked when it is set; `name` is then read as `_name`, uncalled."""

    def __init__(self, check: Callable[[str, object], Any], optional: bool = True) -> None:
        self._check = check
        self._optional = optional

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(instance, "_" + self._name)

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(instance, "_" + self._name, self.checked(value))
        instance._steady.close()

    def checked(self, value: Any) -> Any:
        """What `value` would be set to."""
        return value if self._optional and value is None else self._check(self._name, value)
