"""Runs the worker under callgrind, once per instruction set, and reads what it counted."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import instep
from benchmarks.instructions.worker import CALLS, CALLS_ON_FEW, LONG, SHORT
from benchmarks.works import ROOT

Counts = dict[str, float]
# What counts depend on besides instep: the compiler, and for a call all that runs in it.
DEPENDS_ON = {"element": ("compiler",), "call": ("compiler", "python", "numpy")}
_HERE = Path(__file__).resolve().parent
_UNKNOWN_TO_CALLGRIND = ("avx512",)
# Copies by one `rep movsb` would count as one instruction, on the CPUs that prefer it.
_TUNABLES = (
    "glibc.cpu.x86_rep_movsb_threshold=0x40000000:glibc.cpu.x86_rep_stosb_threshold=0x40000000"
)


@dataclass
class Record:
    """Counts per element and per call, and the versions that they are of."""

    versions: dict[str, str]
    counts: dict[str, Counts] = field(default_factory=lambda: {what: {} for what in DEPENDS_ON})


def countable() -> list[str]:
    """The instruction sets of this machine that callgrind knows."""
    return [isa for isa in instep.available_isas() if isa not in _UNKNOWN_TO_CALLGRIND]


def missing() -> str:
    """What is not installed, or nothing."""
    tools = [tool for tool in ("valgrind", "cc") if shutil.which(tool) is None]
    return (
        f"not installed: {', '.join(tools)} (Debian: apt-get install {' '.join(tools)})"
        if tools
        else ""
    )


def versions() -> dict[str, str]:
    def first_line(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )[0]

    return {
        "compiler": first_line("cc", "--version"),
        "valgrind": first_line("valgrind", "--version"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def counted(isas: list[str]) -> Record:
    """Everything counted on these instruction sets."""
    record = Record(versions())
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "marks.so")
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", library, _HERE / "marks.c"]
        subprocess.run(command, check=True)
        for isa in isas:
            raw = _run(isa, library, Path(folder, isa))
            for what, counts in _evaluated(raw).items():
                record.counts[what] |= {f"{isa} {name}": value for name, value in counts.items()}
    return record


def _run(isa: str, library: Path, folder: Path) -> dict[str, int]:
    """Instructions by the name that the worker gave them."""
    folder.mkdir()
    environment = os.environ | {
        "INSTEP_ISA": isa,
        "INSTEP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "GLIBC_TUNABLES": _TUNABLES,
    }
    callgrind = ["valgrind", "--tool=callgrind", "-q", "--instr-atstart=no"]
    callgrind.append(f"--callgrind-out-file={folder}/out")
    worker = [sys.executable, "-m", "benchmarks.instructions.worker", library]
    done = subprocess.run(
        [*callgrind, *worker], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"callgrind failed on {isa}:\n{done.stderr[-2000:]}")
    return dict(filter(None, map(_read, sorted(folder.glob("out.*"), key=_number))))


def _number(file: Path) -> int:
    """Dumps are numbered; of two with one name the later counts."""
    return int(file.suffix[1:])


def _read(file: Path) -> tuple[str, int] | None:
    """The name and the total of one dump."""
    text = file.read_text()
    name = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.MULTILINE)
    total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
    return (name[1], int(total[1])) if name and total else None


def _evaluated(raw: dict[str, int]) -> dict[str, Counts]:
    """Per element: the difference of two lengths. Per call: less the loop that calls."""
    found: dict[str, Counts] = {what: {} for what in DEPENDS_ON}
    for place, total in raw.items():
        kind, _, name = place.partition("|")
        if kind == "call":
            found["call"][name] = (total - raw["nothing"]) / CALLS_ON_FEW
        elif kind == str(LONG):
            more = total - raw[f"{SHORT}|{name}"]
            found["element"][name] = more / (CALLS * (LONG - SHORT))
    return {what: dict(sorted(counts.items())) for what, counts in found.items()}


def save(record: Record, path: Path) -> None:
    counts = {
        what: {name: round(value, 2) for name, value in found.items()}
        for what, found in record.counts.items()
    }
    path.write_text(json.dumps({"versions": record.versions, **counts}, indent=1) + "\n")


def load(path: Path) -> Record:
    content = json.loads(path.read_text())
    return Record(content.pop("versions"), content)
