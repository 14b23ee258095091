"""The Python examples of docs/tasks.md, run one after another as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import anywidth as aw

PAGE = Path(__file__).parents[1] / "docs" / "tasks.md"


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "tasks"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert capsys.readouterr().out.startswith("width,macs,params,mIoU\n0.25,")
    assert aw.macs(names["net"], names["found"][0]) <= 0.5 * aw.macs(names["net"])
    assert (tmp_path / "psnr.png").exists()
    torch.testing.assert_close(names["Depth"]().distill(torch.ones(1), torch.zeros(1)), torch.tensor(1.0))
    found = names["half"]([torch.rand(3, 100, 120)])
    assert set(found[0]) == {"boxes", "scores", "labels"}
