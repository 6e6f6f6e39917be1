"""Races that were written down and put together again: `benchmarks.race`."""

import pytest

record = pytest.importorskip("benchmarks.race.record", reason="the benchmarks are not here")
harness = pytest.importorskip("benchmarks.harness")
works = pytest.importorskip("benchmarks.works")
marks = pytest.importorskip("benchmarks.race.marks")


def raced(work, seconds, kind="adamw", threads=1):
    race = harness.Race(kind, work, works.STEPS[kind, work], threads)
    for name, times in seconds.items():
        race.results.append(harness.Result(name, times, [1.0] * len(times)))
    return race


def kept(races, path):
    record.save(record.Record({"isa": "avx2; wide"}, {"steps": races}), path)
    return record.load(path)


def test_a_merged_record_says_what_its_parts_said(tmp_path):
    first = kept([raced("10000x100", {"instep": [3e-3, 4e-3, 5e-3]})], tmp_path / "1.json")
    other = kept([raced("gpt2", {"instep": [0.1]}, threads=2)], tmp_path / "2.json")
    both = record.merged([first, other])
    record.save(both, tmp_path / "both.json")
    found = record.load(tmp_path / "both.json").races["steps"]
    assert [record.task_of(race.task).arrays for race in found] == [10_000, 148]
    assert [record.task_of(race.task) for race in found] == [
        record.task_of(works.STEPS["adamw", name]) for name in ("10000x100", "gpt2")
    ]
    assert found[0].ours.median() == 4e-3
    assert both.about == {"isa": "avx2; wide"}


def test_of_a_race_in_two_records_the_last_counts(tmp_path):
    old, new = (
        kept([raced("64K", {"instep": [seconds]})], tmp_path / f"{seconds}.json")
        for seconds in (3e-5, 2e-5)
    )
    (race,) = record.merged([old, new]).races["steps"]
    assert race.ours.median() == 2e-5


def test_the_fastest_peer_is_the_one_of_the_lowest_ratio():
    times = {"instep": [1.0, 2.0, 4.0], "torch fused": [1.1, 2.2, 4.4], "numba": [3.0, 1.9, 3.8]}
    assert marks.fastest(raced("64K", times)).name == "numba"  # by median times torch fused


@pytest.mark.parametrize(
    ("peer", "found", "hit"),
    [
        ([1.1, 1.0, 1.2], 1.1, True),
        ([0.9, 0.8, 1.3], 1.0, True),  # 1 lies within the quartiles: not shown to be behind
        ([0.9, 0.8, 0.95], 0.9, False),
        ([0.9, 0.8, 1.05], 0.9, False),  # 0.975 is the upper one
    ],
)
def test_behind_is_what_the_quartiles_show(peer, found, hit):
    race = raced("64K", {"instep": [1.0] * 3, "numba fastmath": peer})
    (judged,) = marks.all_of({"steps": [race]})
    assert (judged.against, judged.found, judged.hit) == ("numba fastmath", found, hit)
