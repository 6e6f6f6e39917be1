"""The oracle against PyTorch in float64, against finite differences, and against hand values."""

import itertools

import numpy as np
import pytest
import reference

STEPS = 30
SHAPES = [(3, 4), (5,), (), (2, 3)]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def make_problem(seed=0):
    """Leaves of several ranks; leaf 1 misses four steps, leaf 3 gets its first gradient late."""
    rng = np.random.default_rng(seed)
    params = [rng.normal(size=shape) for shape in SHAPES]
    grads_per_step = []
    for t in range(STEPS):
        grads = [rng.normal(0.3, 1.0, size=shape) for shape in SHAPES]
        if 10 <= t < 14:
            grads[1] = None
        if t < 7:
            grads[3] = None
        grads_per_step.append(grads)
    return params, grads_per_step


# ---- update rules ----------------------------------------------------------------------------


def torch_run(torch, name, params, grads_per_step, *, clip_norm=None, clip_value=None, **hyper):
    """PyTorch's plain loop over the same gradients; returns (params, states, steps)."""
    cls = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}[name]
    leaves = [torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for p in params]
    first = {key: reference.hyper_at(value, 0) for key, value in hyper.items()}
    optimizer = getattr(torch.optim, cls)(leaves, foreach=False, **first)
    for t, grads in enumerate(grads_per_step):
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = None if grad is None else torch.tensor(grad, dtype=torch.float64)
        if clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
            for leaf in leaves:  # take PyTorch's 1e-6 out again
                if leaf.grad is not None and norm > clip_norm:
                    leaf.grad *= (norm + 1e-6) / norm
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_(leaves, clip_value)
        now = {key: reference.hyper_at(value, t) for key, value in hyper.items()}
        optimizer.param_groups[0].update(now)
        optimizer.step()
    states, steps = [], []
    for leaf in leaves:
        state = {k: v.numpy() for k, v in optimizer.state[leaf].items() if v is not None}
        steps.append(int(state.pop("step", -1)))  # SGD keeps no count
        states.append(state)
    return [leaf.detach().numpy() for leaf in leaves], states, steps


def assert_same_run(ours, theirs):
    for param, expected in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(param, expected, rtol=1e-11, atol=1e-13)
    for state, expected in zip(ours[1], theirs[1], strict=True):
        assert state.keys() == expected.keys()
        for key in state:
            np.testing.assert_allclose(state[key], expected[key], rtol=1e-11, atol=1e-13)
    assert all(n in (count, -1) for count, n in zip(ours[2], theirs[2], strict=True))


def product(**choices):
    """Every combination of the choices, as dicts."""
    return [dict(zip(choices, row, strict=True)) for row in itertools.product(*choices.values())]


SGD = [
    {},
    {"maximize": True, "weight_decay": 0.07},
    {"momentum": 0.8},
    {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.07},
    {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.07, "maximize": True},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.07},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.07, "maximize": True},
]
RMSPROP = product(
    alpha=[0.9], eps=[1e-3], weight_decay=[0.07], momentum=[0.0, 0.7], centered=[False, True],
    maximize=[False, True],
)  # fmt: skip
ADAM = product(
    betas=[(0.8, 0.95)], eps=[1e-3], weight_decay=[0.0, 0.07], amsgrad=[False, True],
    maximize=[False, True],
)  # fmt: skip
CASES = [
    *(("sgd", {"lr": 0.05, **hyper}) for hyper in SGD),
    *(("rmsprop", {"lr": 0.02, **hyper}) for hyper in [{}, *RMSPROP]),
    *(("adam", {"lr": 0.03, **hyper}) for hyper in [{}, *ADAM]),
    *(("adamw", {"lr": 0.03, **hyper}) for hyper in [{}, *ADAM]),
]


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_rule_against_torch(torch, name, hyper):
    problem = make_problem()
    ours = reference.run(reference.RULES[name], *problem, **hyper)
    assert_same_run(ours, torch_run(torch, name, *problem, **hyper))
    assert ours[2] == [STEPS, STEPS - 4, STEPS, STEPS - 7]


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("sgd", {"lr": lambda t: 0.1 / (1 + t), "momentum": lambda t: 0.5 + 0.01 * t}),
        ("rmsprop", {"lr": lambda t: 0.1 / (1 + t), "alpha": lambda t: 0.8 + 0.005 * t}),
        (
            "adamw",
            {"lr": lambda t: 0.1 / (1 + t), "betas": (lambda t: 0.5 + 0.01 * t, 0.9)}
            | {"weight_decay": lambda t: 0.01 * t},
        ),
    ],
)
def test_scheduled_hyperparameters_against_torch(torch, name, hyper):
    problem = make_problem(1)
    ours = reference.run(reference.RULES[name], *problem, **hyper)
    assert_same_run(ours, torch_run(torch, name, *problem, **hyper))


@pytest.mark.parametrize("clip", [{"clip_norm": 2.0}, {"clip_norm": 2.0, "clip_value": 0.4}])
def test_clipping_against_torch(torch, clip):
    problem = make_problem(2)
    ours = reference.run(reference.adamw, *problem, lr=0.03, **clip)
    assert_same_run(ours, torch_run(torch, "adamw", *problem, lr=0.03, **clip))


def test_grad_scale_divides_first():
    params, grads_per_step = make_problem(3)
    scaled = [[None if g is None else g * 1024 for g in grads] for grads in grads_per_step]
    hyper = {"lr": 0.1, "momentum": 0.9, "clip_norm": 1.5}
    plain = reference.run(reference.sgd, params, grads_per_step, **hyper)
    unscaled = reference.run(reference.sgd, params, scaled, grad_scale=1024, **hyper)
    for a, b in zip(plain[0], unscaled[0], strict=True):
        np.testing.assert_array_equal(a, b)


# Two steps on p = 2 with gradients 1 and 3, on paper.
HAND = [
    ("sgd", {"lr": 0.5}, 2 - 0.5 - 1.5),
    # buf: 1, then 0.5 * 1 + 0.75 * 3 = 2.75
    ("sgd", {"lr": 0.5, "momentum": 0.5, "dampening": 0.25}, 2 - 0.5 - 0.5 * 2.75),
    # buf: 1, then 3.5; direction g + 0.5 * buf: 1.5, then 4.75
    ("sgd", {"lr": 0.5, "momentum": 0.5, "nesterov": True}, 2 - 0.5 * 1.5 - 0.5 * 4.75),
    # v: 1/2, then 1/4 + 9/2 = 4.75
    ("rmsprop", {"lr": 0.5, "alpha": 0.5, "eps": 0.0}, 2 - 0.5 / 0.5**0.5 - 1.5 / 4.75**0.5),
    # centred: a: 1/2, then 7/4; v - a^2: 1/4, then 4.75 - 49/16 = 27/16
    (
        "rmsprop",
        {"lr": 0.5, "alpha": 0.5, "eps": 0.0, "centered": True},
        2 - 0.5 / 0.5 - 1.5 / (27 / 16) ** 0.5,
    ),
    # m: 1/2, 7/4; v: 1/2, 19/4; both corrections 1/2, 3/4
    (
        "adam",
        {"lr": 0.5, "betas": (0.5, 0.5), "eps": 1.0},
        2 - 0.5 * 1 / (1 + 1) - 0.5 * (7 / 3) / ((19 / 3) ** 0.5 + 1),
    ),
    (
        "adamw",
        {"lr": 0.5, "betas": (0.5, 0.5), "eps": 1.0, "weight_decay": 0.5},
        (2 * 0.75 - 0.25) * 0.75 - 0.5 * (7 / 3) / ((19 / 3) ** 0.5 + 1),
    ),
]


@pytest.mark.parametrize(("name", "hyper", "expected"), HAND)
def test_rule_by_hand(name, hyper, expected):
    params, _, steps = reference.run(reference.RULES[name], [2.0], [[1.0], [3.0]], **hyper)
    np.testing.assert_allclose(params[0], expected, rtol=1e-15)
    assert steps == [2]


@pytest.mark.parametrize("name", sorted(reference.RULES))
def test_rule_leaves_its_inputs_alone(name):
    rule = reference.RULES[name]
    param, grad = np.array([1.0, -2.0]), np.array([0.5, 0.25])
    full = {"sgd": {"momentum": 0.9}, "rmsprop": {"momentum": 0.9, "centered": True}}
    hyper = {"lr": 0.1, **full.get(name, {"amsgrad": True})}
    _, state = rule(param, grad, {}, step=1, **hyper)
    before = {key: value.copy() for key, value in state.items()}
    _, after = rule(param, grad, state, step=2, **hyper)
    np.testing.assert_array_equal(param, [1.0, -2.0])
    np.testing.assert_array_equal(grad, [0.5, 0.25])
    assert state.keys() == before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(state[key], before[key])
        assert after[key].dtype == np.float64


def test_centered_variance_never_goes_below_zero():
    grads = [[np.full(64, 0.1) + np.arange(64) * 1e-3]] * 600
    params, states, _ = reference.run(
        reference.rmsprop, [np.zeros(64)], grads, lr=1e-3, alpha=0.9, centered=True
    )
    raw = states[0]["square_avg"] - states[0]["grad_avg"] ** 2
    assert raw.min() < 0, "the example no longer rounds below zero"
    assert np.isfinite(params[0]).all()


# ---- gradient preparation --------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-320, 1e-300, 1e-30, 1.0, 1e19, 1e300])
def test_global_norm_at_any_magnitude(unit):
    grads = [np.array([3 * unit]), None, np.array([[4 * unit, 0.0]])]
    # Subnormal inputs are themselves rounded.
    rtol = 1e-15 if unit > 1e-308 else 1e-3
    np.testing.assert_allclose(reference.global_norm(grads), 5 * unit, rtol=rtol)


def test_global_norm_at_the_ends():
    assert reference.global_norm([]) == 0.0
    assert reference.global_norm([None, np.zeros((0, 3))]) == 0.0
    assert reference.global_norm([np.array([1.0, -np.inf])]) == np.inf
    assert np.isnan(reference.global_norm([np.array([1.0, np.nan])]))


def test_prepare():
    grads = [np.array([3e19, 4e19], dtype=np.float32), None]
    (clipped, missing), norm = reference.prepare(grads, clip_norm=1.0)
    assert missing is None
    np.testing.assert_allclose(norm, 5e19, rtol=1e-6)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(grads[0], np.array([3e19, 4e19], dtype=np.float32))

    (same,), norm = reference.prepare([np.array([3.0, 4.0])], clip_norm=5.0)
    np.testing.assert_array_equal(same, [3.0, 4.0])
    assert norm == 5.0

    (by_value,), norm = reference.prepare(
        [np.array([-6.0, 8.0])], grad_scale=2.0, clip_norm=2.5, clip_value=1.75
    )
    np.testing.assert_array_equal(by_value, [-1.5, 1.75])
    assert norm == 5.0


# ---- losses ----------------------------------------------------------------------------------


def torch_loss(torch, f, pred, target, weight, **options):
    """PyTorch's value, and the gradient of its sum."""
    pred = torch.tensor(pred, dtype=torch.float64, requires_grad=True)
    weight = None if weight is None else torch.tensor(weight)
    value = f(pred, torch.tensor(target), weight=weight, **options)
    value.sum().backward()
    return value.detach().numpy(), pred.grad.numpy()


def assert_same_loss(ours, theirs):
    assert np.shape(ours[0]) == theirs[0].shape
    assert ours[1].shape == theirs[1].shape
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(), (7,), (3, 2, 4)])
def test_mse(torch, shape, weighted, reduction):
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(2, *shape))
    weight = rng.uniform(0.1, 2.0, size=shape) if weighted else None
    ours = reference.mse(pred, target, weight=weight, reduction=reduction)
    f = torch.nn.functional.mse_loss
    assert_same_loss(ours, torch_loss(torch, f, pred, target, weight, reduction=reduction))


def make_classification(shape, soft, seed=0):
    """Logits, labels or soft targets (not normalized: the formula must not lean on it), weights."""
    rng = np.random.default_rng(seed)
    axis = 0 if len(shape) == 1 else 1
    pred = rng.normal(0.0, 3.0, size=shape)
    if soft:
        target = rng.uniform(size=shape)
    else:
        target = rng.integers(shape[axis], size=shape[:axis] + shape[axis + 1 :])
    return pred, target, rng.uniform(0.1, 2.0, size=shape[axis])


CROSS_ENTROPY = product(
    soft=[False, True],
    shape=[(5,), (11, 4), (3, 4, 2), (2, 4, 3, 5), (3, 1)],
    weighted=[False, True],
    label_smoothing=[0.0, 0.2, 1.0],
    ignore_index=[-100, 2],
    reduction=["mean", "sum", "none"],
)


@pytest.mark.parametrize(
    "case", [c for c in CROSS_ENTROPY if not (c["soft"] and c["ignore_index"] > 0)]
)
def test_cross_entropy(torch, case):
    case = dict(case)
    soft, weighted = case.pop("soft"), case.pop("weighted")
    pred, target, weight = make_classification(case.pop("shape"), soft)
    if target.ndim and not soft:
        target.flat[0] = case["ignore_index"]
    weight = weight if weighted else None
    ours = reference.cross_entropy(pred, target, weight=weight, **case)
    f = torch.nn.functional.cross_entropy
    assert_same_loss(ours, torch_loss(torch, f, pred, target, weight, **case))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_against_finite_differences(weighted, reduction):
    rng = np.random.default_rng(1)
    pred, target = rng.normal(size=(2, 3, 4))
    weight = rng.uniform(0.1, 2.0, size=(3, 4)) if weighted else None
    options = {"weight": weight, "reduction": reduction}
    numeric = reference.numerical_gradient(
        lambda x: np.sum(reference.mse(x, target, **options)[0]), pred
    )
    np.testing.assert_allclose(reference.mse(pred, target, **options)[1], numeric, atol=1e-10)

    for soft, smoothing in itertools.product((False, True), (0.0, 0.3)):
        pred, target, weight = make_classification((4, 3, 2), soft, seed=1)
        if not soft:
            target[0, 1] = 1
        options = {"weight": weight if weighted else None, "reduction": reduction}
        options |= {"label_smoothing": smoothing, "ignore_index": 1}
        numeric = reference.numerical_gradient(
            lambda x, t=target, o=options: np.sum(reference.cross_entropy(x, t, **o)[0]), pred
        )
        analytic = reference.cross_entropy(pred, target, **options)[1]
        np.testing.assert_allclose(analytic, numeric, atol=1e-10)
        if not soft:
            assert not analytic[0, :, 1].any()


def test_numerical_gradient_is_of_fourth_order():
    # Exact for polynomials up to degree 4, up to rounding.
    x = np.array([[0.5, -1.0], [2.0, 0.0]])
    numeric = reference.numerical_gradient(lambda a: np.sum(a**4 + 3 * a), x)
    np.testing.assert_allclose(numeric, 4 * x**3 + 3, rtol=1e-11)
    assert reference.numerical_gradient(np.exp, np.array(0.0)).shape == ()


def assert_zero(loss, shape):
    value, grad = loss
    assert value == 0.0
    assert grad.shape == shape
    assert not grad.any()  # also false for NaN


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_to_average_is_zero(reduction):
    """PyTorch's mean is NaN in each of these."""
    mse, cross_entropy = reference.mse, reference.cross_entropy
    option = {"reduction": reduction}
    x = np.array([[1.0, 2.0, 3.0], [0.0, np.nan, np.inf]])
    ignored = np.array([-100, -100])
    assert_zero(mse(np.zeros((0, 2)), np.zeros((0, 2)), **option), (0, 2))
    assert_zero(mse(x[:1], x[:1] + 1, weight=np.zeros((1, 3)), **option), (1, 3))
    assert_zero(cross_entropy(np.zeros((0, 3)), np.zeros(0, dtype=int), **option), (0, 3))
    assert_zero(cross_entropy(np.zeros((0, 3)), np.zeros((0, 3)), **option), (0, 3))
    assert_zero(cross_entropy(np.zeros((2, 0)), np.zeros((2, 0)), **option), (2, 0))
    assert_zero(cross_entropy(x, ignored, **option), (2, 3))
    assert_zero(cross_entropy(x, ignored, label_smoothing=0.1, weight=np.ones(3), **option), (2, 3))
    assert_zero(cross_entropy(x[:1], [1], weight=np.zeros(3), **option), (1, 3))


def test_cross_entropy_at_hard_points():
    x = np.array([[0.0, -np.inf, 1.0]])
    p = 1 / (1 + np.e)
    value, grad = reference.cross_entropy(x, [[0.5, 0.0, 0.5]])
    np.testing.assert_allclose(value, -0.5 * np.log(p) - 0.5 * np.log(1 - p), rtol=1e-15)
    np.testing.assert_allclose(grad, [[p - 0.5, 0.0, 0.5 - p]], rtol=1e-15)
    value, grad = reference.cross_entropy(x, [0])
    np.testing.assert_allclose(value, -np.log(p), rtol=1e-15)
    np.testing.assert_allclose(grad, [[p - 1, 0.0, 1 - p]], rtol=1e-15)
    value, grad = reference.cross_entropy(x, [1])  # a class the logits exclude
    assert value == np.inf
    np.testing.assert_allclose(grad, [[p, -1.0, 1 - p]], rtol=1e-15)

    value, grad = reference.cross_entropy([[1e300, -1e300], [1000.0, 0.0]], [0, 0])
    assert value == 0.0
    assert not grad.any()
    assert reference.cross_entropy([[1000.0, 0.0]], [1])[0] == 1000.0
    np.testing.assert_array_equal(reference.cross_entropy([-1e4, -1e4], 0)[1], [-0.5, 0.5])

    # An ignored row is never looked at.
    value, grad = reference.cross_entropy([[np.nan, np.inf], [0.0, 0.0]], [-100, 1])
    np.testing.assert_allclose(value, np.log(2), rtol=1e-15)
    np.testing.assert_array_equal(grad, [[0.0, 0.0], [0.5, -0.5]])
    # A used one is: NaN stays visible.
    assert np.isnan(reference.cross_entropy([[np.nan, 1.0]], [1])[0])


def test_unknown_reduction():
    with pytest.raises(ValueError, match="'mean', 'sum' or 'none', got 'average'"):
        reference.mse([1.0], [2.0], reduction="average")
