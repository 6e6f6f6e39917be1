"""The same bits on every instruction set: steps, norms, losses; and how a level is chosen."""

import numpy as np
import pytest
from conftest import ISAS, SIZES, everything, run_python
from test_optim import ROWS, problem

import instep
from instep import _core, losses

# With what makes vector code go wrong: signed zeros, subnormals, infinities, equal maxima.
SPECIAL = [0.0, -0.0, 1e-45, -1e-39, 1e-30, 3e38, -3e38, 1.0, 1.0, -1.0, 0.5]


def on_each_isa(compute):
    """The results of every level; the level is put back."""
    before, results = instep.isa(), {}
    try:
        for name in ISAS:
            assert _core.select_isa(name) and instep.isa() == name
            results[name] = compute()
    finally:
        _core.select_isa(before)
    return results


def assert_same_bits(compute):
    first, *others = on_each_isa(compute).items()
    for name, result in others:
        assert result == first[1], (first[0], name)


@pytest.mark.parametrize("name", ROWS)
def test_steps(name, dtype):
    def compute():
        results = []
        for n in [*SIZES, 16385, 40000]:
            start, grads = problem(n, dtype, 6)
            param = start.copy()
            param[: len(SPECIAL)] = np.array(SPECIAL[:n], dtype)
            opt = ROWS[name].make(param, clip_norm=1.5, clip_value=0.9)
            reports = []
            for t, grad in enumerate(grads):
                grad = grad.copy()
                grad[t : t + len(SPECIAL)] = np.array(SPECIAL, dtype)[: max(n - t, 0)]
                # float32: 3e38 squared is fine in float64, and unscaled here.
                reports.append(opt.step(grad, grad_scale=1e5 if t % 2 else 1.0))
            results.append((everything(opt, param), reports))
        return results

    assert_same_bits(compute)


@pytest.mark.parametrize("given", ["f2", "f4", "f8", "g", "bfloat16"])
def test_codecs(given, dtype, rng):
    """Gradients of every dtype, strided parameters, float64 gradients rounded to float32."""
    if given == "bfloat16":
        given = pytest.importorskip("ml_dtypes").bfloat16
    start = rng.normal(size=(3, 700)).astype(dtype)
    grads = [rng.normal(size=(3, 700)).astype(given) for _ in range(5)]

    def compute():
        wide = np.zeros((3, 1400), dtype)
        param = wide[::-1, ::2]
        param[...] = start
        opt = instep.RMSprop(
            param, lr=0.1, alpha=0.8, eps=1e-3, momentum=0.4, centered=True, clip_norm=3.0
        )
        return [opt.step(grad) for grad in grads], everything(opt, wide)

    assert_same_bits(compute)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse(reduction, weighted, dtype, rng):
    def compute():
        results = []
        for n in [*SIZES, 40000]:
            gen = np.random.default_rng(n)
            pred, target = gen.normal(size=(2, n)).astype(dtype)
            weight = gen.uniform(0.1, 2.0, n).astype(dtype) if weighted else None
            for stride in (1, 3):
                found = losses.mse(
                    pred[::stride],
                    target[::stride],
                    weight=weight if weight is None else weight[::stride],
                    reduction=reduction,
                )
                results.append((np.asarray(found.value).tobytes(), found.grad.tobytes()))
        return results

    assert_same_bits(compute)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction, soft, dtype):
    def compute():
        results = []
        for rows, classes in [(1, 1), (3, 2), (64, 10), (7, 17), (5, 513), (2000, 33)]:
            gen = np.random.default_rng(classes)
            logits = (8 * gen.normal(size=(rows, classes))).astype(dtype)
            logits[:, -1] = -np.inf if classes > 2 else 5.0
            labels = gen.integers(0, classes - (classes > 2), rows)
            target = np.eye(classes, dtype=dtype)[labels] if soft else labels
            found = losses.cross_entropy(
                logits,
                target,
                weight=gen.uniform(0.1, 2.0, classes).astype(dtype),
                label_smoothing=0.0 if classes > 2 else 0.2,
                reduction=reduction,
            )
            assert np.isfinite(found.grad).all()
            results.append((np.asarray(found.value).tobytes(), found.grad.tobytes()))
        return results

    assert_same_bits(compute)


# ---- choosing --------------------------------------------------------------------------------


def test_levels():
    assert ISAS[0] == "baseline" and len(set(ISAS)) == len(ISAS)
    assert set(ISAS) <= {"baseline", "avx2", "avx512"}
    assert instep.available_isas() == _core.available_isas() == ISAS


@pytest.mark.parametrize("name", ISAS)
def test_forced_by_the_environment(name):
    done = run_python("import instep; print(instep.isa())", INSTEP_ISA=name)
    assert (done.returncode, done.stdout.strip()) == (0, name), done.stderr


def test_the_best_level_is_the_default():
    for forced in ({}, {"INSTEP_ISA": ""}):
        done = run_python("import instep; print(instep.isa())", **forced)
        assert (done.returncode, done.stdout.strip()) == (0, ISAS[-1]), done.stderr


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx", "best", "0"])
def test_an_unknown_level_is_an_import_error(name):
    code = """
try:
    import instep
except ImportError as error:
    print(error)
"""
    done = run_python(code, INSTEP_ISA=name)
    assert done.returncode == 0, done.stderr
    assert repr(name) in done.stdout and ", ".join(ISAS) in done.stdout
    before = instep.isa()
    assert not _core.select_isa(name) and instep.isa() == before


def test_a_forced_level_computes_the_same_bits():
    """Across processes as well: nothing depends on what ran before."""
    code = """
import hashlib, numpy as np, instep
rng = np.random.default_rng(1)
params = [rng.normal(size=n).astype(np.float32) for n in (5, 1000, 20000)]
opt = instep.AdamW(params, lr=0.1, weight_decay=0.1, clip_norm=1.0)
digest = hashlib.sha256()
for _ in range(5):
    digest.update(repr(opt.step([rng.normal(size=p.size) for p in params])).encode())
for array in [*params, *(opt.state[str(k)]["exp_avg_sq"] for k in range(3))]:
    digest.update(array.tobytes())
print(digest.hexdigest())
"""
    results = [run_python(code, INSTEP_ISA=name, INSTEP_NUM_THREADS="2") for name in ISAS]
    assert all(done.returncode == 0 for done in results), results[0].stderr
    assert len({done.stdout for done in results}) == 1
