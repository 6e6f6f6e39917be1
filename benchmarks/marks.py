"""What the losses are to reach against the fastest peer, and whether they did."""

from typing import NamedTuple

from benchmarks.contenders import IN_PLACE
from benchmarks.harness import Race, Result


class Judgement(NamedTuple):
    """What was found beside what was to be reached."""

    kind: str
    work: str
    threads: int
    against: str
    found: float
    mark: float
    at_most: bool = False  # else at least

    @property
    def hit(self) -> bool:
        return self.found <= self.mark if self.at_most else self.found >= self.mark


THREADS = 2  # that the marks are for
# (loss, work) -> the fastest peer's time over instep's, on 2 threads.
MARKS = {
    ("cross_entropy", "64x10"): 3.0,
    ("cross_entropy", "1024x10"): 2.0,
    ("cross_entropy", "256x1000"): 2.5,
    ("cross_entropy", "1024x32000"): 4.0,
    ("binary_cross_entropy_with_logits", "1K"): 2.0,
    ("binary_cross_entropy_with_logits", "64K"): 3.0,
    ("binary_cross_entropy_with_logits", "1M"): 3.0,
    ("binary_cross_entropy_with_logits", "8M"): 3.0,
    ("mse", "1K"): 1.2,
    ("mse", "64K"): 1.3,
    ("mse", "1M"): 1.3,
    ("mse", "8M"): 1.3,
    ("dice", "4x1x512x512"): 3.0,
}
# The roofline's time over instep's.
ROOFLINE_MARKS = {("mse", "64K"): 0.9, ("mse", "1M"): 0.9, ("mse", "8M"): 0.9}

_LINE = "{:<33}{:>12}{:>8}  {:<16}{:>8}{:>8}  {:<16}{:>8}{:>7}  {:<7}{:>9}{:>7}  {}"
_EXPLANATION = """\
fastest peer of each work, and its time over that of instep and of instep out=
like for like: the lowest ratio of all peers; those that write the gradient into a given buffer
({}) over instep out=, others over instep; the mark is for this ratio
roofline: its time over that of instep out=, as it writes into a given buffer too"""


def _ratio(result: Result | None, ours: Result | None) -> float | None:
    if result is None or ours is None:
        return None
    return result.ratio(ours)


def _like_for_like(race: Race) -> tuple[float, str]:
    """The lowest ratio of a peer to the call that does as the peer does, and the peer's name."""
    found = []
    for peer in race.peers:
        ours = race.ours_in_place if peer.name in IN_PLACE else race.ours
        ratio = _ratio(peer, ours or race.ours)
        assert ratio is not None
        found.append((ratio, peer.name))
    return min(found)


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def judged(races: list[Race]) -> list[Judgement]:
    """Each mark that these races can show to be reached or missed."""
    found = []
    for race in races:
        if race.threads != THREADS or race.ours is None:
            continue
        place, task = (race.kind, race.work, race.threads), (race.kind, race.work)
        if task in MARKS and race.peers:
            ratio, peer = _like_for_like(race)
            found.append(Judgement(*place, f"{peer}, like for like", ratio, MARKS[task]))
        roofline = _ratio(race.ceiling, race.ours_in_place or race.ours)
        if task in ROOFLINE_MARKS and roofline is not None:
            found.append(Judgement(*place, "roofline", roofline, ROOFLINE_MARKS[task]))
    return found


def _judged(number: float | None, mark: float | None) -> tuple[str, str, str]:
    if number is None or mark is None:
        return _text(number), "-" if mark is None else f"{mark:.1f}", ""
    return _text(number), f"{mark:.1f}", "hit" if number >= mark else "MISSED"


def _line(race: Race) -> str:
    task = race.kind, race.work
    fastest = min(race.peers, key=Result.median)
    over = [_text(_ratio(fastest, ours)) for ours in (race.ours, race.ours_in_place)]
    ratio, peer = _like_for_like(race)
    roofline = None
    if task in ROOFLINE_MARKS:
        roofline = _ratio(race.ceiling, race.ours_in_place or race.ours)
    marks = MARKS.get(task), ROOFLINE_MARKS.get(task)
    if race.threads != THREADS:
        marks = None, None
    cells = *_judged(ratio, marks[0]), *_judged(roofline, marks[1])
    return _LINE.format(*task, race.threads, fastest.name, *over, peer, *cells).rstrip()


def verdicts(races: list[Race]) -> str:
    """One line per task that instep and a peer have run, beside the marks."""
    lines = [_line(race) for race in races if race.ours is not None and race.peers]
    if not lines:
        return ""
    head = ("loss", "work", "threads", "fastest peer", "instep", "out=", "like for like", "ratio")
    head = _LINE.format(*head, "mark", "", "roofline", "mark", "").rstrip()
    return "\n".join([_EXPLANATION.format(", ".join(IN_PLACE)), "", head, *lines])
