"""The examples of docs/extending.md, run as they stand there."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


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
