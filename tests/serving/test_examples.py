"""The examples run as they are against a server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples" / "serving"


def client() -> Any:
    spec = importlib.util.spec_from_file_location("serving_client", EXAMPLES / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_python_client(address, served, capsys, tmp_path):
    images = np.random.default_rng(3).normal(size=(5, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    client().main([str(tmp_path / "images.npy"), "--address", address, "--model", "tiny", "--width", "0.5"])
    out = capsys.readouterr().out
    assert out.startswith(f"width 0.5, {served.point(0.5).macs:,} MACs, ")
    assert f"classes: {served.ladder.run([images], width=0.5)[0].argmax(1).tolist()}" in out
    client().main(["--address", address, "--model", "tiny", "--budget", f"macs<={served.point(0.25).macs}"])
    assert capsys.readouterr().out.startswith("width 0.25, ")


def test_the_curl_client(address, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    done = subprocess.run(
        [str(EXAMPLES / "client.sh"), str(tmp_path / "red.png"), f"http://{address}", "tiny"],
        capture_output=True, text=True, timeout=30, env={**os.environ, "TOKEN": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"datatype":"FP32","shape":[-1,3,8,8]' in done.stdout
    assert done.stdout.count('"predictions"') == 2
    assert "anywidth_queue_requests 0.0" in done.stdout


def test_the_dockerfile_is_as_it_should_be():
    done = subprocess.run(["hadolint", str(EXAMPLES / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
