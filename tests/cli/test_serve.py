"""`anywidth serve`, as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import anywidth as aw
from anywidth.cli import main
from anywidth.cli.serve import _accuracy
from anywidth.evaluation import Row, Spectrum

BODY = {"inputs": [{"name": "input", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.1] * 64}]}


@contextlib.contextmanager
def serving(run: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address."""
    command = [sys.executable, "-m", "anywidth", "serve", str(run), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"available at (http://\S+)", line):
                yield process, found[1]
                break
        else:
            raise AssertionError(process.stderr.read())
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> str:
    """Ask the process to end; what it still says."""
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_run_is_served_with_its_widths_classes_and_accuracy(finished, tmp_path, engine):
    token = tmp_path / "token"
    token.write_text("geheim\n")
    options = ["--engine", engine, "--slo-ms", "500", "--max-batch", "4", "--token-file", str(token), "--name", "tiny"]
    options += ["--log", str(tmp_path / "decisions.log")]
    with serving(finished, *options) as (process, address):
        headers = {"Authorization": "Bearer geheim"}
        assert httpx.get(f"{address}/v2/models/tiny").status_code == 401
        with httpx.Client(base_url=address, headers=headers) as client:
            assert client.get("/v2/models/tiny").json()["platform"] == f"anywidth_{engine}"
            spectrum = client.get("/spectrum").json()
            rows = json.loads((finished / "spectrum.json").read_text())["rows"]
            assert [(e["width"], e["accuracy"], e["macs"]) for e in spectrum["widths"]] == [
                (row["width"], row["score"], row["macs"]) for row in rows
            ]
            # The picture that is bright where class 2 is.
            pixels = np.zeros((8, 8), np.uint8) + 60
            pixels[4:6] = 200
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            found = client.post("/predict?width=1", content=file.getvalue()).json()
            assert found["width"] == 1
            assert sorted(entry["class"] for entry in found["predictions"]) == ["0", "1", "2"]
            metadata = client.get("/v2/models/tiny").json()
            body = {"inputs": [{**BODY["inputs"][0], "name": metadata["inputs"][0]["name"]}]}
            assert client.post("/v2/models/tiny/infer", json=body).status_code == 200
        assert "stopped after answering 2 requests" in end(process)
    assert (
        len(re.findall(r"DEBUG width 1 \((load|asked)\): 1 of 1 rows", (tmp_path / "decisions.log").read_text())) == 2
    )


def test_accuracy_is_found_by_the_network_of_a_width(tmp_path):
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    rows = [
        Row(width=width, macs=1, params=1, score=accuracy)
        for width, accuracy in ((1 / 3, 33.0), (1.0, 100.0), ("0=0.5", 50.0))
    ]
    Spectrum(rows).to_json(tmp_path / "spectrum.json")
    opened = SimpleNamespace(folder=SimpleNamespace(file=lambda name: tmp_path / name), net=net)
    assert _accuracy(cast(Any, opened)) == {net.config(0.333): 33.0, net.config(1.0): 100.0}


@pytest.mark.slow
def test_a_nested_run_is_served_with_refinement(train, tmp_path):
    assert train("--out", str(tmp_path / "run"), "--nested", "0.25,0.5,1") == 0
    with serving(tmp_path / "run", "--refine", "--slo-ms", "500", "--max-batch", "4") as (process, address):
        answer = httpx.post(f"{address}/v2/models/digits/infer", json=BODY).json()
        assert answer["parameters"]["width"] == 1
        narrow = httpx.post(f"{address}/v2/models/digits/infer", json={**BODY, "parameters": {"width": 0.5}}).json()
        assert narrow["parameters"]["width"] == 0.5
        assert narrow["outputs"][0]["data"] != answer["outputs"][0]["data"]
        assert "stopped after answering 2 requests" in end(process)


class Load:
    """Clients in threads that ask without end and note what they get."""

    def __init__(self, address: str, count: int = 4) -> None:
        self.address, self.seen, self.stop, self.more = address, Counter(), threading.Event(), threading.Condition()
        self.threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        client = httpx.Client(timeout=30)
        while not self.stop.is_set():
            try:
                response = client.post(f"{self.address}/v2/models/digits/infer", json=BODY)
                kind = str(response.status_code)
                if response.status_code == 200:
                    assert len(response.json()["outputs"][0]["data"]) == 3
            except httpx.TimeoutException:
                kind = "silence"
            except httpx.HTTPError:
                kind = "error"
            with self.more:
                self.seen[kind] += 1
                self.more.notify_all()
        client.close()

    def wait_for(self, kind: str, count: int) -> None:
        """Wait until so many requests have ended in this way."""
        with self.more:
            assert self.more.wait_for(lambda: self.seen[kind] >= count, timeout=60)

    def end(self) -> Counter[str]:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
        return self.seen


@pytest.mark.slow
def test_killed_and_started_again_under_load_every_request_gets_an_answer_or_a_clear_error(finished):
    with serving(finished, "--max-batch", "4", "--slo-ms", "200") as (process, address):
        load = Load(address)
        load.wait_for("200", 6)
        out = end(process)  # asked to end: what was accepted is answered
        answers = int(re.search(r"stopped after answering (\d+) requests", out)[1])
        load.wait_for("200", answers)
        counted = load.seen["200"]
        assert counted == answers > 5
        port = address.rpartition(":")[2]
        with serving(finished, "--port", port, "--max-batch", "4", "--slo-ms", "200") as (again, same):
            assert same == address
            load.wait_for("200", counted + 6)
            errors = load.seen["error"]
            again.kill()  # without notice
            again.wait()
            load.wait_for("error", errors + 1)
        seen = load.end()
        assert seen["200"] > counted + 5
        assert seen["error"] > 0
        assert set(seen) <= {"200", "503", "error"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slo-ms", "0"], "--slo-ms is 0.0; give a number above 0"),
        (["--load", "1.5"], "--load is 1.5; give a share above 0 and at most 1"),
        (["--refine"], "--refine needs a nested network"),
        (["--refine", "--engine", "onnx"], "--refine needs --engine torch"),
        (["--port", "70000"], "--port is 70000; give a port from 0 to 65535"),
        (["--widths", "0.1"], "width 0.1 is outside [0.25, 1]"),
        (["--token-file", "nowhere"], "cannot read --token-file nowhere"),
        (["--log", "nowhere/log"], "cannot write --log nowhere/log"),
        (["--name", "a/b"], "the name 'a/b' is part of URLs"),
    ],
)
def test_what_makes_no_sense_is_one_line(finished, capsys, arguments, message):
    assert main(["serve", str(finished), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_port_that_is_taken_is_one_line(finished, capfd):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", str(finished), "--port", port, "--max-batch", "1"]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}; choose another one" in capfd.readouterr().err


def test_a_missing_extra_is_one_line(finished, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(finished)]) == 2
    assert "pip install 'anywidth[serve]'" in capsys.readouterr().err


def test_beyond_this_machine_without_a_token_is_warned_of(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("{}")
    assert main(["serve", str(tmp_path), "--host", "0.0.0.0"]) == 2
    assert "warning: anyone who reaches 0.0.0.0 can use this server" in capsys.readouterr().err


def test_a_missing_run_is_one_line(tmp_path, capsys):
    assert main(["serve", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
