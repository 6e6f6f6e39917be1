"""The ceiling: roofline.c, the streams of the update with trivial arithmetic, through ctypes."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.base import StepContender
from benchmarks.works import Array

SOURCE = Path(__file__).resolve().parent.parent / "roofline.c"
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-pthread", "-shared", "-fPIC")
_SLOTS = 5  # pointers per leaf: the parameter, the gradient and up to three states


class StepRoofline(StepContender):
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
            StepRoofline.library = ctypes.CDLL(str(target))
        version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True)
        StepRoofline.compiler = version.stdout.partition("\n")[0]

    @staticmethod
    def note() -> str:
        return f"compiled by {StepRoofline.compiler}"

    def twin(self, reference: Any) -> Any:
        """Not an optimizer: what roofline.c says it does to the parameters."""
        return lambda param, grad, state, **_: (param + 1e-3 * grad, state)

    def allocate(self, parameters: list[Array]) -> None:
        self.parameters = [array.copy() for array in parameters]
        count = range(self.optimizer.states)
        self.states = [[np.zeros_like(array) for _ in count] for array in parameters]

    def set_gradients(self, gradients: list[Array]) -> None:
        self.gradients = [array.copy() for array in gradients]
        leaves = len(self.parameters)
        self.lengths = (ctypes.c_size_t * leaves)(*(p.size for p in self.parameters))
        self.pointers = (ctypes.c_void_p * (leaves * _SLOTS))()
        groups = zip(self.parameters, self.gradients, self.states, strict=True)
        for leaf, (p, g, states) in enumerate(groups):
            for slot, array in enumerate((p, g, *states)):
                self.pointers[leaf * _SLOTS + slot] = array.ctypes.data

    def step(self) -> None:
        self.run(1)

    def run(self, times: int) -> None:
        failed = self.library.roofline(
            ctypes.c_size_t(len(self.parameters)),
            self.lengths,
            self.pointers,
            self.optimizer.states,
            self.threads,
            ctypes.c_size_t(times),
        )
        if failed:
            raise RuntimeError("the roofline kernel could not start its threads")

    def values(self) -> list[Array]:
        return self.parameters
