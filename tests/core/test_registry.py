"""Registries: own records, those of entry points, and what is wrong with them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from anywidth.core.errors import SearchError
from anywidth.core.registry import Registry


@dataclass
class Colour:
    name: str


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Colour]:
    """A registry whose package has one module per colour."""
    folder = tmp_path / "own_colours"
    folder.mkdir()
    (folder / "__init__.py").write_text("LOADED = []\n")
    for name in ("red", "blue"):
        (folder / f"{name}.py").write_text(f"from own_colours import LOADED\nLOADED.append({name!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_colours", "own_colours.red", "own_colours.blue"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return Registry(Colour, kind="colour", package="own_colours", group="test.colours", error=SearchError)


def entry_points(folder: Path, text: str) -> None:
    info = folder / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[test.colours]\n{text}\n")


def test_every_file_of_the_package_is_imported_once(colours: Registry[Colour]) -> None:
    colours.add(Colour("red"))
    assert colours.find("red") == Colour("red")
    colours.names()
    import own_colours  # type: ignore[import-not-found]

    assert sorted(own_colours.LOADED) == ["blue", "red"]


def test_a_record_replaces_one_of_the_same_name(colours: Registry[Colour]) -> None:
    first, second = Colour("red"), Colour("red")
    colours.add(first)
    assert colours.add(second) is colours.find("red") is second


def test_entry_points_add_and_do_not_replace(
    colours: Registry[Colour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = colours.add(Colour("red"))
    with pytest.raises(SearchError, match="colour 'green' is unknown; choose one of red$"):
        colours.find("green")
    other = ModuleType("other")
    other.RED, other.GREEN = Colour("red"), Colour("green")
    monkeypatch.setitem(sys.modules, "other", other)
    entry_points(tmp_path, "red = other:RED\ngreen = other:GREEN")
    assert colours.find("green").name == "green"
    assert colours.names() == ["green", "red"]
    assert colours.find("red") is own


@pytest.mark.parametrize(
    ("value", "message"),
    [("nowhere:GREEN", "green = nowhere:GREEN .* cannot be loaded: No module named 'nowhere'"),
     ("json:dumps", "is a function; it must be a Colour")],
)  # fmt: skip
def test_an_entry_point_that_is_wrong_is_named(
    colours: Registry[Colour], tmp_path: Path, value: str, message: str
) -> None:
    entry_points(tmp_path, f"green = {value}")
    with pytest.raises(SearchError, match=message):
        colours.find("green")


def test_the_first_of_several_names_that_has_a_record_wins() -> None:
    colours = Registry(Colour, kind="colour", package="anywidth.core", group="colours", error=SearchError)
    assert colours.first_of(("red", "blue")) is None
    blue = colours.add(Colour("blue"))
    assert colours.first_of(("red", "blue")) is blue
    assert colours.first_of(("red",), "blue") is blue
    assert colours.first_of(("red",)) is None
