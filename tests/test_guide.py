"""docs/choosing.md: its code runs, its names and pictures exist, its numbers are the code's."""

import re
from pathlib import Path

import numpy as np
import pytest

import instep
from instep._advice import MODELS, TASKS

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = DOCS / "choosing.md"

pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="the documentation is not here")


@pytest.fixture(scope="module")
def guide():
    return GUIDE.read_text(encoding="utf-8")


def rows(guide, start):
    """The cells of the table whose first line begins with `start`."""
    lines = guide[guide.index(start) :].splitlines()
    table = lines[2 : next(k for k, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


@pytest.mark.parametrize("model", MODELS)
def test_the_code_runs(guide, model, capsys, monkeypatch):
    """It trains, and the range test is of the optimizer that is then built."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 5)).astype(np.float32)
    labels = (x @ rng.standard_normal((5, 3))).argmax(1)
    params = {"W": np.zeros((5, 3), np.float32), "b": np.zeros(3, np.float32)}

    def loss_and_grad(params):
        loss, grad = instep.losses.cross_entropy(x @ params["W"] + params["b"], labels)
        return loss, {"W": x.T @ grad, "b": grad.sum(0)}

    tested = []

    def lr_range_test(function, params, optimizer, **options):
        tested.append((optimizer, options))
        return original(function, params, optimizer, **options)

    original = instep.lr_range_test
    monkeypatch.setattr(instep, "lr_range_test", lr_range_test)
    names = dict(
        instep=instep, params=params, total_steps=200, loss_and_grad=loss_and_grad,
    )  # fmt: skip
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert code.count('model="mlp"') == 1
    exec(code.replace('model="mlp"', f"model={model!r}"), names)
    assert names["losses"][-1] < 0.2 * names["losses"][0]
    assert str(names["advice"]) in capsys.readouterr().out
    advice = instep.recommend("multiclass", model)
    assert tested == [(advice.optimizer, advice.options)]
    assert type(names["opt"]) is advice.optimizer


def test_losses_are_those_of_the_advice(guide):
    table = rows(guide, "| `recommend(task)`")
    assert [task.strip('`"') for task, *_ in table] == list(TASKS)
    for task, loss, _ in table:
        found = instep.recommend(task.strip('`"')).loss
        assert getattr(found, "func", found).__name__ == loss.split("`")[1]


def test_optimizers_are_those_of_the_advice(guide):
    table = rows(guide, "| `recommend(model=)`")
    assert [re.search(r'"(\w+)"', row[0])[1] for row in table] == list(MODELS)
    for name, optimizer, rate, warmup, _ in table:
        advice = instep.recommend(model=re.search(r'"(\w+)"', name)[1])
        call = optimizer.split("`")[1]
        kind, options = re.fullmatch(r"(\w+)\((.*)\)", call).groups()
        assert getattr(instep, kind) is advice.optimizer
        assert eval(f"dict({options})") == advice.options
        first, *others = (float(number) for number in re.findall(r"\d[\d.e-]*", rate))
        assert first == advice.lr and others[-1] == advice.lr_range[1]
        assert float(warmup.split()[0]) == 100 * advice.warmup


def test_pictures_are_there_and_small(guide):
    pictures = re.findall(r"!\[[^\]]{20,}\]\((.+?)\)", guide)
    assert len(pictures) == guide.count("![") == 4
    for name in pictures:
        assert 5_000 < (DOCS / name).stat().st_size < 100_000
        assert name in (DOCS / "draw.py").read_text()


def test_links_lead_somewhere(guide):
    for target in re.findall(r"(?<!!)\[[^\]]+\]\(([^#)]+)\)", guide):
        assert (DOCS / target).exists(), target


def test_sources_are_all_referred_to(guide):
    text, listed = guide.split("## Sources")
    numbers = re.findall(r"^(\d+)\. ", listed, re.MULTILINE)
    assert numbers == [str(k + 1) for k in range(len(numbers))]
    in_tables = {n for row in rows(guide, "| `recommend(model=)`") for n in row[-1].split(", ")}
    in_text = set(re.findall(r"\d+", " ".join(re.findall(r"\((?:\d+(?:, )?)+\)", text))))
    in_text |= set(re.findall(r"\d+", " ".join(re.findall(r"#sources\) \d+(?:, \d+)*", text))))
    assert set(numbers) <= in_tables | in_text
