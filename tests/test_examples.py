"""The examples run as they are, and are short."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TWO = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def run(name: str, *before: str, **environment: str) -> str:
    command = [sys.executable, *before, str(EXAMPLES / name), "--epochs", "1"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["plain_loop.py", "accelerate_loop.py"])
def test_a_loop_is_short(name) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


def test_a_plain_loop_runs(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["plain_loop.py", "--epochs", "1"])
    runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
    assert "width,macs,params,accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_a_loop_by_accelerate_runs() -> None:
    assert "width,macs,params,accuracy" in run("accelerate_loop.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("plain_loop.py", {}),
        ("accelerate_loop.py", {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}),
    ],
)
def test_a_loop_runs_in_two_processes(name, environment) -> None:
    found = run(name, *TWO, **environment)
    assert found.count("width,macs,params,accuracy") == 1  # only the first process speaks
