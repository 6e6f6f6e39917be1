"""Results as JSON, so that tables and pictures can be made again from one or several runs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Race, Result
from benchmarks.race.marks import Races

FORMAT = 1


class Recorded(NamedTuple):
    """What the tables need to know of a task."""

    elements: int
    traffic: int
    arrays: int


class Record(NamedTuple):
    """One run, or several as one."""

    about: dict[str, str]  # the machine, the versions, the method
    races: Races


def task_of(task: Any) -> Recorded:
    if isinstance(task, Recorded):
        return task
    work = getattr(task, "work", None)
    return Recorded(task.elements, task.traffic, len(work.shapes) if work is not None else 1)


def save(record: Record, path: Path) -> None:
    races = [_plain(name, race) for name, races in record.races.items() for race in races]
    text = json.dumps({"format": FORMAT, "about": record.about, "races": races}, indent=1)
    path.write_text(text + "\n")


def _plain(benchmark: str, race: Race) -> dict[str, Any]:
    results = [
        {
            "name": result.name,
            "seconds": [float(f"{value:.4g}") for value in result.seconds],
            "cpu": [round(value, 3) for value in result.cpu],
            "trouble": result.trouble,
        }
        for result in race.results
    ]
    place = {"kind": race.kind, "work": race.work, "threads": race.threads}
    task = task_of(race.task)._asdict()
    return {"benchmark": benchmark, **place, **task, "results": results}


def load(path: Path) -> Record:
    """ValueError if it is not such a file."""
    data = json.loads(path.read_text())
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path} is not a record of benchmarks.race of format {FORMAT}")
    races: Races = {}
    for entry in data["races"]:
        task = Recorded(entry["elements"], entry["traffic"], entry["arrays"])
        race = Race(entry["kind"], entry["work"], task, entry["threads"])
        race.results = [Result(**result) for result in entry["results"]]
        races.setdefault(entry["benchmark"], []).append(race)
    return Record(data["about"], races)


def merged(records: list[Record]) -> Record:
    """One record of all; of a race that is in several, the last one."""
    texts: dict[str, dict[str, None]] = {}
    for record in records:
        for name, text in record.about.items():
            texts.setdefault(name, {})[text] = None
    about = {name: "; ".join(different) for name, different in texts.items()}
    races: dict[str, dict[tuple[str, str, int], Race]] = {}
    for record in records:
        for name, found in record.races.items():
            places = races.setdefault(name, {})
            places |= {(race.kind, race.work, race.threads): race for race in found}
    return Record(about, {name: list(places.values()) for name, places in races.items()})
