"""The spectrum of accuracy against cost, and the files it is written to."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import anywidth as aw
from anywidth.core.errors import CheckpointError, MissingExtraError, UncalibratedError
from anywidth.evaluation import Row, Spectrum, width_grid
from zoo import Case, find

SupernetOf = Callable[[Case], aw.Supernet]
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def net(supernet_of: SupernetOf) -> aw.Supernet:
    return supernet_of(find("residual"))


@pytest.fixture
def batches() -> Batches:
    return [(torch.randn(20, 3, 8, 8, dtype=torch.float64), torch.randint(4, (20,))) for _ in range(2)]


def test_rows_are_what_the_single_functions_say(net: aw.Supernet, batches: Batches) -> None:
    nonuniform = {"stem*": 0.5}
    widths = [0.25, 0.5, nonuniform, 1.0]
    aw.calibrate(net, batches, widths=widths)
    seen: list[Row] = []
    curve = aw.spectrum(net, batches, widths, name="mine", progress=seen.append)
    assert seen == list(curve) == list(curve.rows)
    assert curve.name == "mine"
    for row, width in zip(curve, widths, strict=True):
        assert row.macs == aw.macs(net, width)
        assert row.params == aw.params(net, width)
        assert row.score == aw.evaluate(net, batches, width)
    assert [row.width for row in curve] == [0.25, 0.5, "stem*=0.5", 1.0]


def test_rows_keep_every_digit_of_their_width(net: aw.Supernet, batches: Batches, tmp_path: Path) -> None:
    aw.calibrate(net, batches, widths=[1 / 3, 1])
    curve = Spectrum.from_json(aw.spectrum(net, batches, [1 / 3, 1]).to_json(tmp_path / "spectrum.json"))
    assert [row.width for row in curve] == [1 / 3, 1.0]
    assert all(isinstance(row.width, float) for row in curve)


def test_a_number_of_widths_is_an_even_grid(net: aw.Supernet, batches: Batches) -> None:
    aw.calibrate(net, batches, widths=width_grid(net.min_width, 5))
    curve = aw.spectrum(net, batches, 5)
    assert [row.width for row in curve] == [0.25, 0.4375, 0.625, 0.8125, 1.0]
    assert width_grid(0.25, 1) == [1.0]


def test_width_without_statistics_is_an_error(net: aw.Supernet, batches: Batches) -> None:
    aw.calibrate(net, batches, widths=[0.5])
    with pytest.raises(UncalibratedError, match="width 0.25 .*calibrated: 0.5"):
        aw.spectrum(net, batches, [0.5, 0.25])


@pytest.fixture
def curve() -> Spectrum:
    rows = [(0.25, 1_000_000, 900, 61.23456), (0.5, 4_000_000, 3_000, 80.0), (1.0, 16_000_000, 9_000, 90.5)]
    return Spectrum([Row(width=w, macs=m, params=p, score=a) for w, m, p, a in rows], "net")


def test_is_a_sequence(curve: Spectrum) -> None:
    assert len(curve) == 3
    assert curve[0].width == 0.25
    assert curve[-1] == list(curve)[-1]
    assert [row.macs for row in curve[:2]] == [1_000_000, 4_000_000]


def test_csv(curve: Spectrum, tmp_path: Path) -> None:
    path = curve.to_csv(tmp_path / "new" / "curve.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["width", "macs", "params", "accuracy"]
    assert rows[0] == {"width": "0.25", "macs": "1000000", "params": "900", "accuracy": "61.2346"}
    assert path.read_text() == curve.csv()


def test_json_there_and_back(curve: Spectrum, tmp_path: Path) -> None:
    path = curve.to_json(tmp_path / "curve.json")
    again = Spectrum.from_json(path)
    assert (again.rows, again.name, again.quantity) == (curve.rows, curve.name, curve.quantity)
    assert json.loads(path.read_text())["rows"][0]["score"] == 61.23456


def test_writing_into_a_file_as_a_folder_is_a_clear_error(curve: Spectrum, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        curve.to_csv(tmp_path / "file" / "curve.csv")


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_picture(curve: Spectrum, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    alone = Spectrum([Row(width=0.5, macs=4_000_000, params=1, score=82.0)])
    path = tmp_path / f"curve.{ending}"
    axes = curve.plot(path, others={"alone": alone}, title="A title")
    assert path.stat().st_size > 2000
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(start)
    assert axes.get_xscale() == "log"
    (line,) = axes.lines
    assert list(line.get_xdata()) == [row.macs for row in curve]  # type: ignore[arg-type]
    assert list(line.get_ydata()) == [row.score for row in curve]  # type: ignore[arg-type]
    assert "accuracy" in axes.get_ylabel()
    assert "MACs" in axes.get_xlabel()
    assert "A title" in axes.get_title(loc="left")
    assert "alone" in [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]


def test_missing_plot_library_is_named(curve: Spectrum, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anywidth\[plots\]'"):
        curve.plot(tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


def test_picture_of_one_row_and_of_named_configs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [Row(width="config ab", macs=10, params=1, score=1.0), Row(width=0.5, macs=12, params=1, score=2.0)]
    Spectrum(rows[:1]).plot(tmp_path / "one.png")
    Spectrum(rows).plot(tmp_path / "two.png")
    assert (tmp_path / "one.png").exists()
    assert (tmp_path / "two.png").exists()
