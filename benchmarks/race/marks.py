"""What instep is to reach, of all that is raced, and whether it did.

The marks of the losses are in `benchmarks.marks`, those of the pipeline in
`benchmarks.bench_pipeline`; here are those of steps and of whole training.
"""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import bench_pipeline, marks
from benchmarks.harness import Race, Result
from benchmarks.marks import Judgement

Races = dict[str, list[Race]]  # per benchmark

TORCH = ("torch fused", "torch foreach", "torch default")
_BEST, _ROOFLINE = ("fastest peer",), ("roofline",)


class Mark(NamedTuple):
    """The least that the fastest of `against` is to take, in instep's time of the same round."""

    work: str
    threads: int
    against: tuple[str, ...]
    least: float


# "Not behind", a mark of 1, is missed only where the quartiles show it to be.
_OF_ADAMW = [
    Mark("10", 1, ("torch fused",), 8.0),
    *(
        Mark(work, 1, *mark)
        for work in ("4K", "64K")
        for mark in ((("torch fused",), 2.0), (("deepspeed",), 1.1), (("numba fastmath",), 1.0))
    ),
    Mark("1M", 2, ("torch fused",), 1.2),
    *(
        Mark(work, 2, *mark)
        for work in ("16M", "64M")
        for mark in ((_BEST, 0.97), (_ROOFLINE, 0.95))
    ),
    Mark("1000x100", 1, ("torch fused",), 20.0),
    Mark("1000x100", 1, ("numba",), 8.0),
    Mark("gpt2", 2, _BEST, 1.0),
]
MARKS: dict[str, list[Mark]] = {
    "adamw": _OF_ADAMW,
    "sgd_momentum": _OF_ADAMW,
    "rmsprop": [Mark("1M", threads, TORCH, 3.0) for threads in (1, 2)],
    "amsgrad": [Mark("1M", threads, TORCH, 1.2) for threads in (1, 2)],
}
_OF_TRAINING = 1.5  # torch's time over instep's
_PER_ARRAY = 150.0  # ns that an array costs besides its elements
_LINEAR = 1.25  # the cost per array of 10,000 over that of 1,000, at most


def all_of(races: Races) -> list[Judgement]:
    """Each mark that these races can show to be reached or missed."""
    return [
        *_of_steps(races.get("steps", [])),
        *_of_many_arrays(races.get("steps", [])),
        *_of_training(races.get("digits", [])),
        *marks.judged(races.get("losses", [])),
        *bench_pipeline.judged(races.get("pipeline", [])),
    ]


def fastest(race: Race, names: tuple[str, ...] = _BEST) -> Result | None:
    """The fastest of these contenders that has times; of all peers, if it is not said which."""
    results = race.peers if names == _BEST else [race.result(name) for name in names]
    return race.fastest([result for result in results if result is not None])


def _of_steps(races: list[Race]) -> Iterator[Judgement]:
    for race in races:
        for mark in MARKS.get(race.kind, ()):
            if (mark.work, mark.threads) == (race.work, race.threads):
                yield from _judged(race, mark)


def _judged(race: Race, mark: Mark) -> Iterator[Judgement]:
    peer = fastest(race, mark.against)
    if race.ours is None or peer is None:
        return
    found = peer.ratio(race.ours)
    if mark.least == 1.0 and found < 1.0 and peer.quartiles(race.ours)[1] >= 1.0:
        found = 1.0  # not shown to be behind
    yield Judgement(race.kind, race.work, race.threads, peer.name, found, mark.least)


def _of_many_arrays(races: list[Race]) -> Iterator[Judgement]:
    """What 10,000 arrays cost beside 1,000, and beside one array with as many elements."""
    for kind in ("adamw", "sgd_momentum"):
        found = {race.work: race for race in races if race.kind == kind and race.threads == 1}
        per_array = {
            count: found[f"{count}x100"].ours.median() / count
            for count in (1000, 10_000)
            if f"{count}x100" in found and found[f"{count}x100"].ours is not None
        }
        if 10_000 not in per_array:
            continue
        place = kind, "10000x100", 1
        whole = found.get("1M")
        if whole is not None and whole.ours is not None:
            elements = 100 * whole.ours.median() / whole.task.elements
            over = 1e9 * (per_array[10_000] - elements)
            yield Judgement(*place, "ns an array over its elements", over, _PER_ARRAY, True)
        if 1000 in per_array:
            growth = per_array[10_000] / per_array[1000]
            yield Judgement(*place, "cost per array of 1000x100", growth, _LINEAR, True)


def _of_training(races: list[Race]) -> Iterator[Judgement]:
    for race in races:
        yield from _judged(race, Mark(race.work, race.threads, ("torch",), _OF_TRAINING))


def text(judgements: list[Judgement]) -> str:
    """A line for each mark."""
    line = "{:<33}{:>24}{:>8}  {:<30}{:>8}  {:>9}  {}"
    lines = [line.format("kind", "work", "threads", "against", "found", "mark", "").rstrip()]
    for one in judgements:
        place = one.kind, one.work, one.threads, one.against
        lines.append(line.format(*place, f"{one.found:.2f}", bound(one), verdict(one)).rstrip())
    missed = sum(not one.hit for one in judgements)
    lines.append(f"{len(judgements)} marks, {missed} missed")
    return "\n".join(lines) if judgements else ""


def bound(one: Judgement) -> str:
    return f"{'<=' if one.at_most else '>='} {one.mark:g}"


def verdict(one: Judgement) -> str:
    return "hit" if one.hit else "MISSED"
