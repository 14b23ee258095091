"""Settings dataclasses as command line options and YAML."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import yaml

from anywidth.cli.options import make_parser
from anywidth.core.errors import SettingsError
from anywidth.runs.config_file import read_settings, write_settings
from anywidth.runs.options import option, to_settings, values_of
from anywidth.runs.settings import DataSettings, OptimizationSettings, OutputSettings, TrainSettings, WidthSettings
from anywidth.runs.values import ValueProblem, Widths, parse_shape, parse_widths


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Some of them."""

    names: tuple[str, ...] = option((), help="some names")
    chosen: Widths = option(16, name="widths", parse=parse_widths, help="some widths")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Some."""

    place: Path = option(positional=True, metavar="PLACE", help="a folder")
    batch_size: int = option(64, help="images")
    rate: float | None = option(None, help="a number, or none")
    kind: Literal["32", "16"] = option("32", help="a choice")
    owner: Owner = field(default_factory=Owner)


def parse(*arguments: str) -> Settings:
    parsed = make_parser(Settings, prog="x", description="").parse_args(list(arguments), defaults=False)
    return to_settings(Settings, values_of(parsed))


def test_options_of_every_kind():
    given = parse("a/b", "--batch-size", "8", "--rate", "0.5", "--kind", "16", "--names", "x", "y*", "--widths", "0.5")
    expected = Settings(
        place=Path("a/b"), batch_size=8, rate=0.5, kind="16", owner=Owner(names=("x", "y*"), chosen=(0.5,))
    )
    assert given == expected
    assert parse("a") == Settings(place=Path("a"))


def test_yaml_gives_what_the_command_line_gives(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("batch_size: 8\nkind: 16\nnames: [x]\nwidths: [0.5, 1]\n")
    given = parse("a", "--config", str(file), "--batch-size", "9")
    assert given == Settings(place=Path("a"), batch_size=9, kind="16", owner=Owner(names=("x",), chosen=(0.5, 1.0)))


def test_train_settings_survive_the_file(tmp_path):
    settings = TrainSettings(
        data=DataSettings(root=Path("/d")),
        optimization=OptimizationSettings(epochs=7, weight_decay=5e-5),
        widths=WidthSettings(frozen=("head.*", "a b"), evaluated=(0.25, 1.0)),
        output=OutputSettings(folder=Path("x")),
    )
    text = write_settings(settings, header="a comment")
    assert text.startswith("# a comment\n")
    assert "out" not in yaml.safe_load(text)
    (tmp_path / "config.yaml").write_text(text)
    again = read_settings(TrainSettings, tmp_path / "config.yaml")
    assert again == replace(settings, output=OutputSettings())


def test_a_value_out_of_range_in_a_file_is_an_error(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: -1\n")
    with pytest.raises(SettingsError, match="--epochs is -1"):
        read_settings(TrainSettings, tmp_path / "config.yaml")


@pytest.mark.parametrize("value", ["", "a", "0", 0, -1, [], [None], True, "0.5;1"])
def test_widths_that_cannot_be_read(value):
    with pytest.raises(ValueProblem):
        parse_widths(value)


@pytest.mark.parametrize("value", ["3", "3,4", "3,4,x", "3,0,4", 5, None])
def test_shapes_that_cannot_be_read(value):
    with pytest.raises(ValueProblem):
        parse_shape(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "abc"], "argument --rate: cannot read a number from 'abc'"),
        (["--rate", "nan"], "argument --rate: cannot read a number from 'nan'"),
        (["--batch-size", "1.5"], "argument --batch-size: cannot read a whole number from '1.5'"),
        (["--batch-size", "null"], "cannot read a whole number from 'null'"),
    ],
)
def test_what_is_no_number_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse("a", *arguments)
    *_, line = capsys.readouterr().err.splitlines()
    assert message in line


def test_numbers_in_yaml_are_not_rounded(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("place: a\nbatch_size: 1.5\n")
    with pytest.raises(SettingsError, match="whole number"):
        read_settings(Settings, file)
    file.write_text("place: a\nbatch_size: 8.0\nrate: null\n")
    assert read_settings(Settings, file) == Settings(place=Path("a"), batch_size=8)
