"""The ceiling: roofline.c, the streams of the task with trivial arithmetic, through ctypes."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.base import Contender, LossContender, StepContender
from benchmarks.works import LAYOUTS, Array

SOURCE = Path(__file__).resolve().parent.parent / "roofline.c"
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-pthread", "-shared", "-fPIC")
_SLOTS = 5  # pointers per leaf
_LOSS_OF_LABELS, _LOSS = 4, 5  # what roofline.c calls them; of a step, the number of states


class _Roofline(Contender):
    library: ctypes.CDLL
    compiler: str

    @staticmethod
    def start(threads: int) -> None:
        compiler = os.environ.get("CC", "cc")
        if shutil.which(compiler.split()[0]) is None:
            raise ModuleNotFoundError("no C compiler", name="a C compiler (cc)")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "roofline.so")
            command = [*compiler.split(), *FLAGS, str(SOURCE), "-o", str(target)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            _Roofline.library = ctypes.CDLL(str(target))
        version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True)
        _Roofline.compiler = version.stdout.partition("\n")[0]

    @staticmethod
    def note() -> str:
        return f"compiled by {_Roofline.compiler}"

    def point_to(self, leaves: list[tuple[Array, ...]], kind: int, factor: float) -> None:
        """Arrays of equal length per leaf, in the order that roofline.c wants of this kind."""
        self.arguments = (
            ctypes.c_size_t(len(leaves)),
            (ctypes.c_size_t * len(leaves))(*(arrays[0].size for arrays in leaves)),
            (ctypes.c_void_p * (len(leaves) * _SLOTS))(),
            kind,
            ctypes.c_float(factor),
            self.threads,
        )
        for leaf, arrays in enumerate(leaves):
            for slot, array in enumerate(arrays):
                self.arguments[2][leaf * _SLOTS + slot] = array.ctypes.data

    def run(self, times: int) -> None:
        if self.library.roofline(*self.arguments, ctypes.c_size_t(times)):
            raise RuntimeError("the roofline kernel could not start its threads")


class StepRoofline(_Roofline, StepContender):
    def twin(self, reference: Any) -> Any:
        """Not an optimizer: what roofline.c says it does to the parameters."""
        return lambda param, grad, state, **_: (param + 1e-3 * grad, state)

    def allocate(self, parameters: list[Array]) -> None:
        self.parameters = [array.copy() for array in parameters]
        count = range(self.optimizer.states)
        self.states = [[np.zeros_like(array) for _ in count] for array in parameters]

    def set_gradients(self, gradients: list[Array]) -> None:
        self.gradients = [array.copy() for array in gradients]
        groups = zip(self.parameters, self.gradients, self.states, strict=True)
        self.point_to([(p, g, *states) for p, g, states in groups], self.optimizer.states, 1e-3)

    def step(self) -> None:
        self.run(1)

    def values(self) -> list[Array]:
        return self.parameters


class GivenRoofline(StepRoofline):
    """Of dense gradients: what a layout costs is to be seen."""

    tasks = LAYOUTS


class LossRoofline(_Roofline, LossContender):
    def twin(self, reference: Any) -> Any:
        """Not a loss: what roofline.c says it writes as the gradient."""
        labels = self.task.loss.labels
        return lambda pred, target, reduction: (0.0, pred if labels else pred - target)

    def allocate(self, pred: Array, target: Array) -> None:
        self.grad = np.empty_like(pred)
        self.arrays = [self.grad, pred.copy()]
        if not self.task.loss.labels:
            self.arrays.append(target.copy())
        kind = _LOSS_OF_LABELS if self.task.loss.labels else _LOSS
        self.point_to([tuple(self.arrays)], kind, 1 / self.task.values)

    def result(self) -> tuple[float, Array]:
        return 0.0, self.grad
