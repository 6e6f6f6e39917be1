"""Races instep against every installed peer: verified first, then timed in turn.

Steps of optimizers, gradients of any layout, losses, whole pipelines and whole training. Prints
tables and marks; --output also writes a page, the results as JSON, and pictures.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import instep
from benchmarks import report
from benchmarks.command import RESULTS, Output, check_threads, names_of, race_all, status
from benchmarks.race import marks, page, record
from benchmarks.race.plan import (
    BENCHMARKS,
    FORMS,
    PACKAGES,
    SECTIONS,
    add_forms,
    planned,
)
from benchmarks.race.record import Record

_OUTPUT = """a directory, or how the files' names begin; a bare name: in benchmarks/results.
Writes NAME.md, NAME.json, NAME.png and two more pictures"""
_MERGE = "race nothing: judge, write and draw what these records hold together"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.race",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add_forms(
        made,
        quick="under 3 minutes: does it work?",
        full="more works, longer: some two hours",
    )
    add("--only", type=names_of(SECTIONS), metavar="NAMES", help=", ".join(SECTIONS))
    add("--threads", type=int, metavar="N", help="only what is raced on N threads")
    add("--isa", choices=instep.available_isas(), help="of instep; the peers choose their own")
    add("--output", metavar="NAME", help=_OUTPUT)
    add("--merge", nargs="+", type=Path, metavar="JSON", help=_MERGE)
    options = made.parse_args(argv)
    check_threads(made, options.threads)
    return options


def _raced(options: argparse.Namespace, say: Output) -> tuple[Record, int]:
    """Race all that is planned; the record and the exit status."""
    form = FORMS[options.form]
    method = (
        f"{options.form}: float32; median of {form.rounds} interleaved rounds of "
        f"{1e3 * form.batch:g} ms, {form.large_rounds} where arrays have more than 4M elements"
    )
    about = report.machine(PACKAGES) | {"method": method}
    settings = argparse.Namespace(**form._asdict(), contenders=None)
    races, begin, others = {}, time.monotonic(), report.Others()
    plans = planned(options.form, options.only or list(SECTIONS), options.threads)
    for name, plan in plans.items():
        say(f"==== {page.TITLES[name]}")
        races[name] = race_all(BENCHMARKS[name], plan, settings, say)
        say(BENCHMARKS[name].table.verdicts(races[name]))
    every = [race for found in races.values() for race in found]
    quiet = [report.quietness(every), others.text(), f"{(time.monotonic() - begin) / 60:.1f} min"]
    about["quietness"] = ", ".join(filter(None, quiet))
    say(about["quietness"])
    return Record(about, races), status(every)


def _stem(name: str) -> Path:
    """Where files go, without their endings."""
    path = Path(name)
    if path.is_dir() or name.endswith("/"):
        path = path / "race"
    elif path.name == name:
        path = RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write(found: Record, name: str) -> list[Path]:
    """The page, the record and the pictures; the last only where matplotlib is installed."""
    stem, made = _stem(name), []
    try:
        from benchmarks.race import pictures

        made = pictures.draw(found.races, stem)
    except ModuleNotFoundError as error:
        print(f"no pictures: {error.name} is not installed")
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("json", "md")]
    record.save(found, files[0])
    files[1].write_text(page.page(found, [path.name for path in made]))
    return [*files, *made]


def main(argv: list[str] | None = None) -> int:
    """Print the tables and the marks; 1 if a contender failed its verification or broke."""
    options, say = _arguments(argv), Output()
    if options.isa:
        os.environ["INSTEP_ISA"] = options.isa  # of the processes that are started
    if options.merge:
        found, code = record.merged([record.load(path) for path in options.merge]), 0
    else:
        found, code = _raced(options, say)
    say(marks.text(marks.all_of(found.races)))
    if options.output:
        say("written: " + ", ".join(map(str, write(found, options.output))))
    return code


if __name__ == "__main__":
    sys.exit(main())
