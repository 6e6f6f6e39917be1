"""Times a step of instep and of its peers and prints one table: ``python -m benchmarks``."""

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from benchmarks import report
from benchmarks.contenders import CONTENDERS
from benchmarks.harness import ContenderError, Process, Race, Result, processes, race, usable_cpus
from benchmarks.works import OPTIMIZERS, WORKS

RESULTS = Path(__file__).resolve().parent / "results"
_LARGE = 4 * 1_048_576  # elements; left out of a quick run


def _names(choices: Collection[str]) -> Callable[[str], list[str]]:
    """An argparse type: names of `choices`, separated by commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(choices)}")
        return names

    return parse


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="few short rounds, no large arrays: does it work?")
    add("--full", action="store_true", help="also the shapes of GPT-2 small (20 GB)")
    add("--threads", type=int, metavar="N", help="all works on N threads")
    add("--optimizer", type=_names(OPTIMIZERS), metavar="NAMES", help=", ".join(OPTIMIZERS))
    add("--works", type=_names(WORKS), metavar="NAMES", help=", ".join(WORKS))
    add("--contenders", type=_names(CONTENDERS), metavar="NAMES", help=", ".join(CONTENDERS))
    add("--rounds", type=int, help="15, in a quick run 3")
    add("--batch", type=float, metavar="SECONDS", help="0.05, in a quick run 0.01")
    add("--output", metavar="FILE", help="also write it there; a bare name: in benchmarks/results")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.batch = options.batch or (0.01 if options.quick else 0.05)
    if options.threads is not None and not 1 <= options.threads <= len(usable_cpus()):
        parser.error(f"--threads must be 1 to {len(usable_cpus())}, the usable CPUs")
    return options


def _planned(options: argparse.Namespace) -> list[tuple[int, str, str]]:
    """(threads, work, optimizer), all of one thread count together."""
    plan = []
    for name, work in WORKS.items():
        left_out = not (work.usual or options.full)
        left_out |= options.quick and work.elements > _LARGE
        if name not in options.works if options.works else left_out:
            continue
        for threads in [options.threads] if options.threads else work.threads:
            for optimizer in options.optimizer or work.optimizers:
                plan.append((threads, name, optimizer))
    return sorted(plan, key=lambda entry: entry[0])


def _missing_memory(work: str, optimizer: str, contenders: int) -> str:
    """Why the work does not fit, all contenders being in memory at once."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return ""
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    arrays = OPTIMIZERS[optimizer].states + 3  # parameter, gradient, one more while verifying
    needed = 4 * WORKS[work].elements * arrays * contenders
    if needed < free:
        return ""
    return f"skipped: {needed / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free; name fewer contenders"


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


def _race_all(options: argparse.Namespace, say: Output) -> list[Race]:
    plan = _planned(options)
    names = options.contenders or list(CONTENDERS)
    races: list[Race] = []
    restless: set[str] = set()
    headed = False
    for threads in dict.fromkeys(entry[0] for entry in plan):
        if threads > len(usable_cpus()):
            say(f"works on {threads} threads skipped: {len(usable_cpus())} usable CPUs")
            continue
        with processes(names, threads) as (entrants, absent):
            if not headed:
                say(report.header(_notes(entrants), options.rounds, options.batch))
                say(report.TABLE_HEAD)
                headed = True
            for _, work, optimizer in (entry for entry in plan if entry[0] == threads):
                trouble = _missing_memory(work, optimizer, len(entrants))
                if trouble:
                    say(f"{optimizer} {work}: {trouble}")
                    continue
                done = race(entrants, work, optimizer, threads, options.rounds, options.batch)
                done.results += [Result(name, trouble=reason) for name, reason in absent.items()]
                races.append(done)
                say(report.table_rows(done))
            restless |= {process.name for process in entrants if process.restless}
    for name in sorted(restless):
        say(f"warning: {name} kept a CPU busy after its batch; times of the others may suffer")
    return races


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if a contender failed its verification or broke."""
    options = _arguments(argv)
    say = Output()
    races = _race_all(options, say)
    say(report.verdicts(races))
    say(report.overhead(races))
    say(report.quietness(races))
    if options.output:
        say.save(options.output)
    failed = any(r.trouble.startswith("FAILED") for done in races for r in done.results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
