"""The verdict against real training: works of benchmarks/verdict.py."""

import importlib

import pytest

from instep import diagnose


@pytest.fixture(scope="module")
def rows():
    """Every second rate of the grid of benchmarks/verdict.py, on a seed nothing was chosen on.

    A check in seconds; the whole grid on three seeds is benchmarks/results/verdict.txt."""
    pytest.importorskip("sklearn")
    verdict = pytest.importorskip("benchmarks.verdict", reason="the benchmarks are not here")
    return [verdict.judge(work, 200, verdict.RATES[1::2]) for work in verdict.WORKS]


def test_the_verdict_agrees_with_full_training(rows):
    verdict = importlib.import_module("benchmarks.verdict")
    assert sum(len(row.runs) for row in rows) == len(verdict.WORKS) * len(verdict.RATES) / 2 == 88
    shown = {truth for row in rows for truth in row.truths.values()}
    assert shown == {"too_low", "just_right", "too_high"}
    assert verdict.agreement(rows) >= 0.9, verdict.summary(rows)


def test_no_diverged_run_is_called_fine(rows):
    verdict = importlib.import_module("benchmarks.verdict")
    assert verdict.called_fine(rows) == []
    diverged = [run for row in rows for run in row.runs.values() if run.diverged]
    small = [work for work in verdict.WORKS if not work.hidden]
    runs = (
        verdict.train(work, rate, seed)
        for work in small
        for rate in verdict.RATES[-5:]
        for seed in range(500, 505)
    )
    diverged += [run for run in runs if run.diverged]
    assert len(diverged) > 40
    assert all(diagnose(run.losses).verdict != "just_right" for run in diverged)


def test_short_runs_that_diverged_are_too_high(rows):
    verdict = importlib.import_module("benchmarks.verdict")
    small = [work for work in verdict.WORKS + verdict.OTHERS if work.epochs > 30]
    short = verdict.short_rows(small, (500,), verdict.RATES[-7:])
    diverged = [row.runs[rate] for row in short for rate in row.runs if row.runs[rate].diverged]
    assert len(diverged) > 50
    assert verdict.called_fine(short) == []
    low = verdict.diverged_but(short, "too_low")
    assert all(times < 1.5 for *_, times in low) and len(low) <= len(diverged) / 100
