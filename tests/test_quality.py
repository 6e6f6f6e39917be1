"""The benchmark of optimizer states: its model, its text, its command."""

import re
from pathlib import Path

import numpy as np
import pytest
from examples_common import need, run

import instep
from instep.optim.options import StepOptions

model = pytest.importorskip("benchmarks.character_model", reason="the benchmarks are not here")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def text():
    return model.split()


def test_backward_agrees_with_finite_differences(text):
    """In every leaf, along a direction that has a part in each of its elements."""
    rng = np.random.default_rng(0)
    params = model.initialize(rng, np.float64)
    for name in params:  # biases of zero would leave a gradient that ignores them undetected
        params[name] += 0.1 * rng.standard_normal(params[name].shape)
    rows = model.windows(text[0])[:5]
    contexts, targets = rows[:, :-1], rows[:, -1]

    def loss():
        return instep.losses.cross_entropy(model.forward(params, contexts)[0], targets)

    logits, inputs = model.forward(params, contexts)
    delta = instep.losses.cross_entropy(logits, targets).grad
    grads = {name: np.full_like(value, np.nan) for name, value in params.items()}
    model.backward(params, contexts, inputs, delta, grads)
    step = 1e-6
    for name, value in params.items():
        kept, direction = value.copy(), rng.standard_normal(value.shape)
        ends = []
        for sign in (1, -1):
            value[...] = kept + sign * step * direction
            ends.append(loss().value)
        value[...] = kept
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.vdot(grads[name], direction) == pytest.approx(slope, rel=1e-6, abs=1e-8), name


def test_nothing_held_out_is_learned(text):
    train, held_out = ("".join(model.ALPHABET[i] for i in part) for part in text)
    assert 0.05 < len(held_out) / len(train) < 0.2
    learned = set(train.split("\n\n"))
    found = held_out.split("\n\n")
    assert len(found) > 50 and not learned.intersection(found)
    assert "The statement" in train and "Programming Language" not in model.ALPHABET


def test_the_model_is_large_enough_and_reads_what_comes_before():
    params = model.initialize(np.random.default_rng(0))
    assert sum(value.size for value in params.values()) >= 500_000
    row = model.windows(np.arange(model.CONTEXT + 3))[2]
    np.testing.assert_array_equal(row, np.arange(2, model.CONTEXT + 3))


def test_counts_as_baselines():
    """By hand, on a text of two characters that take turns."""
    a, b = model.encode("ab")
    train = np.array([a, b] * 50)
    found = model.baselines(train, np.array([b, a]))
    size = len(model.ALPHABET)
    assert found["uniform"] == pytest.approx(np.log(size))
    assert found["unigram"] == pytest.approx(-np.log(51 / (100 + size)))
    assert found["bigram"] == pytest.approx(-np.log(50 / (49 + size)))


def test_the_mean_loss_is_that_of_all_rows(text):
    params = model.initialize(np.random.default_rng(0))
    rows = model.windows(text[1])[:100]
    whole = instep.losses.cross_entropy(model.forward(params, rows[:, :-1])[0], rows[:, -1]).value
    assert model.mean_loss(params, rows, batch=32) == pytest.approx(whole, rel=1e-5)


# ---- what is said about runs -----------------------------------------------------------------


@pytest.fixture
def quality():
    return pytest.importorskip("benchmarks.quality")


def runs_of(quality, **losses):
    """One figure of two seeds by state, in every work."""
    return {
        work.name: {
            state: {
                seed: quality.Run(np.array([value, len(state)]), {"a": value, "b": 1.0})
                for seed, value in enumerate(values)
            }
            for state, values in losses.items()
        }
        for work in quality.WORKS
    }


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        ((2.0, 3.0), True),
        ((2.03, 3.0), True),  # ratios 1.015 and 1
        ((2.03, 3.03), False),  # 1.015 and 1.01
        ((1.97, 3.0), True),
        ((1.97, 2.97), False),
        ((2.1, 2.85), True),  # 1.05 and 0.95
        ((np.nan, 3.0), False),
    ],
)
def test_the_mean_of_the_ratios_decides(quality, values, fine):
    found = runs_of(quality, float32=(2.0, 3.0), control=(4.0, 4.0), bfloat16=values)
    said = quality.verdicts(found)
    assert {(figure, verdict) for (_, figure, _), verdict in said.items()} == {
        ("a", fine),
        ("b", True),
    }
    assert {state for *_, state in said} == {"bfloat16"}
    assert len(said) == sum(work.judged for work in quality.WORKS) == 3
    line = quality.table(found[quality.WORKS[0].name], "a", judged=True)[-1].split()
    ratios = np.array(values) / (2.0, 3.0)
    assert line[0] == "bfloat16" and line[3] == f"{ratios.mean():.4f}"
    assert line[4] == f"{np.abs(ratios[0] - ratios[1]) / 2:.4f}"  # of two values


def test_a_state_that_changes_nothing_is_an_error(quality):
    same = runs_of(quality, float32=(2.0, 3.0), control=(4.0, 4.0))
    quality.check_that_states_matter(same)
    for runs in same.values():
        runs["bfloat16"] = runs["float32"]
    with pytest.raises(
        RuntimeError, match="seed 0: the losses with bfloat16 are those with float32"
    ):
        quality.check_that_states_matter(same)


@pytest.mark.parametrize("states", ["8bits", "bfloat16", "float32,"])
def test_states_that_are_refused(quality, states, capsys):
    with pytest.raises(SystemExit):
        quality.main(["--states", states])
    assert re.search(
        "is none of: float32, bfloat16, 8bit|float32 is missing", capsys.readouterr().err
    )


STORED = "state_dtype" in StepOptions.__annotations__


@pytest.mark.parametrize(
    "states",
    [
        ("float32",),
        pytest.param(
            ("float32", "bfloat16", "8bit"),
            marks=pytest.mark.skipif(not STORED, reason="states are float32 only"),
        ),
    ],
)
def test_a_quick_run_says_and_draws_everything(states, tmp_path):
    need(["matplotlib", "sklearn", "tqdm"])
    text, picture = tmp_path / "quality.txt", tmp_path / "quality.png"
    arguments = ["--quick", "--states", ",".join(states), "--output", text, "--picture", picture]
    done = run("-m", "benchmarks.quality", *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == text.read_text()
    assert picture.read_bytes()[1:4] == b"PNG" and picture.stat().st_size > 20_000
    rows = re.findall(
        r"^(\w+) +([\d.]+) +[\d.]+%(?: +[\d.]+ +[\d.]+(?: +[+-][\d.]+){2})?$", done.stdout, re.M
    )
    assert [name for name, _ in rows] == ["float32", "control", *states[1:]] * 8
    held_out = float(rows[2 * (len(states) + 1) - len(states) - 1][1])
    assert 2.0 < held_out < 3.21  # under what counting single characters comes to
