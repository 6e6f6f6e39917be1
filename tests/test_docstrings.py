"""Every example in a public docstring runs, and every public name has a docstring."""

import doctest
import importlib
import pkgutil

import pytest

import instep

MODULES = ["instep"] + [
    module.name
    for module in pkgutil.walk_packages(instep.__path__, "instep.")
    if not module.name.endswith("._core")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    failures, _ = doctest.testmod(importlib.import_module(name))
    assert failures == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    for cls in (instep.SGD, instep.RMSprop, instep.Adam, instep.AdamW, instep.losses.mse):
        assert any(test.examples for test in finder.find(cls)), cls


def test_public_names_are_documented():
    for name in instep.__all__:
        assert getattr(instep, name).__doc__, name


def test_version_matches_the_metadata():
    metadata = pytest.importorskip("importlib.metadata")
    try:
        installed = metadata.version("instep")
    except metadata.PackageNotFoundError:
        pytest.skip("instep is not installed, only importable")
    assert instep.__version__ == installed
