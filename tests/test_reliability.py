"""docs/reliability.md: the tests that it names exist, its code runs."""

import re
from pathlib import Path

import numpy as np
import pytest

import instep

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reliability.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")


def test_every_test_that_is_named_exists():
    text, file, found = PAGE.read_text(encoding="utf-8"), None, 0
    for name, test in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", text):
        file = name or file
        source = (HERE / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file}::{test}"
        found += 1
    assert found == text.count("::") > 20


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = {"W": np.ones((2, 3)), "b": np.zeros(3, np.float32)}
    opt = instep.AdamW(params, lr=instep.schedules.Warmup(0.1, 3))
    opt.step({name: array.copy() for name, array in params.items()})
    names = {"opt": opt, "params": params, "epoch": 3, "rng": np.random.default_rng(0)}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    assert names["opt"] is not opt and names["epoch"] == 3
    grads = {name: array.copy() for name, array in params.items()}
    assert names["opt"].step(grads) == opt.step(grads)
