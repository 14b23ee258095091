"""The parts of the queue in `gpu.sh`: commands, requirements, and how to read their results."""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "Part", "parts"]

PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "jsonargparse": "jsonargparse[signatures]"}
"""The package of a module whose name differs."""

STEP = ("torch", "numpy", "safetensors")
REPRODUCE = (
    *STEP, "torchvision", "lightning", "torchmetrics", "scipy", "jsonargparse", "yaml", "rich", "PIL",
    "joblib", "filelock",
)  # fmt: skip

SMALL = ("--channels-last", "--batches", "2", "--rounds", "1", "--models")

Read = Callable[[str, Path], tuple[Any, bool | None]]
"""Maps the output of a command and its folder to the result, and to whether the wanted value was reached."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One command of the queue.

    Attributes:
        name: Name of its files.
        command: The command line, run from the root of the repository.
        needs: The modules it imports.
        read: Reads the result.
        wanted: The values to reach, for people.
        experiment: The experiment of `anywidth reproduce` it runs, if any.
        folder: The folder of the experiment, under the queue's.
        seeds: Stop the experiment once all of its cells for this many seeds are finished.
        data: Whether it trains on the dataset.
    """

    name: str
    command: Sequence[str]
    needs: Sequence[str]
    read: Read
    wanted: str = ""
    experiment: str = ""
    folder: str = ""
    seeds: int = 0
    data: bool = False


def parts(*, quick: bool, data: Sequence[str], out: Path, seeds: int) -> list[Part]:
    """All parts, in order of worth.

    Args:
        quick: Whether to run them in small on the CPU.
        data: The options of `anywidth reproduce` for the dataset.
        out: The folder of the queue.
        seeds: Number of seeds of the first two experiments, once everything is finished.
    """
    experiment = partial(_experiment, quick=quick, data=data, out=out)
    tests = Part(
        name="pass-graphs",
        command=[sys.executable, "-m", "pytest", "tests/training/test_pass_graphs.py", *_pytest_options()],
        needs=(*STEP, "torchvision", "pytest"),
        read=partial(_tests, quick=quick),
        wanted="all tests pass" if quick else "all tests pass, none skipped",
    )
    if quick:
        steps = [
            _step("sandwich_step", "sandwich", *SMALL, "resnet18", needs=(*STEP, "torchvision")),
            _step("nested_step", "nested", *SMALL, "resnet18", needs=(*STEP, "torchvision")),
        ]
    else:
        steps = _steps()
    return [
        tests,
        *steps,
        experiment("individual", seeds=seeds, until=1),
        experiment("nested", seeds=seeds, until=1),
        experiment("individual", seeds=seeds, until=seeds),
        experiment("nested", seeds=seeds, until=seeds),
        experiment("autoslim", seeds=1, until=1),
        experiment("beyond", seeds=1, until=1),
    ]


def _steps() -> list[Part]:
    cuda = ("--device", "cuda", "--precision", "bf16", "--channels-last")
    large = (*cuda, "--models", "resnet50", "--size", "224")
    sandwich = partial(_step, "sandwich_step", needs=(*STEP, "torchvision"), ratio="over_dense")
    nested = partial(_step, "nested_step", needs=(*STEP, "torchvision"))
    return [
        sandwich("sandwich", *cuda, "--batches", "256"),
        sandwich("sandwich-graphs", *cuda, "--batches", "256", "--graphs"),
        # 128 images as in the table of docs/training.md; 256 separately, because they may not fit into the memory
        sandwich("sandwich-224", *large, "--batches", "128"),
        sandwich("sandwich-224-graphs", *large, "--batches", "128", "--graphs"),
        sandwich("sandwich-224-256", *large, "--batches", "256"),
        sandwich("sandwich-224-256-graphs", *large, "--batches", "256", "--graphs"),
        nested("nested", *cuda, "--batches", "256"),
        nested("nested-224", *large, "--batches", "128"),
    ]


def _step(file: str, name: str, *options: str, needs: Sequence[str], ratio: str = "") -> Part:
    command = [sys.executable, f"benchmarks/{file}.py", *options]
    wanted = f"{ratio} <= 1.05" if ratio else ""
    return Part(name=f"step-{name}", command=command, needs=needs, read=partial(_rows, ratio=ratio), wanted=wanted)


def _experiment(
    experiment: str, *, seeds: int, until: int, quick: bool, data: Sequence[str], out: Path
) -> Part:  # fmt: skip
    small = ["--epochs", "1", "--model", "digits"] if quick else []
    headline = experiment == "individual" and not quick
    return Part(
        name=f"reproduce-{experiment}" + ("" if until == 1 else f"-{until}-seeds"),
        command=[
            sys.executable, "-m", "anywidth", "reproduce", experiment, "--scale", "full", *data, "--seeds", str(seeds),
            "--jobs", "1", "--device", "cpu" if quick else "cuda", "--out", str(out / experiment), "--networks",
            str(out / "networks"), *small,
        ],
        needs=REPRODUCE,
        read=_individual if headline else _curves,
        wanted="mean of 16 widths >= 73.5, no width below its network alone" if headline else "",
        experiment=experiment,
        folder=experiment,
        seeds=until,
        data=True,
    )  # fmt: skip


def _pytest_options() -> list[str]:
    """Options that also work without the plugins that `pyproject.toml` configures."""
    options = ["-q", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("pytest_timeout") is None:
        options += ["-W", "ignore:Unknown config option"]
    return options


def _tests(text: str, folder: Path, *, quick: bool) -> tuple[Any, bool | None]:
    """Numbers of tests by outcome."""
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", text)}
    good = "passed" in counts and not counts.keys() & {"failed", "error", "errors"}
    return counts, good and (quick or "skipped" not in counts)


def _rows(text: str, folder: Path, *, ratio: str = "") -> tuple[Any, bool | None]:
    """The rows that a benchmark wrote, and whether a ratio is at most 1.05 in all of them."""
    written = re.findall(r"^written to (.+)$", text, re.MULTILINE)
    if not written:
        return None, None
    rows = json.loads(Path(written[-1]).read_text())["rows"]
    return rows, all(row[ratio] <= 1.05 for row in rows) if ratio else None


def arms_of(folder: Path) -> dict[str, dict[Any, list[float]]]:
    """Accuracies of all finished seeds by arm and width, from the results or from finished cells."""
    arms: dict[str, dict[Any, list[float]]] = {}
    if (folder / "result.json").is_file():
        for arm, points in json.loads((folder / "result.json").read_text())["arms"].items():
            arms[arm] = {point["x"]: point["y"] for point in points}
        return arms
    for file in sorted((folder / "cells").glob("*-*.json")):
        for arm, points in json.loads(file.read_text())["arms"].items():
            for point in points:
                arms.setdefault(arm, {}).setdefault(point["x"], []).append(point["y"])
    return arms


def _curves(text: str, folder: Path) -> tuple[Any, bool | None]:
    """The mean of every arm, and its curve averaged over seeds."""
    arms = arms_of(folder)
    result = {
        arm: {"mean": _mean(curve), "curve": {str(x): round(statistics.mean(y), 2) for x, y in curve.items()}}
        for arm, curve in arms.items()
    }
    return result or None, None


def _individual(text: str, folder: Path) -> tuple[Any, bool | None]:
    """As `_curves`, with the smallest advantage of the US-Net over a network alone."""
    result, _ = _curves(text, folder)
    arms = arms_of(folder)
    net, alone = arms.get("US-Net", {}), arms.get("trained alone", {})
    if not net or not alone:
        return result, None
    nearest = {x: min(net, key=lambda other, x=x: abs(other - x)) for x in alone}
    worst = min(statistics.mean(net[nearest[x]]) - statistics.mean(alone[x]) for x in alone)
    result |= {"us_net_mean": _mean(net), "worst_difference": round(worst, 2)}
    return result, result["us_net_mean"] >= 73.5 and worst >= 0


def _mean(curve: Mapping[Any, Sequence[float]]) -> float:
    return round(statistics.mean(statistics.mean(y) for y in curve.values()), 2)
