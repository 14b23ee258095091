"""The examples of docs/nested.md, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import anywidth as aw

PAGE = Path(__file__).parents[2] / "docs" / "nested.md"


def test_the_page_runs(capsys) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    net, images, unsure = names["net"], names["images"], names["unsure"]
    with torch.no_grad():
        torch.testing.assert_close(names["first"], net.subnet(0.25)(images))
        torch.testing.assert_close(names["better"], net.model(images[unsure]))
        torch.testing.assert_close(names["small"](images), names["first"])
    assert not net.statistics.needed  # the page says that batch norms of the body need no calibration
    printed = capsys.readouterr().out
    assert printed.startswith("width,macs,params,accuracy")
    weights = 32 * 64 * 9 * 8 * 8
    assert f"{aw.macs(net) + weights * 6 // 16}" in printed  # four equal shells keep 10 of 16 blocks
