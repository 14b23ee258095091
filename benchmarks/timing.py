"""Interleaved timing: every variant runs once per round, and ratios are taken within a round."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["interleaved", "machine", "measured", "ratio", "suffix", "write_result"]


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of every variant in every round; the order changes between rounds."""
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            variants[name]()
            if number >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Mapping[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of the time of `a` divided by that of `b`."""
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


def measured(
    measure: Callable[[str, int, argparse.Namespace], dict[str, Any]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of all models and batch sizes of the arguments, printed one by one."""
    rows = []
    for name in arguments.models.split(","):
        for batch in map(int, arguments.batches.split(",")):
            rows.append(measure(name, batch, arguments))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def suffix(parts: Mapping[str, bool]) -> str:
    """The parts of a name that apply, such as options that differ from their defaults."""
    return "".join(f"_{part}" for part, wanted in parts.items() if wanted)


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine and versions of the measurement."""
    return {
        **({"gpu": torch.cuda.get_device_name(device)} if device != "cpu" else {}),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def write_result(name: str, rows: list[dict[str, Any]], *, device: str = "cpu") -> Path:
    """Write rows as JSON, named after benchmark, hardware and date.

    The environment variable `BENCHMARK_RESULTS` names the folder; by default it is `benchmarks/results`.
    """
    folder = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")
    folder.mkdir(parents=True, exist_ok=True)
    hardware = f"cpu{torch.get_num_threads()}" if device == "cpu" else machine(device)["gpu"].split()[1].lower()
    path = folder / f"{name}_{hardware}_{time.strftime('%Y-%m-%d')}.json"
    path.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=2) + "\n")
    return path
