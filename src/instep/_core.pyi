from collections.abc import Callable, Sequence
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

ALL_BOUND: int
SOME_BOUND: int
NOT_AN_ARRAY: int
WRONG_DTYPE: int
WRONG_SHAPE: int
MAY_OVERLAP: int
READ_ONLY: int

@disjoint_base
class Row:
    steps: int
    fresh: bool
    active: bool
    def set(self, rule: int, sign: float, coefficients: tuple[float, ...]) -> None: ...

@disjoint_base
class Plan:
    @property
    def reason(self) -> int: ...
    def __new__(cls, parameters: list[npt.NDArray[Any]]) -> Self: ...
    def finish(self) -> None: ...
    def set_rule(self, leaf: int, rule: int, states: tuple[npt.NDArray[Any], ...]) -> None: ...
    def set_rows(self, row_of_leaf: list[int], rows: Sequence[Row]) -> None: ...
    def bind(self, gradients: list[Any]) -> int: ...
    def bind_from(self, gradients: list[Any], start: int, trusted: int) -> int: ...
    def bound_per_row(self, gradients: list[Any]) -> list[int]: ...
    def sum_squares(self, scale: float, threads: int) -> float: ...
    def step(self, scale: float, limit: float, threads: int) -> None: ...

@final
class Steady:
    lock: Any
    steps: int
    @property
    def ready(self) -> bool: ...
    def open(
        self,
        plan: Plan,
        options: list[Any],
        flatten: Callable[[Any, str], list[Any]],
        flat: bool,
        report: type,
        lr: float,
        threads: int,
    ) -> None: ...
    def close(self) -> None: ...
    def take(self, gradients: Any) -> Any: ...

def set_threads(threads: int) -> None: ...
def get_threads() -> int: ...
def register_bfloat16(dtype: np.dtype[Any]) -> None: ...
def elementwise(
    loss: int,
    pred: Any,
    target: Any,
    weight: Any,
    out: Any,
    reduction: Any,
    coefficients: tuple[float, ...],
    extra: npt.NDArray[Any] | None,
    by_weight: bool,
    last_reduction: int,
    threads: int,
    checked: bool,
) -> tuple[Any, npt.NDArray[Any]] | None: ...
def classwise(
    loss: int,
    pred: Any,
    target: Any,
    weight: Any,
    out: Any,
    reduction: Any,
    ignore_index: Any,
    label_smoothing: Any,
    threads: int,
    checked: bool,
) -> tuple[Any, npt.NDArray[Any]] | int | None: ...
def regionwise(
    pred: npt.NDArray[Any],
    target: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
    gradient: npt.NDArray[Any],
    kept: int,
    factor: npt.NDArray[np.float64],
    score: npt.NDArray[np.float64],
    coefficients: tuple[float, ...],
    threads: int,
) -> None: ...
def count_outside(
    array: npt.NDArray[Any], low: float, high: float, sizes: bool, threads: int
) -> int: ...
def array_sum(array: npt.NDArray[Any], threads: int) -> float: ...
def is_float(array: npt.NDArray[Any]) -> bool: ...
def is_real(array: npt.NDArray[Any]) -> bool: ...
def is_integer(array: npt.NDArray[Any]) -> bool: ...
def allocations() -> int: ...
def select_isa(name: str | None) -> bool: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def rules() -> dict[str, tuple[int, tuple[str, ...], tuple[str, ...], int]]: ...
def losses() -> dict[str, tuple[int, tuple[str, ...]]]: ...
