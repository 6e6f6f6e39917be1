"""Every line of csrc/kernels.def has its class, its twin, its test row and its benchmark row.

And every schedule its twin, its test rows and its line of docs/math.md."""

import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import reference
from losses_common import CASES, CLASS_LOSSES, REGIONS
from schedules_common import JSON_SCHEDULES, SCHEDULES, has
from test_optim import ROWS
from test_schedules_errors import FINE
from test_schedules_peers import TORCH

import instep
from instep import _core, losses, schedules

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc" / "kernels.def"
WORKS = ROOT / "benchmarks" / "works.py"
RULES = _core.rules()
LOSSES = _core.losses()
# Kernels that serve several losses; the others are named after theirs.
SERVES = {"region": ["dice", "iou", "tversky"]}


def listed():
    """(families, rules, losses and their coefficients, states) as the file names them."""
    if not KERNELS.exists():
        pytest.skip("the sources are not here")
    text = re.sub(r"/\*.*?\*/", "", KERNELS.read_text(), flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    families = {
        name: (tuple(part.strip() for part in names.split(",")), int(derived))
        for name, derived, names in re.findall(
            r"^FAMILY\((\w+),\s*(\d+),([^)]*)\)", text, re.MULTILINE
        )
    }
    rules = {
        name: (family, int(count), tuple(part.strip() for part in states.split(",") if part))
        for name, family, count, states in re.findall(
            r'^RULE\((\w+),\s*(\w+),\s*(\d+),\s*"([^"]*)"\)', text, re.MULTILINE
        )
    }
    found = {
        name: tuple(part.strip() for part in names.split(",") if part.strip())
        for name, names in re.findall(
            r"^(?:ELEMENTWISE|CLASSWISE|REGIONWISE)\((\w+)([^)]*)\)", text, re.MULTILINE
        )
    }
    states = dict(re.findall(r"^STATE\((\w+),\s*(\w+)\)", text, re.MULTILINE))
    entries = re.findall(r"^(\w+)\(", text, re.MULTILINE)
    known = entries.count("REDUCTION") + len(families) + len(rules) + len(found) + len(states)
    assert len(entries) == known, "a line that this test does not understand"
    return families, rules, found, states


def works():
    if not WORKS.exists():
        pytest.skip("the benchmarks are not here")
    spec = importlib.util.spec_from_file_location("works", WORKS)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    importlib.import_module("sys").modules["works"] = module
    spec.loader.exec_module(module)
    return module


def rule_of(opt):
    return opt._groups[0].rule


def test_the_core_has_what_the_file_lists():
    families, rules, found, states = listed()
    assert states == _core.states()
    assert states.keys() == {state for _, states, _, _ in RULES.values() for state in states}
    assert set(states.values()) <= {"SIGNED", "SQUARED", "SQUARED_NEAREST", "FULL"}
    assert list(rules) == list(RULES)
    for number, (name, (family, count, named)) in enumerate(rules.items()):
        assert RULES[name] == (number, named, *families[family])
        assert len(named) == count
        assert families[family][0][:2] == ("gradient_scale", "gradient_limit")
    assert found.keys() == LOSSES.keys()
    for number, (loss, names) in enumerate(found.items()):
        assert LOSSES[loss][0] == number
        assert LOSSES[loss][1] in (names, names[1:])  # the core itself sets `factor`
    for family in families:
        assert (ROOT / "csrc" / "rules" / f"{family}.h").exists()
    for loss in found:
        assert (ROOT / "csrc" / "losses" / f"{loss}.h").exists()


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule):
    """A public class computes it; a twin and a test row check it."""
    rows = [row for row in ROWS.values() if row.rule == rule]
    assert rows, "no row in test_optim.ROWS"
    states = set(RULES[rule][1])
    for row in rows:
        assert row.twin in reference.RULES
        assert row.optimizer.__name__ in instep.__all__
        opt = row.make({"w": np.ones(3)})
        assert rule_of(opt) == rule
        opt.step({"w": np.ones(3)})
        assert opt.state["w"].keys() - {"step"} == states
        _, (twin_state,), _ = row.expect([np.ones(3)], [[np.ones(3)]])
        assert twin_state.keys() == states


@pytest.mark.parametrize("name", ROWS)
def test_coefficients(name):
    """What the class computes is, name for name, what the rule reads."""
    row = ROWS[name]
    _, _, names, derived = RULES[row.rule]
    given = names[2 : len(names) - derived]
    assert given == row.optimizer.coefficients and len(set(names)) == len(names)
    opt = row.make(np.ones(2))
    group = opt._groups[0]
    group.advance(0)
    values = dict(zip(given, opt._coefficients(group.values), strict=True))
    for key in values.keys() & group.values.keys():
        assert values[key] == group.values[key], key
    decay = "decay" if row.optimizer is instep.AdamW else "l2"
    neutral = {"decay": 1.0, "l2": 0.0}[decay]
    assert values[decay] != neutral, "a row must have weight decay"


def test_every_option_is_off_its_default_in_some_row():
    """Rows with default options would hide an option that is ignored."""
    for cls in {row.optimizer for row in ROWS.values()}:
        defaults = cls(np.ones(1)).param_groups[0]
        for option in defaults.keys() - {"params"}:
            values = [
                row.hyper.get(option, defaults[option])
                for row in ROWS.values()
                if row.optimizer is cls
            ]
            assert any(value != defaults[option] for value in values), (cls.__name__, option)


def test_every_class_is_in_the_table():
    classes = {
        value
        for value in vars(instep).values()
        if isinstance(value, type)
        and issubclass(value, instep.optim.Optimizer)
        and value is not instep.optim.Optimizer
    }
    assert classes == {row.optimizer for row in ROWS.values()}


def public_names():
    """The losses that the kernels compute."""
    return [name for kernel in LOSSES for name in SERVES.get(kernel, [kernel])]


def test_every_loss_has_a_kernel():
    assert sorted(public_names()) == sorted(set(losses.__all__) - {"LossGrad"})
    assert reference.LOSSES.keys() == set(public_names())


@pytest.mark.parametrize("name", public_names())
def test_loss(name):
    """A public function; a twin and test rows that check it; every option off its default."""
    loss = getattr(losses, name)
    assert callable(loss) and name in losses.__all__
    assert reference.LOSSES[name].__name__ == name
    cases = [case for case in (*CASES, *REGIONS) if case.loss is loss]
    assert cases or loss in CLASS_LOSSES, "no row in losses_common"
    if cases:
        shared = {"pred", "target", "reduction", "weight", "out"}
        shared |= {"axis", "from_logits", "mask", "ignore_index"}  # of regions, in their own grid
        options = inspect.signature(loss).parameters
        for option in options.keys() - shared:
            values = [case.options.get(option) for case in cases]
            default = options[option].default
            assert any(value != default for value in values), option


def test_benchmarks():
    """A row per rule and loss, which runs the very rule it is named after."""
    module = works()
    assert module.RULES.keys() == RULES.keys()
    assert module.LOSSES.keys() == set(public_names())
    for rule, (name, hyper) in module.RULES.items():
        opt = getattr(instep, name)(np.ones(2), **hyper)
        assert rule_of(opt) == rule
    for loss, row in module.LOSSES.items():
        pred, target = row.make(np.random.default_rng(0), (16, 10))
        found = getattr(losses, loss)(pred, target)
        value, grad = reference.LOSSES[loss](pred, target)
        np.testing.assert_allclose(found.value, value, rtol=1e-5)
        np.testing.assert_allclose(found.grad, grad, rtol=1e-4, atol=1e-7)


# ---- schedules -------------------------------------------------------------------------------


def test_every_schedule_is_public():
    modules = {cls: cls.__module__ for cls in schedules.Schedule._known.values()}
    built_in = {cls for cls in modules if getattr(schedules, cls.__name__, None) is cls}
    assert {cls.__name__ for cls in built_in} | {"Schedule"} == set(schedules.__all__)
    # Nothing in the package is left out; docstrings define classes of their own.
    source = "".join(p.read_text() for p in Path(schedules.__file__).parent.glob("*.py"))
    defined = re.findall(r"^class (\w+)\((?:Schedule)\)", source, re.MULTILINE)
    assert sorted(defined) == sorted(set(schedules.__all__) - {"Schedule"})
    assert schedules.__all__ == sorted(schedules.__all__)


@pytest.mark.parametrize("name", sorted(set(schedules.__all__) - {"Schedule"}))
def test_schedule(name):
    """A twin, rows in the tables with every field off its default, examples, a line in the docs."""
    cls = getattr(schedules, name)
    assert callable(reference.SCHEDULES[name])
    rows = [row for row in SCHEDULES if has(row, cls)]
    assert rows, "no row in schedules_common"
    assert name == "Lambda" or any(has(row, cls) for row in JSON_SCHEDULES)
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING and field.name != "state":
            values = [getattr(part, field.name) for row in rows for part in parts(row, cls)]
            assert any(value != field.default for value in values), field.name
    assert cls in FINE, "no row in test_schedules_errors"
    if name not in {"Interpolate", "ReduceOnPlateau"}:  # optax's alone; compared metric by metric
        assert any(has(row[0], cls) for row in TORCH), "no row in test_schedules_peers"
    assert ">>>" in cls.__doc__
    page = ROOT / "docs" / "math.md"
    if page.exists():
        fields = [field.name for field in dataclasses.fields(cls) if field.name != "state"]
        lines = re.findall(rf"^\| `{name}\(([^)]*)\)` \|", page.read_text(), re.MULTILINE)
        assert lines == [", ".join(fields)], "no line, or other fields, in docs/math.md"


def parts(schedule, cls):
    """All of that class within a schedule."""
    if isinstance(schedule, tuple):
        return [found for part in schedule for found in parts(part, cls)]
    if not isinstance(schedule, schedules.Schedule):
        return []
    own = [schedule] if isinstance(schedule, cls) else []
    return own + parts(tuple(vars(schedule).values()), cls)


def test_every_twin_of_a_schedule_has_its_class():
    assert reference.SCHEDULES.keys() == set(schedules.__all__) - {"Schedule"}
