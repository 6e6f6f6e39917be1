"""What the benchmarks' command lines share: their options, and a race for each line of the plan."""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.contenders import Contenders
from benchmarks.harness import ContenderError, Process, Race, Result, processes, race, usable_cpus

RESULTS = Path(__file__).resolve().parent / "results"
LARGE = 4 * 1_048_576  # elements; above, left out of a quick run


@dataclass(frozen=True)
class Benchmark:
    """Who is raced, and the tasks: found by their kind (an optimizer, a loss) and their work."""

    contenders: Contenders
    tasks: Mapping[tuple[str, str], Any]
    table: report.Table
    pythons: Mapping[str, str] = field(default_factory=dict)  # of contenders with one of their own


# One line of the table: threads, kind, work.
Plan = list[tuple[int, str, str]]


def names_of(choices: Collection[str]) -> Callable[[str], list[str]]:
    """An argparse type: names of `choices`, separated by commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(choices)}")
        return names

    return parse


def parser(program: str, description: str | None, benchmark: Benchmark) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    made = argparse.ArgumentParser(prog=program, description=description)
    add = made.add_argument
    works, contenders = (
        list(dict.fromkeys(work for _, work in benchmark.tasks)),
        benchmark.contenders,
    )
    add("--quick", action="store_true", help="few short rounds, no large arrays: does it work?")
    add("--threads", type=int, metavar="N", help="all works on N threads")
    add("--works", type=names_of(works), metavar="NAMES", help=", ".join(works))
    add("--contenders", type=names_of(contenders), metavar="NAMES", help=", ".join(contenders))
    add("--rounds", type=int, help="15, in a quick run 3")
    add("--batch", type=float, metavar="SECONDS", help="0.05, in a quick run 0.01")
    add("--output", metavar="FILE", help="also write it there; a bare name: in benchmarks/results")
    return made


def options_of(made: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    options = made.parse_args(argv)
    options.rounds = options.large_rounds = options.rounds or (3 if options.quick else 15)
    options.batch = options.batch or (0.01 if options.quick else 0.05)
    check_threads(made, options.threads)
    return options


def check_threads(made: argparse.ArgumentParser, threads: int | None) -> None:
    if threads is not None and not 1 <= threads <= len(usable_cpus()):
        made.error(f"--threads must be 1 to {len(usable_cpus())}, the usable CPUs")


class Output:
    """Prints as results come, and keeps all of it for a file."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def __call__(self, text: str) -> None:
        if text:
            self.parts.append(text)
            print(text, end="\n\n", flush=True)

    def save(self, name: str) -> None:
        path = RESULTS / name if Path(name).name == name else Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(self.parts) + "\n")


def race_all(
    benchmark: Benchmark, plan: Plan, options: argparse.Namespace, say: Output
) -> list[Race]:
    """Race each line of the plan and print its rows; a set of processes for each thread count."""
    names = options.contenders or list(benchmark.contenders)
    contenders = {name: benchmark.contenders[name] for name in names}
    races: list[Race] = []
    restless: set[str] = set()
    headed = False
    for threads in sorted({entry[0] for entry in plan}):
        if threads > len(usable_cpus()):
            say(f"works on {threads} threads skipped: {len(usable_cpus())} usable CPUs")
            continue
        with processes(contenders, threads, benchmark.pythons) as (entrants, absent):
            if not headed:
                say(benchmark.table.header(_notes(entrants), options.rounds, options.batch))
                say(benchmark.table.head())
                headed = True
            for _, kind, work in (entry for entry in plan if entry[0] == threads):
                done = Race(kind, work, benchmark.tasks[kind, work], threads)
                trouble = _missing_memory(done.task)
                if trouble:
                    say(f"{kind} {work}: {trouble}")
                    continue
                large = done.task.elements > LARGE
                rounds = options.large_rounds if large else options.rounds
                race(entrants, done, rounds, options.batch)
                done.results += [Result(name, trouble=reason) for name, reason in absent.items()]
                races.append(done)
                say(benchmark.table.rows(done))
            restless |= {process.name for process in entrants if process.restless}
    for name in sorted(restless):
        say(f"warning: {name} kept a CPU busy after its batch; times of the others may suffer")
    return races


def _missing_memory(task: Any) -> str:
    """Why the task does not fit, one contender at a time being in memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return ""
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if task.memory < free:
        return ""
    return f"skipped: {task.memory / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"


def _notes(entrants: list[Process]) -> dict[str, str]:
    notes = {}
    for process in entrants:
        try:
            note = process.ask("note")["note"]
        except ContenderError:
            continue
        if note:
            notes[process.name] = note
    return notes


def finish(say: Output, races: list[Race], others: report.Others, output: str | None) -> int:
    """Say how quiet the machine was, save what was said where that is asked for; the status."""
    say(report.quietness(races))
    say(others.text())
    if output:
        say.save(output)
    return status(races)


def status(races: list[Race]) -> int:
    """1 if a contender failed its verification or broke."""
    return int(any(r.trouble.startswith("FAILED") for done in races for r in done.results))
