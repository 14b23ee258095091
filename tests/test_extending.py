"""The examples of docs/extending.md, run as they stand there."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import ExportError, SearchError
from anywidth.export import FORMATS
from anywidth.groups import OPERATORS
from anywidth.search import METHODS, Scorer, SearchData, search
from built_once import built_once

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, Any]]:
    names: dict[str, Any] = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        for registry in (OPERATORS, FORMATS, METHODS):
            registry.names()  # loads the records
            patch.setattr(registry, "_records", dict(registry._records))
        for block in BLOCKS:
            exec(compile(block, str(PAGE), "exec"), names)
        yield names


@pytest.fixture
@built_once
def small() -> aw.Supernet:
    return aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.randn(2, 4))


def scorer_of(net: aw.Supernet) -> Scorer:
    return Scorer(net, SearchData.split([(torch.randn(40, 4), torch.randint(2, (40,)))]), aw.macs)


def test_a_rule_makes_an_operator_elastic(page: dict[str, Any]) -> None:
    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)
            self.scale = nn.Parameter(torch.rand(16))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(page["scaled"](self.first(x), self.scale))

    net = aw.Supernet(Scaling(), torch.randn(2, 3, 4, 4))
    assert dict(net.config(0.5)) == {"first": 8}
    assert net.subnet(0.5).scale.shape == (8,)
    assert not net.analysis.unknown


def test_an_adapter_sets_what_has_to_follow(page: dict[str, Any]) -> None:
    net = page["net"]
    assert net.subnet(0.5).shape == "16x16"
    assert net.subnet(0.25).shape == "8x16"
    assert net.model.shape == "32x16"
    assert net.subnet(0.5)(torch.randn(2, 3, 4, 4)).shape == (2, 8, 4, 4)


def test_an_adapter_that_changes_the_function_is_refused(page: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), page["ScaledLinear"](16, 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(model, torch.randn(2, 4))
    assert not net.analysis.elastic
    assert "differs from the masked one" in {group.name: group.frozen for group in net.groups}["0"]


def test_without_its_adapter_a_module_freezes() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 8, 1)
            self.shape = "32x16"

        def forward(self, x: Tensor) -> Tensor:
            channels, positions = (int(number) for number in self.shape.split("x"))
            return self.second(self.first(x).view(-1, channels, positions).relu().view(-1, channels, 4, 4))

    with pytest.warns(UserWarning, match="only 0% of the MACs"):
        net = aw.Supernet(Plain(), torch.randn(1, 3, 4, 4))
    assert "does not run" in net.groups[0].frozen


def test_a_task_is_a_class(page: dict[str, Any]) -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)), torch.randn(2, 4))
    aw.sandwich_step(net, torch.randn(8, 4), torch.randint(5, (8, 1)).float(), task=page["Counts"]())
    assert all(parameter.grad is not None for parameter in net.model.parameters())


def test_a_format_is_one_record(page: dict[str, Any], small: aw.Supernet, tmp_path: Path) -> None:
    written = aw.export(small, 0.5, tmp_path / "half.npz")
    assert (written.format, written.difference) == ("npz", 0.0)
    with np.load(written.path) as arrays:
        assert arrays["0.weight"].shape == (16, 4)
    with pytest.raises(ExportError, match="differs from the network by"):
        aw.export(small, 0.25, tmp_path / "quarter.npz", tolerance=-1.0)
    assert [file.name for file in tmp_path.iterdir()] == ["half.npz"]


def test_a_search_method_is_one_record(page: dict[str, Any], small: aw.Supernet) -> None:
    found = search(scorer_of(small), "60%", "uniform", evaluations=4)
    assert dict(found[0]) in [dict(small.config(width)) for width in (0.25, 0.4375)]


def test_other_packages_bring_records_as_entry_points(
    small: aw.Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_package").mkdir()
    for name, word in (("npz", "NPZ = "), ("uniform", "UNIFORM = "), ("scaled", "SCALED = ")):
        (block,) = [block for block in BLOCKS if word in block]
        (tmp_path / "my_package" / f"{name}.py").write_text(block)
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = re.sub(r'project.entry-points."(.*?)"', r"\1", text).replace('"', "")
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(lines)
    for registry in (OPERATORS, FORMATS, METHODS):
        brought = ("npz", "uniform", "mine.scaled")
        own = {name: registry.find(name) for name in registry.names() if name not in brought}
        monkeypatch.setattr(registry, "_records", own)
        monkeypatch.setattr(registry, "_unknown", set())
    with pytest.raises(ExportError, match="matches no format"):
        aw.export(small, 0.5, tmp_path / "half.npz")
    with pytest.raises(SearchError, match="unknown; choose one of evolution, greedy, random"):
        METHODS.find("uniform")
    monkeypatch.syspath_prepend(tmp_path)
    found = OPERATORS.first_of(("mine.scaled.default", "mine.scaled"))
    assert found is not None
    assert found.labels.__module__ == "my_package.scaled"
    assert aw.export(small, 0.5, tmp_path / "half.npz").format == "npz"
    assert len(search(scorer_of(small), "60%", "uniform", evaluations=4)) == 1
