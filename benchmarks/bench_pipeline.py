"""Times a whole step, with what loops do around the update, and steps with smaller states."""

import argparse
import sys
from collections.abc import Iterator

from benchmarks import bandwidth, report
from benchmarks.command import (
    LARGE,
    Benchmark,
    Output,
    Plan,
    finish,
    names_of,
    options_of,
    parser,
    race_all,
)
from benchmarks.contenders import PIPELINE_CONTENDERS
from benchmarks.harness import Race, Result
from benchmarks.marks import Judgement
from benchmarks.pipelines import PIPELINE_TASKS, PIPELINES, WORKS

PACKAGES = ("instep", "numpy", "ml_dtypes", "torch", "numba", "bitsandbytes")
PIPELINE = Benchmark(
    PIPELINE_CONTENDERS, PIPELINE_TASKS, report.Table("step", PIPELINE_TASKS, PACKAGES)
)

FLOAT32, BFLOAT16, EIGHT_BIT = "float32 states", "bfloat16 states", "8-bit states"
BITSANDBYTES = "bitsandbytes"
# (kind, work) -> the fastest peer's time over instep's on 2 threads. Those of smaller states: the
# peers keep float32 ones. bfloat16 ones are to give 1.2 where the roofline measures under 60 GB/s.
MARKS = {
    ("clip, AdamW, EMA, zero", "64K"): 2.5,
    ("clip, AdamW, EMA, zero", "16M"): 1.35,
    ("clip, AdamW, EMA, zero", "64M"): 1.35,
    ("bfloat16 in and out", "16M"): 1.5,
    (BFLOAT16, "64M"): 1.0,
    (EIGHT_BIT, "64M"): 0.7,
}
_SLOW_MEMORY, _SLOW_MEMORY_MARK = 60.0, 1.2
_BITSANDBYTES_MARK = 15.0
_LINE = "{:<24}{:>9}{:>8}  {:<16}{:>7}{:>7}  {}"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    made = parser("python -m benchmarks.bench_pipeline", __doc__, PIPELINE)
    made.add_argument(
        "--kinds", type=names_of(PIPELINES), metavar="NAMES", help=", ".join(PIPELINES)
    )
    made.add_argument("--draw", metavar="FILE", help="draw speed-up against bandwidth per core")
    return options_of(made, argv)


def _planned(options: argparse.Namespace) -> Plan:
    plan = []
    for name, work in WORKS.items():
        left_out = options.quick and work.elements > LARGE
        if name not in options.works if options.works else left_out:
            continue
        for threads in [options.threads] if options.threads else work.threads:
            for kind in options.kinds or PIPELINES:
                plan.append((threads, kind, name))
    return plan


def _marks(race: Race, peer: Result) -> float | None:
    if race.threads != 2:
        return None
    if peer.name == BITSANDBYTES:
        return _BITSANDBYTES_MARK if race.work == "16M" else None
    mark = MARKS.get((race.kind, race.work))
    if race.kind == BFLOAT16 and mark is not None and race.ceiling is not None:
        slow = race.task.traffic / race.ceiling.median() / 1e9 < _SLOW_MEMORY
        return _SLOW_MEMORY_MARK if slow else mark
    return mark


def _compared(races: list[Race]) -> Iterator[tuple[Race, Result, float, float | None]]:
    """Each work's fastest peer (and bitsandbytes), its time over instep's, and the mark."""
    for race in races:
        if race.ours is None or not race.peers:
            continue
        fastest = race.fastest(race.peers)
        for peer in race.peers:
            if peer is fastest or peer.name == BITSANDBYTES:
                yield race, peer, peer.ratio(race.ours), _marks(race, peer)


def judged(races: list[Race]) -> list[Judgement]:
    """Each mark that these races can show to be reached or missed."""
    return [
        Judgement(race.kind, race.work, race.threads, peer.name, ratio, mark)
        for race, peer, ratio, mark in _compared(races)
        if mark is not None
    ]


def verdicts(races: list[Race]) -> str:
    """Each work's fastest peer (and bitsandbytes) beside the mark."""
    head = _LINE.format("step", "work", "threads", "fastest peer", "ratio", "mark", "").rstrip()
    lines = []
    for race, peer, ratio, mark in _compared(races):
        cells = ["-", ""] if mark is None else [f"{mark:g}", "hit" if ratio >= mark else "MISSED"]
        place = race.kind, race.work, race.threads, peer.name
        lines.append(_LINE.format(*place, f"{ratio:.2f}", *cells).rstrip())
    return "\n".join([head, *lines]) if lines else ""


def _state_bytes() -> str:
    from benchmarks.contenders.pipeline_instep import state_bytes

    kinds = ", ".join(f"{kind} {state_bytes(kind):.4g}" for kind in ("float32", "bfloat16", "8bit"))
    return f"bytes of state per parameter, AdamW, scales included: {kinds}"


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if a contender failed its verification or broke."""
    options = _arguments(argv)
    say, others = Output(), report.Others()
    races = race_all(PIPELINE, _planned(options), options, say)
    say(verdicts(races))
    say(_state_bytes())
    model = bandwidth.fit(races)
    say(bandwidth.text(model))
    if options.draw and model is not None:
        bandwidth.draw(model, options.draw)
    return finish(say, races, others, options.output)


if __name__ == "__main__":
    sys.exit(main())
