"""Races two revisions of instep: each built into an environment of its own, timed in turn.

Both are timed by this checkout's benchmarks. Above 1 NEW is faster than OLD. A difference counts
where 1 lies outside of the quartiles; a race of a revision with itself shows what is chance.
"""

import argparse
import dataclasses
import io
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

import numpy as np

from benchmarks import report
from benchmarks.command import Output, check_threads, finish, names_of, race_all
from benchmarks.contenders import OURS
from benchmarks.harness import Race
from benchmarks.race.plan import BENCHMARKS, FORMS, SECTIONS, add_forms, planned
from benchmarks.works import ROOT

WORKING_TREE = "."
OLD = "old"
_SECTIONS = [name for name in SECTIONS if name != "digits"]  # which needs scikit-learn
_LINE = "{:<36}{:>14}{:>8}{:>8}  {:<13} {}"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("old", metavar="OLD", help="a revision that git knows, or . for the files as they are")
    add("new", metavar="NEW", nargs="?", default=WORKING_TREE, help="the same; by default .")
    add_forms(made, quick="few short rounds, no large arrays", full="more works, longer")
    add("--only", type=names_of(_SECTIONS), metavar="NAMES", help=", ".join(_SECTIONS))
    add("--threads", type=int, metavar="N", help="only what is raced on N threads")
    add("--rounds", type=int, metavar="N", help="instead of the form's own number")
    add("--output", metavar="FILE", help="also write it there; a bare name: in benchmarks/results")
    options = made.parse_args(argv)
    check_threads(made, options.threads)
    return options


def _sources(revision: str, folder: Path) -> Path:
    """The files of a revision, in a folder of their own."""
    if revision == WORKING_TREE:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        for name in names.decode().split("\0"):
            if name and (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
    else:
        command = ["git", "archive", "--format=tar", revision]
        done = subprocess.run(command, cwd=ROOT, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{revision!r} is no revision: {done.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
    return folder


def _built(revision: str, folder: Path) -> str:
    """Build and install a revision beside NumPy; the environment's Python."""
    print(f"building {revision} ...", flush=True)
    sources = _sources(revision, folder / "sources")
    venv.create(folder / "env", with_pip=True)
    python = str(next(folder.glob("env/[bS]*/python*")))
    needs = [f"numpy=={np.__version__}", "ml_dtypes"]
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, *needs, str(sources)], check=True)
    return python


def _verdicts(races: list[Race]) -> str:
    """A line for each work: OLD's time over NEW's, and whether that shows anything."""
    lines = [_LINE.format("kind", "work", "threads", "ratio", "(quartiles)", "").rstrip()]
    for race in races:
        old = race.result(OLD)
        if race.ours is None or old is None:
            continue
        low, high = old.quartiles(race.ours)
        word = "faster" if low > 1 else "SLOWER" if high < 1 else ""
        place = race.kind, race.work, race.threads, f"{old.ratio(race.ours):.3f}"
        lines.append(_LINE.format(*place, f"({low:.2f}-{high:.2f})", word).rstrip())
    return "\n".join(lines)


def _raced(options: argparse.Namespace, pythons: dict[str, str], say: Output) -> list[Race]:
    settings = argparse.Namespace(**FORMS[options.form]._asdict(), contenders=None)
    if options.rounds:
        settings.rounds = settings.large_rounds = options.rounds
    races: list[Race] = []
    for name, plan in planned(options.form, options.only or _SECTIONS, options.threads).items():
        whole = BENCHMARKS[name]
        contenders = dict.fromkeys((OURS, OLD), whole.contenders[OURS])
        benchmark = dataclasses.replace(whole, contenders=contenders, pythons=pythons)
        races += race_all(benchmark, plan, settings, say)
    return races


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if one of the two failed its verification or broke."""
    options = _arguments(argv)
    say, others = Output(), report.Others()
    with tempfile.TemporaryDirectory() as folder:
        names = {OURS: options.new, OLD: options.old}
        pythons = {name: _built(names[name], Path(folder, name)) for name in names}
        say(f"{OURS}: {options.new}; {OLD}: {options.old}")
        races = _raced(options, pythons, say)
    say(_verdicts(races))
    return finish(say, races, others, options.output)


if __name__ == "__main__":
    sys.exit(main())
