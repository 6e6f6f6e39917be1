"""Equal bits of every loss on any number of threads and every instruction set."""

import itertools
import threading

import numpy as np
import pytest
from conftest import SIZES
from losses_common import (
    CASES,
    CLASS_LOSSES,
    F32,
    NARROW,
    REDUCTIONS,
    REGIONS,
    all_of,
    class_problem,
    name_of,
    region_problem,
    result_bytes,
)

import instep
from instep import _core, losses
from instep.losses import mse


@pytest.fixture
def machine():
    """Puts threads and instruction set back."""
    threads, isa = instep.get_num_threads(), instep.isa()
    yield
    instep.set_num_threads(threads)
    assert _core.select_isa(isa)


def assert_same_bits_everywhere(call):
    seen = {}
    for isa, threads in itertools.product(instep.available_isas(), [1, 2, 3, 7]):
        assert _core.select_isa(isa)
        instep.set_num_threads(threads)
        seen.setdefault(result_bytes(call()), (isa, threads))
    assert len(seen) == 1, f"differ first at {list(seen.values())}"


def with_extremes(pred, case):
    """With what makes vector code go wrong: signed zeros, subnormals, infinities, large numbers."""
    special = [0.0, -0.0, 1e-45, -1e-39, 1e-30, 1.0, -1.0, 0.5, 88.0, -88.0, 104.0, -750.0]
    special += [np.nan, np.inf, -np.inf, 3e38, -3e38]
    if "cross_entropy" in case.loss.__name__ and "logits" not in case.loss.__name__:
        special = [x for x in special if not (x < 0 or x > 1)]
    if case.options.get("log_input") is False:
        special = [x for x in special if not x < 0]
    pred = pred.copy()
    pred[: len(special)] = np.array(special, pred.dtype)
    return pred


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_elements(case, dtype, machine, rng):
    """More than one block of 16,384, and a tail."""
    pred, target, options = case.problem(rng, (40_007,), dtype)
    weight = rng.uniform(0.1, 2.0, pred.size).astype(dtype)
    for reduction, chosen in itertools.product(all_of(case.loss), [None, weight]):
        options |= {"reduction": reduction, "weight": chosen}
        assert_same_bits_everywhere(lambda o=options: case.loss(pred, target, **o))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_extreme_elements(case, dtype, machine, rng):
    pred, target, options = case.problem(rng, (100,), dtype)
    pred, options = with_extremes(pred, case), options | {"reduction": "none"}
    found = []

    def call():
        result = case.loss(pred, target, **options)
        found.append(result)
        # NaN-ness is compared, not NaN bits.
        return losses.LossGrad(*(np.where(np.isnan(a), 0, a) for a in result))

    assert_same_bits_everywhere(call)
    for result in found[1:]:
        np.testing.assert_array_equal(result.value, found[0].value)
        np.testing.assert_array_equal(result.grad, found[0].grad)


@pytest.mark.parametrize("stored", NARROW, ids=str)
@pytest.mark.parametrize("case", CASES[::2], ids=name_of)
def test_narrow_elements(case, stored, machine, rng):
    pred, target, options = case.problem(rng, (3, 11_000), stored)
    for reduction, layout in itertools.product(["mean", "none"], ["C", "F"]):
        options |= {"reduction": reduction, "weight": np.abs(pred)}
        given = np.asarray(pred, order=layout)
        assert_same_bits_everywhere(lambda o=options, p=given: case.loss(p, target, **o))


@pytest.mark.parametrize("size", [1000, 16384, 16385, 32768, 200_000])
def test_mse_of_any_size(size, dtype, machine, rng, guarded):
    pred, target = rng.normal(size=(2, size)).astype(dtype)
    weight = rng.uniform(size=size).astype(np.float16)
    for layout in ("C", "sliced", "reversed"):
        arrays = [guarded.array(values, layout=layout) for values in (pred, target)]
        assert_same_bits_everywhere(lambda a=arrays: mse(*a, weight=weight))


@pytest.mark.parametrize(
    "shape",
    [(4096, 100), (300, 700), (20, 5000), (40, 50, 21), (3000, 10), (5, 70, 40, 3), (200_000, 1),
     (1, 200_000), (17, 3), (100_003, 2)],
)  # fmt: skip
@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=name_of)
def test_classes(loss, shape, dtype, machine, rng):
    pred, labels, soft, weight = class_problem(loss, rng, shape, dtype)
    smooth = {"label_smoothing": 0.1, "weight": weight}
    calls = [
        (labels, {}),
        (labels.astype(np.uint16), {**smooth, "ignore_index": 1}),
        (labels, {"reduction": "none", "weight": weight}),
        (soft, {**smooth, "reduction": "sum"}),
        (soft.astype(np.float16), {"reduction": "none"}),
    ]
    for target, options in calls:
        assert_same_bits_everywhere(lambda t=target, o=options: loss(pred, t, **o))


@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=name_of)
def test_excluded_classes(loss, dtype, machine, rng):
    """Logits of -inf, probabilities of 0, in several blocks; each reduction."""
    pred, labels, soft, weight = class_problem(loss, rng, (2000, 33), dtype)
    pred[:, -1] = -np.inf if loss is losses.cross_entropy else 0.0
    labels, soft = labels % 32, soft * (np.arange(33) < 32)
    for target, reduction in itertools.product([labels, soft], REDUCTIONS):
        options = {"weight": weight, "reduction": reduction}
        assert np.isfinite(loss(pred, target, **options).grad).all()
        assert_same_bits_everywhere(lambda t=target, o=options: loss(pred, t, **o))


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("case", REGIONS, ids=name_of)
def test_regions(case, from_logits, dtype, machine, rng):
    """Groups of many pieces, and many groups in a piece."""
    for shape, axis in [((2, 3, 130, 100), None), ((2, 3, 130, 100), (0, 2, 3)), ((7000, 9), 1)]:
        pred, target = region_problem(rng, shape, dtype, from_logits=from_logits, ignore_index=9)
        mask = rng.uniform(size=shape) < 0.8
        for reduction in REDUCTIONS:
            options = {"from_logits": from_logits, "reduction": reduction, "axis": axis}
            options |= {"mask": mask, "ignore_index": 9} if reduction == "mean" else {}
            options |= case.options
            call = (pred, target)
            assert_same_bits_everywhere(lambda c=call, o=options: case.loss(*c, **o))


def test_two_python_threads_at_once(machine, rng):
    instep.set_num_threads(2)
    pred, labels, soft, weight = class_problem(losses.cross_entropy, rng, (2000, 60), F32)
    cases = [
        lambda: mse(pred, soft, weight=np.abs(pred), reduction="none"),
        lambda: losses.cross_entropy(pred, labels, weight=weight),
        lambda: losses.focal(pred, soft),
        lambda: losses.dice(pred, soft, from_logits=True),
        lambda: losses.binary_cross_entropy(soft, soft),
    ]
    expected = [result_bytes(call()) for call in cases]
    wrong = []

    def work(order):
        wrong.extend(k for k in order * 5 if result_bytes(cases[k]()) != expected[k])

    orders = [list(range(len(cases))), list(reversed(range(len(cases))))]
    workers = [threading.Thread(target=work, args=(order,)) for order in orders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_tails(case, dtype, machine, rng):
    """Sizes around the widths of vectors, on every instruction set."""
    problems = [case.problem(rng, (n,), dtype) for n in SIZES]
    seen = set()
    for isa in instep.available_isas():
        assert _core.select_isa(isa)
        results = [case.loss(p, t, reduction="none", **options) for p, t, options in problems]
        seen.add(b"".join(part for result in results for part in result_bytes(result)))
    assert len(seen) == 1
