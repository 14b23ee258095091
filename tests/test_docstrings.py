"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import anywidth

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(anywidth.__path__, "anywidth.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


def test_public_functions_have_examples() -> None:
    finder = doctest.DocTestFinder()
    without = []
    for name in anywidth.__all__:
        thing = getattr(anywidth, name)
        if callable(thing) and not any(test.examples for test in finder.find(thing, name)):
            without.append(name)
    assert without == ["AnywidthError"]
