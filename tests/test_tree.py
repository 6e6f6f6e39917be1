"""Nested containers <-> flat lists with names."""

import collections
import types

import numpy as np
import pytest

import instep
from instep.tree import Structure

Layer = collections.namedtuple("Layer", ["W", "b"])
TREE = {"layers": [{"W": 1, "b": 2}, {"W": 3}], "head": (4, [5, 6]), "scale": 7, 8: 8}
NAMES = [
    "layers.0.W",
    "layers.0.b",
    "layers.1.W",
    "head.0",
    "head.1.0",
    "head.1.1",
    "scale",
    "8",
]
PATHS = [
    "p['layers'][0]['W']",
    "p['layers'][0]['b']",
    "p['layers'][1]['W']",
    "p['head'][0]",
    "p['head'][1][0]",
    "p['head'][1][1]",
    "p['scale']",
    "p[8]",
]


def test_names_paths_and_leaves():
    structure = Structure(TREE)
    assert list(structure.names()) == NAMES
    assert list(structure.names("group")) == [f"group.{name}" for name in NAMES]
    assert list(structure.paths("p")) == PATHS
    assert [eval(path, {"p": TREE}) for path in PATHS] == list(range(1, 9))
    assert structure.flatten(TREE, "p") == list(range(1, 9))
    assert structure.size == 8 and not structure.is_leaf


def test_build_is_the_way_back():
    structure = Structure(TREE)
    built = structure.build(list(range(1, 9)))
    assert built == TREE
    assert list(built) == list(TREE) and type(built["head"]) is tuple
    assert structure.build([None] * 8)["layers"] == [{"W": None, "b": None}, {"W": None}]


def test_a_leaf_alone():
    structure = Structure(5)
    assert structure.is_leaf and structure.size == 1
    assert (list(structure.names()), list(structure.paths("params"))) == ([""], ["params"])
    assert structure.flatten("anything", "x") == ["anything"] and structure.build([9]) == 9


@pytest.mark.parametrize("empty", [{}, [], (), {"a": [], "b": {}}], ids=repr)
def test_no_leaves(empty):
    structure = Structure(empty)
    assert structure.size == 0 and list(structure.names()) == []
    assert structure.flatten(empty, "x") == [] and structure.build([]) == empty
    assert structure.flatten(None, "x") == []


def test_named_tuples_and_other_mappings():
    tree = collections.OrderedDict(a=Layer(1, 2), b=types.MappingProxyType({"x": 3}))
    structure = Structure(tree)
    assert list(structure.names()) == ["a.0", "a.1", "b.x"]
    assert structure.flatten(tree, "x") == [1, 2, 3]
    built = structure.build([4, 5, 6])
    assert built == {"a": Layer(4, 5), "b": {"x": 6}} and built["a"].b == 5
    assert structure.flatten({"b": {"x": 3}, "a": [1, 2]}, "x") == [1, 2, 3]


def test_other_lists_and_tuples_are_built_as_plain_ones():
    class Layers(list):
        def __init__(self, name, *layers):
            super().__init__(layers)

    class Pair(tuple):
        def __new__(cls, first, second):
            return super().__new__(cls, (first, second))

    structure = Structure(Layers("encoder", 1, Pair(2, 3)))
    assert list(structure.names()) == ["0", "1.0", "1.1"]
    assert structure.flatten(Layers("gradients", 1, Pair(2, 3)), "x") == [1, 2, 3]
    built = structure.build([4, 5, 6])
    assert built == [4, (5, 6)] and type(built) is list and type(built[1]) is tuple
    params = Layers("decoder", np.ones(2), Pair(np.ones(1), np.ones(3)))
    assert [type(branch) for branch in instep.SGD(params).grads] == [np.ndarray, tuple]


def test_order_is_that_of_the_structure():
    structure = Structure({"b": 1, "a": {"y": 2, "x": 3}})
    assert structure.flatten({"a": {"x": 3, "y": 2}, "b": 1}, "t") == [1, 2, 3]


def test_none_stands_for_a_leaf_or_a_branch():
    structure = Structure(TREE)
    assert structure.flatten(None, "g") == [None] * 8
    grads = {"layers": [None, {"W": 3}], "head": None, "scale": 7, 8: None}
    assert structure.flatten(grads, "g") == [None, None, 3, None, None, None, 7, None]


def test_lists_and_tuples_stand_for_each_other():
    structure = Structure({"x": [1, (2, 3)]})
    assert structure.flatten({"x": (1, [2, 3])}, "g") == [1, 2, 3]


@pytest.mark.parametrize(
    ("tree", "kind", "message"),
    [
        ([1, 2], TypeError, r"^g is list, but the parameters have a dict there"),
        (np.ones(3), TypeError, r"^g is ndarray, but the parameters have a dict there"),
        ({"a": 1}, ValueError, r"^g does not match the parameters: missing 'b'; .*None"),
        ({"a": 1, "b": 2, "c": 3}, ValueError, r"^g .*: unexpected 'c';"),
        ({"a": 1, "B": [2]}, ValueError, r"^g .*: missing 'b', unexpected 'B';"),
        ({"a": 1, "b": 5}, TypeError, r"^g\['b'\] is int, .* a list or tuple"),
        ({"a": 1, "b": {"0": 1}}, TypeError, r"^g\['b'\] is dict, .* a list or tuple"),
        ({"a": 1, "b": []}, ValueError, r"^g\['b'\] has 0 entries where the parameters have 1"),
        ({"a": 1, "b": [1, 2]}, ValueError, r"^g\['b'\] has 2 entries where .* have 1"),
        ({"a": 1, "b": [[]]}, TypeError, r"^g\['b'\]\[0\] is list, .* a dict"),
        ({"a": 1, "b": [{"y": 1}]}, ValueError, r"^g\['b'\]\[0\] .* missing 'x', unexpected 'y'"),
    ],
)
def test_misfits(tree, kind, message):
    with pytest.raises(kind, match=message):
        Structure({"a": 1, "b": [{"x": 2}]}).flatten(tree, "g")


def test_a_missing_key_is_not_made_up():
    """A defaultdict would invent the gradient of a misspelt key."""
    grads = collections.defaultdict(lambda: 0.0, W=1, bias=2)
    with pytest.raises(ValueError, match="missing 'b', unexpected 'bias'"):
        Structure({"W": 1, "b": 2}).flatten(grads, "grads")
    assert sorted(grads) == ["W", "bias"]
