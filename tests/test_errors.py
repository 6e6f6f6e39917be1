"""Every error: its type, the place and the value it names, and that nothing was written."""

import re

import numpy as np
import pytest
from conftest import bits, copy_tree, everything, leaves, tiny_problem

import instep

OPTIMIZERS = [instep.SGD, instep.RMSprop, instep.Adam, instep.AdamW]


class Error(tuple):
    """(type of the exception, what its message contains)."""

    def __new__(cls, kind, *pieces):
        return super().__new__(cls, (kind, pieces))

    def expect(self):
        pattern = "".join(f"(?=.*{re.escape(piece)})" for piece in self[1])
        return pytest.raises(self[0], match=re.compile(pattern, re.DOTALL))


def type_error(*pieces):
    return Error(TypeError, *pieces)


def value_error(*pieces):
    return Error(ValueError, *pieces)


# ---- parameters ------------------------------------------------------------------------------


def read_only(array):
    array.flags.writeable = False
    return array


def masked():
    return np.ma.masked_array(np.ones(3), mask=[True, False, False])


def overlapping_itself():
    return np.lib.stride_tricks.as_strided(np.ones(8, np.float32), (3, 4), (4, 4))


PARAMETERS = {
    "int": (lambda: np.arange(3), type_error("int64", "(3,)")),
    "bool": (lambda: np.ones(3, bool), type_error("bool", "float32")),
    "complex": (lambda: np.ones(2, np.complex64), type_error("complex64", "(2,)")),
    "object": (lambda: np.array([1.0, None]), type_error("object", "(2,)")),
    "string": (lambda: np.array(["a"]), type_error("<U1")),
    "longdouble": (
        lambda: np.ones(3, np.longdouble),
        type_error("float", "float32 or float64", "float16 or ml_dtypes.bfloat16"),
    ),
    "record": (lambda: np.zeros(2, "f4,f4"), type_error("'f0'")),
    "swapped": (lambda: np.ones(3, ">f4"), type_error(">f4", "byte order", "newbyteorder")),
    "swapped_half": (lambda: np.ones(3, ">f2"), type_error(">f2", "byte order", "newbyteorder")),
    "swapped_double": (lambda: np.ones(3, ">f8"), type_error(">f8", "byte order")),
    "masked": (masked, type_error("masked")),
    "read_only": (lambda: read_only(np.ones(3)), value_error("read-only", "(3,)", "float64")),
    "read_only_half": (
        lambda: read_only(np.ones(3, np.float16)),
        value_error("read-only", "(3,)", "float16"),
    ),
    "broadcast": (lambda: np.broadcast_to(np.ones(3), (2, 3)), value_error("read-only", "(2, 3)")),
    "self_overlap": (overlapping_itself, value_error("overlaps itself", "(3, 4)", "(4, 4)")),
    "half_self_overlap": (
        lambda: np.lib.stride_tricks.as_strided(np.ones(8, np.float16), (3, 4), (2, 2)),
        value_error("overlaps itself", "(3, 4)", "(2, 2)"),
    ),
    "zero_stride": (
        lambda: np.lib.stride_tricks.as_strided(np.ones(2), (4,), (0,)),
        value_error("overlaps itself", "(4,)", "(0,)"),
    ),
    "interleaved_self_overlap": (
        lambda: np.lib.stride_tricks.as_strided(np.ones(40, np.float32), (5, 5), (12, 8)),
        value_error("overlaps itself", "(12, 8)"),
    ),
    "none": (lambda: None, type_error("None", "numpy.array")),
    "number": (lambda: 3.5, type_error("float", "3.5", "numpy.array")),
    "scalar": (lambda: np.float32(3.5), type_error("float32", "3.5")),
    "text": (lambda: "weights", type_error("str", "'weights'")),
    "bytes": (lambda: b"12345678", type_error("uint8")),
    "set": (lambda: {1.0}, type_error("set", "{1.0}")),
    "generator": (lambda: (x for x in ()), type_error("generator")),
}


@pytest.mark.parametrize("cls", OPTIMIZERS)
@pytest.mark.parametrize("case", PARAMETERS)
def test_bad_parameter(case, cls):
    make, error = PARAMETERS[case]
    with Error(error[0], "params['layers'][1]['W']", *error[1]).expect():
        cls({"layers": [{"W": np.ones(3)}, {"b": np.ones(2), "W": make()}]})
    good = np.ones(4)
    opt = cls([{"params": good}])
    opt.step([np.full(4, 0.5)])
    before = everything(opt, good)
    with Error(error[0], "params[1]['params'][0]", *error[1]).expect():
        opt.add_param_group({"params": [make(), np.ones(2)]})
    assert everything(opt, good) == before and len(opt.param_groups) == 1
    opt.step([np.full(4, 0.5)])


@pytest.mark.parametrize("case", ["grad", "dtype", "jagged"])
def test_bad_torch_parameter(case):
    torch = pytest.importorskip("torch")
    tensor = {
        "grad": lambda: torch.ones(3, requires_grad=True),
        "dtype": lambda: torch.ones(3, dtype=torch.bfloat16),
        "jagged": lambda: torch.ones(3).to_sparse(),
    }[case]()
    with type_error("params['W']").expect():
        instep.SGD({"W": tensor})


def overlapping_parameters():
    base = np.ones(20)
    square = np.ones((6, 6))
    yield [base, base]
    yield [base[:10], np.ones(3), base[9:]]
    yield [base[::2], base[2:3]]
    yield [base[::3], base[::2]]
    yield [square, square.T]
    yield [square[::2, 1:], square[:, 3]]
    yield [base.view(np.float32), base[:1]]


@pytest.mark.parametrize("params", list(overlapping_parameters()))
def test_overlapping_parameters(params):
    with value_error("params[", "overlaps params[", "memory").expect():
        instep.Adam(params)
    opt = instep.Adam([{"params": params[0]}])
    with value_error("params[1]['params'][", "params[0]['params']", " overlaps ").expect():
        opt.add_param_group({"params": params[1:]})
    assert len(opt.param_groups) == 1 and opt.step([np.ones_like(params[0])]).applied


def test_interleaved_parameters_do_not_overlap():
    base = np.zeros(24)
    grid = np.zeros((6, 6), np.float32)
    instep.SGD([base[::3], base[1::3], base[2::3]], lr=1.0).step([np.ones(8)] * 3)
    assert (base == -1).all()
    parts = [grid[:3, :3], grid[3:, :3], grid[:, 3:].T]
    instep.SGD(parts, lr=1.0).step([np.ones_like(part) for part in parts])
    assert (grid == -1).all()


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({}, value_error("params", "no array")),
        ([], value_error("params", "no array")),
        ({"a": {}, "b": []}, value_error("no array")),
        ({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, value_error("'a.b'", "rename")),
        ({"0": np.ones(1), 0: np.ones(1)}, value_error("'0'", "rename")),
        ([{"params": np.ones(1)}, {"params": {}}], value_error("params[1]", "no array")),
        (
            [{"params": np.ones(1), "lr_": 1}],
            type_error("params[0]", "'lr_'", "known", "weight_decay"),
        ),
        (
            [{"params": np.ones(1), "clip_norm": 1.0}],
            type_error("params[0]", "'clip_norm'"),
        ),
        ([{"params": np.ones(1)}, {"params": np.ones(1), "lr": -2}], value_error("lr", "-2")),
    ],
)
def test_bad_trees_and_groups(params, error):
    with error.expect():
        instep.Adam(params)


@pytest.mark.parametrize(
    "group", [np.ones(3), {"param": np.ones(3)}, {"lr": 1}, [np.ones(3)], None], ids=repr
)
def test_a_group_is_a_dict_with_params(group):
    opt = instep.Adam(np.ones(2))
    with type_error("dict", "'params'").expect():
        opt.add_param_group(group)


# ---- gradients -------------------------------------------------------------------------------


def spoil(change):
    """A good tree of gradients with one thing wrong."""

    def make(params, grads):
        grads = copy_tree(grads)
        return change(params, grads) or grads

    return make


def put(value):
    def change(params, grads):
        grads["layers"][1]["b"] = value(params) if callable(value) else value

    return spoil(change)


LAST = "grads['layers'][1]['b']"  # of a float64 parameter of shape (3,), the last but one
GRADIENTS = {
    "longer": (put(np.ones(4)), value_error(LAST, "(4,)", "(3,)")),
    "shorter": (put(np.ones(2)), value_error(LAST, "(2,)", "(3,)")),
    "column": (put(np.ones((3, 1))), value_error(LAST, "(3, 1)", "(3,)", "broadcast")),
    "zero_dimensional": (put(np.array(1.0)), value_error(LAST, "()", "(3,)")),
    "number": (put(1.0), value_error(LAST, "()", "(3,)")),
    "empty": (put(np.ones(0)), value_error(LAST, "(0,)")),
    "int": (put(np.arange(3)), type_error(LAST, "int64", "astype")),
    "python_int": (put(1), type_error(LAST, "int", "1", "None")),
    "bool": (put(np.ones(3, bool)), type_error(LAST, "bool")),
    "python_bool": (put(True), type_error(LAST, "bool", "True")),
    "complex": (put(np.ones(3, complex)), type_error(LAST, "complex128")),
    "object": (put(np.ones(3, object)), type_error(LAST, "object")),
    "string": (put(np.array(["a", "b", "c"])), type_error(LAST, "<U1")),
    "datetime": (put(np.zeros(3, "m8[s]")), type_error(LAST, "timedelta64")),
    "swapped": (put(np.ones(3, ">f8")), type_error(LAST, ">f8", "newbyteorder")),
    "swapped_half": (put(np.ones(3, ">f2")), type_error(LAST, ">f2")),
    "masked": (put(lambda _: masked()), type_error(LAST, "masked")),
    "text": (put("abc"), type_error(LAST, "str", "'abc'")),
    "list": (put([1.0, 2.0, 3.0]), type_error(LAST, "list", "[1.0, 2.0, 3.0]")),
    "dict": (put({"x": np.ones(3)}), type_error(LAST, "dict")),
    "parameter": (
        put(lambda p: p["layers"][1]["b"]),
        value_error(LAST, "overlaps params['layers'][1]['b']", "copy"),
    ),
    "reversed_parameter": (
        put(lambda p: p["layers"][1]["b"][::-1]),
        value_error(LAST, "overlaps params['layers'][1]['b']"),
    ),
    "other_parameter": (
        put(lambda p: p["layers"][0]["b"][:3]),
        value_error(LAST, "overlaps params['layers'][0]['b']"),
    ),
    "missing": (
        spoil(lambda _, g: g["layers"][1].pop("b") is None),
        value_error("grads['layers'][1]", "missing 'b'", "None"),
    ),
    "extra": (
        spoil(lambda _, g: g["layers"][1].update(c=np.ones(3))),
        value_error("grads['layers'][1]", "unexpected 'c'"),
    ),
    "renamed": (
        spoil(lambda _, g: g.update(scales=g.pop("scale"))),
        value_error("grads", "missing 'scale'", "unexpected 'scales'"),
    ),
    "short_list": (spoil(lambda _, g: g["layers"].pop() is None), value_error("grads['layers']")),
    "long_list": (
        spoil(lambda _, g: g["layers"].append(None)),
        value_error("grads['layers']", "3 entries", "2"),
    ),
    "list_for_dict": (
        spoil(lambda _, g: g.update(layers=[[np.ones(1)], None])),
        type_error("grads['layers'][0]", "list", "a dict"),
    ),
    "dict_for_list": (
        spoil(lambda _, g: g.update(layers={0: None, 1: None})),
        type_error("grads['layers']", "dict", "a list or tuple"),
    ),
    "array_for_dict": (lambda p, g: np.ones(3), type_error("grads", "ndarray", "a dict")),
    "none": (lambda p, g: None, type_error("grads is None")),
}


@pytest.mark.parametrize("started", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("case", GRADIENTS)
def test_bad_gradient(case, started):
    """Refused whole, and the training then is that of a run which never saw it."""
    make, error = GRADIENTS[case]
    tree, steps = tiny_problem()
    params, clean = copy_tree(tree), copy_tree(tree)
    options = {"lr": 0.1, "weight_decay": 0.1, "clip_norm": 1.0, "threads": 2}
    opt, other = instep.AdamW(params, **options), instep.AdamW(clean, **options)
    if started:
        opt.step(steps[0])
        other.step(steps[0])
    before = everything(opt, *leaves(params))
    with error.expect():
        opt.step(make(params, steps[1]))
    assert everything(opt, *leaves(params)) == before
    for grads in steps[2:]:
        opt.step(grads)
        other.step(grads)
    assert everything(opt, *leaves(params)) == everything(other, *leaves(clean))


@pytest.mark.parametrize("case", ["requires_grad", "bfloat16", "sparse"])
def test_bad_torch_gradient(case):
    """Whatever NumPy cannot read is refused by its place as well."""
    torch = pytest.importorskip("torch")
    tensor = {
        "requires_grad": lambda: torch.ones(3, requires_grad=True),
        "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
        "sparse": lambda: torch.ones(3).to_sparse(),
    }[case]()
    params = {"a": np.ones(2), "b": np.ones(3)}
    opt = instep.SGD(params)
    with type_error("grads['b']").expect():
        opt.step({"a": np.ones(2), "b": tensor})
    assert (params["a"] == 1).all() and opt.steps == 0


def test_the_last_of_many_leaves():
    params = [np.ones(20) for _ in range(300)]
    opt = instep.Adam(params)
    for bad, error in [(np.ones(19), value_error), (np.arange(20), type_error)]:
        with error("grads[299]").expect():
            opt.step([np.ones(20)] * 299 + [bad])
    assert opt.steps == 0 and opt.state == {} and all((p == 1).all() for p in params)


def test_grads_of_several_groups():
    a, b = np.ones(2), np.ones(3)
    opt = instep.SGD([{"params": {"a": a}}, {"params": b}])
    for grads, error in [
        ({"a": np.ones(2)}, type_error("grads", "list", "dict")),
        ([{"a": np.ones(2)}], value_error("grads", "1 trees", "2 groups")),
        ([{"a": np.ones(2)}, np.ones(3), None], value_error("grads", "3 trees", "2 groups")),
        ([{"b": np.ones(2)}, np.ones(3)], value_error("grads[0]", "missing 'a'")),
        ([{"a": np.ones(2)}, np.ones(4)], value_error("grads[1]", "(4,)", "(3,)")),
    ]:
        with error.expect():
            opt.step(grads)
    assert (a == 1).all() and (b == 1).all() and opt.steps == 0


@pytest.mark.parametrize("after", ["step", "load", "add_param_group"])
def test_gradient_that_overlaps_a_state(after):
    """Also right after the states were replaced or the plan was made anew."""
    param = np.ones(4)
    opt = instep.Adam([{"params": param}])
    opt.step([np.ones(4)])
    more = []
    if after == "load":
        opt.load_state_dict(opt.state_dict())
    elif after == "add_param_group":
        opt.add_param_group({"params": np.ones(2)})
        more = [None]
    before = everything(opt, param)
    for name in ("exp_avg", "exp_avg_sq"):
        with value_error("grads[0]", f"overlaps state['0']['{name}']").expect():
            opt.step([opt.state["0"][name], *more])
    assert everything(opt, param) == before
    opt.step([opt.state["0"]["exp_avg"].copy(), *more])


def test_gradient_in_the_memory_of_an_old_one():
    """That a range was clear before does not mean that it is: a state may lie there now."""
    opt = instep.Adam(param := np.ones(4))
    opt.step(np.ones(4))
    saved = opt.state_dict()
    for _ in range(30):
        grad = np.ones(4)
        opt.step(grad)
        del grad  # whose memory the new states may get
        opt.load_state_dict(saved)
        for name in ("exp_avg", "exp_avg_sq"):
            with value_error("grads", f"overlaps state['param']['{name}']").expect():
                opt.step(opt.state["param"][name])
    assert np.isfinite(param).all()


@pytest.mark.parametrize("forwards", [slice(0, 10), slice(10, 20)])
def test_gradient_that_meets_a_reversed_parameter_by_one_element(forwards):
    """Either end of a view with negative strides counts."""
    for backwards in (slice(19, 9, -1), slice(9, None, -1), slice(18, 8, -1), slice(14, 4, -1)):
        base = np.arange(20.0)
        backwards, straight = base[backwards], base[forwards]
        before = base.copy()
        for param, grad in ((straight, backwards), (backwards, straight)):
            opt = instep.SGD(param, lr=1.0)
            if np.shares_memory(param, grad):
                with value_error("grads", "overlaps params").expect():
                    opt.step(grad)
                assert bits(base) == bits(before)
            else:
                wanted = param - grad
                opt.step(grad)
                assert bits(param) == bits(wanted)
                base[...] = before


def test_gradient_between_the_elements_of_a_parameter():
    """Interleaved memory is fine: no byte is shared."""
    base = np.zeros((8, 3))
    base[:, 1] = np.arange(8)
    opt = instep.SGD([base[:, 0], base[:, 2]], lr=1.0)
    for _ in range(2):
        opt.step([base[:, 1], base[::-1, 1]])
    assert bits(base[:, 0]) == bits(-2.0 * np.arange(8) + 0)
    assert bits(base[:, 2]) == bits(-2.0 * np.arange(8)[::-1] + 0)
    with value_error("grads[1]", "overlaps params[0]").expect():
        opt.step([base[:, 1], base[:, 0]])
