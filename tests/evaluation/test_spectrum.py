"""The spectrum as rows, files and picture."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.errors import DataError, MissingExtraError
from anywidth.evaluation import Spectrum


@pytest.fixture
def net() -> aw.Supernet:
    return aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(1, 4))


def loader(net: aw.Supernet) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(50, 4)
    y = net.model(x).argmax(1)
    return [(x[:33], y[:33]), (x[33:], y[33:])]


def test_every_sample_counts_the_same(net: aw.Supernet) -> None:
    batches = loader(net)
    assert aw.evaluate(net, batches) == 100.0
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    wanted = float((net.subnet(0.25)(x).argmax(1) == y).double().mean()) * 100
    assert aw.evaluate(net, batches, 0.25) == pytest.approx(wanted, abs=1e-9)


def test_rows_and_files(net: aw.Supernet, tmp_path: Path) -> None:
    seen = []
    curve = aw.spectrum(net, loader(net), 4, progress=seen.append)
    assert [row.width for row in curve] == [0.25, 0.5, 0.75, 1.0]
    assert list(curve) == seen
    assert [row.macs for row in curve] == [7 * 8, 7 * 16, 7 * 24, 7 * 32]
    assert [row.params for row in curve] == [8 * k + 3 for k in (8, 16, 24, 32)]
    assert curve.to_csv(tmp_path / "s.csv").read_text().splitlines()[0] == "width,macs,params,accuracy"
    assert list(Spectrum.from_json(curve.to_json(tmp_path / "s.json"))) == list(curve)
    curve.plot(tmp_path / "s.png", others={"alone": curve}, title="a test")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv", "s.json", "s.png"]


def test_a_missing_plot_library_is_named(net: aw.Supernet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    curve = aw.spectrum(net, loader(net), 2)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'anywidth\[plots\]'"):
        curve.plot(tmp_path / "s.png")


def test_no_data_is_an_error(net: aw.Supernet) -> None:
    with pytest.raises(DataError, match="no data"):
        aw.evaluate(net, [])
