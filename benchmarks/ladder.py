"""Speed, size, memory and switching of one file with several widths, and of widths loaded together.

    uv run python benchmarks/ladder.py [--rounds 40] [--models resnet18,mobilenet_v2] [--size 64]

Speed is the time of the ladder file at a width over that of the dense file of the width, both in ONNX Runtime on one
thread. Size is the size of the ladder file over the bytes of the full network's parameters, and over parameters plus
statistics (two numbers per batch-norm channel and width). Memory is the growth of the resident memory of a fresh
process after all widths were opened and called and freed memory was returned, over the growth for the full width alone:
its dense file, or for PyTorch the same folder with only that width. There are three variants: one session of the ladder
file, one session per width of it (`Ladder.load` of the file), and PyTorch on shared weights (`Ladder.load` of a folder,
or `Ladder.share`). Switching is the time to choose the width. `alternating` is the time of calls that change the width
every time over the mean of calls that do not, which shows the cost of caches.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import interleaved, ratio, write_result
from torch import nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.export.session import open_session
from anywidth.models import build_model
from anywidth.serving import Ladder
from anywidth.serving.memory import give_back_memory

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def supernet(name: str, size: int) -> aw.Supernet:
    """A supernet that can be exported at all widths of the ladder."""
    torch.manual_seed(0)
    model = build_model(f"torchvision/{name}", num_classes=1000, input_shape=(3, size, size)).eval()
    net = aw.Supernet(model, torch.randn(1, 3, size, size))
    share_statistics(net, WIDTHS)
    return net


def statistics_bytes(net: aw.Supernet) -> int:
    """Bytes of two numbers per channel of every batch norm at every width."""
    return sum(
        8 * module.num_features
        for width in WIDTHS
        for module in net.extract(width).modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    )


def resident() -> int:
    """Resident bytes of this process, without freed memory."""
    gc.collect()
    give_back_memory()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def grown(way: str, widths: tuple[float, ...], file: str, size: int) -> int:
    """Bytes by which a process grows when it opens widths and calls each once; run in a separate process."""
    x = np.zeros((1, 3, size, size), np.float32)
    calls: list[Callable[[], Any]] = []
    if way == "shared":
        aw.load(Path(file).with_name("warm"))  # what the first supernet of a process takes is code
        before = resident()
        run = Ladder.load(Path(file).with_name("run"), widths)
        calls = [lambda width=width: run.run([x], width=width) for width in widths]
    else:
        open_session(Path(file).with_name("warm.onnx"))
        before = resident()
        if way == "one session":
            session = open_session(Path(file))
            feed = {session.get_inputs()[0].name: x}
            calls = [lambda w=w: session.run(None, {**feed, "width": np.array([w], np.float32)}) for w in widths]
        elif way == "dense":
            session = open_session(Path(file).with_name("1.0.onnx"))
            calls = [lambda: session.run(None, {session.get_inputs()[0].name: x})]
        else:
            ladder = Ladder.load(file, widths)
            calls = [lambda width=width: ladder.run([x], width=width) for width in widths]
    for call in calls:
        call()
    return resident() - before


def memory(way: str, widths: tuple[float, ...], file: Path, size: int) -> int:
    """`grown` in a fresh process, the median of three."""
    command = [sys.executable, __file__, "--grown", json.dumps([way, widths, str(file), size])]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    return int(statistics.median(int(text.split()[-1]) for text in found))


def switching(run: Callable[[float], Any], rounds: int) -> float:
    """Time of calls that alternate between two widths over calls in two blocks, median over rounds."""
    a, b = WIDTHS[0], WIDTHS[1]

    def alternate() -> None:
        for _ in range(10):
            run(a)
            run(b)

    def blocks() -> None:
        for width in (a, b):
            for _ in range(10):
                run(width)

    return ratio(interleaved({"alternate": alternate, "blocks": blocks}, rounds=rounds), "alternate", "blocks")


def measure(name: str, size: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """All rows of a model."""
    net = supernet(name, size)
    written = aw.export_ladder(net, WIDTHS, folder / "ladder.onnx")
    full = 4 * aw.params(net)
    net.save(folder / "run")
    warm = aw.Supernet(build_model("digits", num_classes=2, input_shape=(1, 8, 8)).eval(), torch.randn(1, 1, 8, 8))
    warm.save(folder / "warm")
    aw.export(warm, 1.0, folder / "warm.onnx")
    session = open_session(written.path)
    ladder, shared = Ladder.load(written.path), Ladder.share(net, WIDTHS)
    rows: list[dict[str, Any]] = []
    size_row = {
        "model": name, "size_over_parameters": round(written.size / full, 4),
        "size_over_parameters_and_statistics": round(written.size / (full + statistics_bytes(net)), 4),
    }  # fmt: skip
    rows.append(size_row)
    print(size_row, flush=True)
    for width in WIDTHS:
        dense = open_session(aw.export(net, width, folder / f"{width}.onnx").path)
        input_name, chosen = dense.get_inputs()[0].name, np.array([width], np.float32)
        for batch in (1, 8):
            x = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
            times = interleaved(
                {
                    "dense": lambda d=dense, n=input_name, x=x: d.run(None, {n: x}),
                    "ladder": lambda n=input_name, x=x, w=chosen: session.run(None, {n: x, "width": w}),
                    "load": lambda x=x, w=width: ladder.run([x], width=w),
                    "share": lambda x=x, w=width: shared.run([x], width=w),
                },
                rounds=rounds,
            )
            row: dict[str, Any] = {
                "model": name, "width": width, "batch": batch,
                "dense_ms": round(1e3 * statistics.median(times["dense"]), 3),
                **{f"{way}_over_dense": round(ratio(times, way, "dense"), 3) for way in ("ladder", "load", "share")},
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    x = np.zeros((1, 3, size, size), np.float32)
    start = time.perf_counter()
    for number in range(100_000):
        ladder._steps.get(WIDTHS[number % 4])
    lookup = (time.perf_counter() - start) / 100_000 * 1e3
    alone = {way: memory(way, (1.0,), written.path, size) for way in ("dense", "shared")}
    for way in ("one session", "sessions", "shared"):
        row = {
            "model": name, "way": way,
            "memory_MB": round(memory(way, WIDTHS, written.path, size) / 1e6, 1),
            "full_width_alone_MB": round(alone["shared" if way == "shared" else "dense"] / 1e6, 1),
            "switch_ms": round(lookup, 5),
            "alternating": round(
                switching(
                    {
                        "one session": lambda w: session.run(
                            None, {session.get_inputs()[0].name: x, "width": np.array([w], np.float32)}
                        ),
                        "sessions": lambda w: ladder.run([x], width=w),
                        "shared": lambda w: shared.run([x], width=w),
                    }[way],
                    rounds,
                ),
                3,
            ),
        }  # fmt: skip
        row["memory_over_full"] = round(row["memory_MB"] / row["full_width_alone_MB"], 3)
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--grown", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grown:
        way, widths, file, size = json.loads(arguments.grown)
        print(grown(way, tuple(widths), file, size))
        return
    rows: list[dict[str, Any]] = []
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, arguments.size, arguments.rounds, Path(folder))
    print("written to", write_result("ladder", rows))


if __name__ == "__main__":
    main()
