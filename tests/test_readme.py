"""The Python examples of the README, run one after another as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import anywidth as aw

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run(tmp_path: Path, monkeypatch, capsys) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    batch = torch.randn(4, 3, 32, 32), torch.randint(100, (4,))
    names: dict[str, Any] = {"__name__": "readme", "loader": [batch], "test_loader": [batch]}
    first, *others = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(first, str(README), "exec"), names)
    full, small = names["net"], names["small"]
    assert capsys.readouterr().out.startswith("width,macs,params,accuracy\n0.25,")
    assert sum(p.numel() for p in small.parameters()) == aw.params(full, 0.25) < aw.params(full, 1.0)
    for block in others:
        exec(compile(block, str(README), "exec"), names)
    assert names["net"] is not full
    assert names["net"].config(0.35) == full.config(0.35)
