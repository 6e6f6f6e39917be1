"""The command line: ``python -m instep``.

Exit codes: 0, 1 where a library is missing or the output cannot be written, 2 for bad usage.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from instep import plots, schedules
from instep._advice import MODELS, TASKS
from instep.config import show_config
from instep.recommendation import recommend

__all__ = ["main"]

STEPS = 1000  # of the pictured schedules
PICTURES = (".png", ".svg", ".pdf")


def gallery() -> dict[str, schedules.Schedule]:
    """One schedule of each kind that is drawable alone, over `STEPS` steps, with a peak of 1."""
    falling = schedules.LinearDecay(1.0, STEPS)
    restarts = schedules.CosineRestarts(1.0, period=STEPS // 5)
    cosine = schedules.CosineAnnealing(1.0, STEPS - STEPS // 10)
    shown = [
        schedules.Constant(1.0),
        schedules.StepDecay(1.0, STEPS // 4, gamma=0.5),
        schedules.MultiStepDecay(1.0, (STEPS // 2, 3 * STEPS // 4), gamma=0.3),
        schedules.ExponentialDecay(1.0, gamma=0.997),
        falling,
        schedules.PolynomialDecay(1.0, STEPS, power=2),
        schedules.CosineAnnealing(1.0, STEPS),
        schedules.CosineRestarts(1.0, period=STEPS // 7 + 1, period_mult=2),
        schedules.OneCycle(1.0, STEPS),
        schedules.InverseSqrt(1.0, warmup_steps=STEPS // 10),
        schedules.WarmupStableDecay(1.0, STEPS // 10, 7 * STEPS // 10, STEPS // 5),
        schedules.Warmup(cosine, STEPS // 10),
        schedules.Sequence((schedules.Constant(1.0), 0.5 * cosine), (STEPS // 2,)),
        schedules.Interpolate(((0, 0.2), (3 * STEPS // 10, 1.0), (STEPS, 0.0))),
        falling * restarts,
        schedules.StepDecay(1.0, 2, gamma=0.7).per_epoch(STEPS // 20),
    ]
    return {type(schedule).__name__: schedule for schedule in shown}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m instep",
        description="Without a command: what this install of instep is.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    advise = commands.add_parser(
        "recommend",
        help="loss, optimizer, rate and schedule for a task",
        description="Print which loss, optimizer, learning rate and schedule to use, and why.",
    )
    for name, known in (("task", TASKS), ("model", MODELS)):
        advise.add_argument(
            f"--{name}", choices=known, metavar=name.upper(), help=f"one of: {', '.join(known)}"
        )
    show = commands.add_parser(
        "schedules",
        help="list or draw the schedules",
        description="List the schedules with a line on each, or draw them side by side.",
    )
    show.add_argument(
        "--plot", type=_picture, metavar="FILE", help=f"draw them into FILE ({', '.join(PICTURES)})"
    )
    return parser


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(PICTURES)}, got {text!r}")
    return path


def _listed() -> str:
    """The schedules and the first line of their docstrings."""
    lines = []
    for name in schedules.__all__:
        kind = getattr(schedules, name)
        if name != "Schedule" and isinstance(kind, type) and kind.__doc__:
            summary = kind.__doc__.splitlines()[0].replace("``", "")
            lines.append(f"{name:20}{summary}")
    return "\n".join(lines)


def _draw(path: Path) -> int:
    """Draw the gallery into the file, whatever matplotlib's backend is."""
    try:
        figure = plots.load("matplotlib.figure").Figure(figsize=(10, 7), layout="constrained")
    except ImportError as error:
        return _failed(str(error))
    plots.plot_schedule_panels(gallery(), STEPS, figure)
    picture = io.BytesIO()  # matplotlib's own writing hides what is wrong with a file
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=100)
    try:
        path.write_bytes(picture.getvalue())
    except OSError as error:
        return _failed(f"cannot write {path}: {error.strerror or error}")
    print(path)
    return 0


def _failed(message: str) -> int:
    if sys.stderr is not None:  # closed; print would take standard output for it
        print(f"python -m instep: {message}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those after the program's name; ``sys.argv[1:]`` if None.

    Returns
    -------
    int
        0, or 1 where a library is missing or the picture cannot be written.

    Raises
    ------
    SystemExit
        With 2 for bad usage, with 0 after ``--help``.
    """
    options = _parser().parse_args(arguments)
    if options.command == "recommend":
        print(recommend(options.task, options.model))
    elif options.command == "schedules" and options.plot is None:
        print(_listed())
    elif options.command == "schedules":
        return _draw(options.plot)
    else:
        show_config()
    return 0


def _run() -> int:
    """Run a command and see its output through; return the exit code."""
    if sys.stdout is None:
        return _failed("cannot write the output: standard output is closed")
    try:
        try:
            return main()
        finally:  # also where --help ends the program
            sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, such as head, has seen enough
            return 1
        return _failed(f"cannot write the output: {error.strerror or error}")


if __name__ == "__main__":
    sys.exit(_run())
