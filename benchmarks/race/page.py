"""The results as a page of Markdown."""

from collections.abc import Iterator

from benchmarks.contenders import CEILING, OURS, OURS_IN_PLACE
from benchmarks.harness import Race, Result
from benchmarks.race import marks
from benchmarks.race.record import Record

TITLES = {
    "steps": "A step of an optimizer",
    "layouts": "A step with gradients as they lie in NumPy",
    "losses": "Value and gradient of a loss",
    "pipeline": "A step with all that is done around it",
    "digits": "A training step of examples/digits.py, end to end",
}
_LEAST_FOR_CEILING = 4096  # elements; under them a call costs more than the memory


def page(record: Record, pictures: list[str]) -> str:
    """Machine, marks, pictures, a table for each benchmark."""
    about = "\n".join(f"{name:<10}{text}" for name, text in record.about.items())
    parts = ["# instep against its peers", f"```\n{about}\n```", _marks(record)]
    parts += [f"![{name}]({name})" for name in pictures]
    for name, races in record.races.items():
        parts += [f"## {TITLES[name]}", _EXPLANATION, _table(races), _absent(races)]
    return "\n\n".join(part for part in parts if part) + "\n"


_EXPLANATION = (
    "instep: its time. Others: their time over instep's in the same round, median over the rounds; "
    "above 1 instep is faster. The fastest peer is bold. Of roofline: the roofline's time over "
    "instep's. A dash: not installed, not offered or not right."
)


def _marks(record: Record) -> str:
    judgements = marks.all_of(record.races)
    if not judgements:
        return ""
    lines = ["## Marks", "", "| kind | work | threads | against | found | mark | |"]
    lines.append("|---|---|---:|---|---:|---:|---|")
    for one in judgements:
        verdict = "hit" if one.hit else "**MISSED**"
        cells = one.kind, one.work, one.threads, one.against, f"{one.found:.2f}", marks.bound(one)
        lines.append(f"| {' | '.join(map(str, cells))} | {verdict} |")
    missed = sum(not one.hit for one in judgements)
    lines += ["", f"{len(judgements)} marks, {missed} missed."]
    return "\n".join(lines)


def _table(races: list[Race]) -> str:
    names = list(dict.fromkeys(r.name for race in races for r in race.results if r.seconds))
    others = [name for name in names if name not in (OURS, CEILING)]
    ceiling = CEILING in names
    head = ["kind", "work", "threads", OURS, *others, *(["of roofline"] if ceiling else [])]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(head) - 2)}"]
    for race in races:
        cells = [race.kind, race.work, str(race.threads), _time(race.ours)]
        cells += [_ratio(race, name) for name in others]
        cells += [_share(race)] if ceiling else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _time(result: Result | None) -> str:
    if result is None:
        return "-"
    seconds = result.median()
    return f"{1e6 * seconds:.3g} us" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def _ratio(race: Race, name: str) -> str:
    result = race.result(name)
    if result is None or race.ours is None:
        return _time(result)
    text = f"{result.ratio(race.ours):.2f}"
    best = marks.fastest(race)
    return f"**{text}**" if best is result and name != OURS_IN_PLACE else text


def _share(race: Race) -> str:
    if race.ceiling is None or race.ours is None or race.task.elements < _LEAST_FOR_CEILING:
        return "-"
    return f"{100 * race.ceiling.ratio(race.ours):.0f} %"


def _absent(races: list[Race]) -> str:
    """Who took no part, and why, each reason once."""
    return "\n".join(f"- {line}" for line in dict.fromkeys(_troubles(races)))


def _troubles(races: list[Race]) -> Iterator[str]:
    for race in races:
        for result in race.results:
            if result.trouble.startswith("FAILED"):
                place = f"{race.kind} {race.work}, {race.threads} threads"
                yield f"{place}, {result.name}: {result.trouble}"
            elif result.trouble:
                yield f"{result.name}: {result.trouble}"
