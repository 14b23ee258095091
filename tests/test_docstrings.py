"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest

import anywidth

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(anywidth.__path__, "anywidth.")
    if not module.name.endswith("__main__")
)


def optional_packages() -> set[str]:
    """What extras bring, which may be missing."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    return {entry.split(">")[0].split("[")[0].replace("-", "_") for extra in extras.values() for entry in extra}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in optional_packages():
            raise
        pytest.skip(f"needs {error.name}, which belongs to an extra")
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


def test_public_functions_have_examples() -> None:
    finder = doctest.DocTestFinder()
    without = []
    for name in anywidth.__all__:
        thing = getattr(anywidth, name)
        if callable(thing) and not any(test.examples for test in finder.find(thing, name)):
            without.append(name)
    assert without == ["AnywidthError"]
