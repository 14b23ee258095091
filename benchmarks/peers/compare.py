"""Runs the arms and keeps one record per arm and seed."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anywidth.core.files import write_atomically
from anywidth.reproduce import PRESETS, Context, Setup
from peers.fastnas import fastnas
from peers.job import Job
from peers.measure import OverBudgetError, measured
from peers.ours import alone, nested, us_net
from peers.pruned import pruned_globally, pruned_uniformly

__all__ = ["ARMS", "Arm", "compare", "setup_of"]

_KEPT = (
    "data", "image_size", "augment", "train_images", "test_images", "model", "batch_size", "lr", "weight_decay",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to obtain the four networks.

    Attributes:
        title: Its name in the table.
        run: Returns the networks, from narrow to wide.
        package: The package it needs besides anywidth's, and the module that it imports.
    """

    title: str
    run: Callable[[Job], list[nn.Module]]
    package: tuple[str, str] | None = None


ARMS = {
    "nested": Arm(title="anywidth, nested with 1.25 times the channels", run=nested),
    "us-net": Arm(title="anywidth, US-Net", run=us_net),
    "alone": Arm(title="four networks trained alone", run=alone),
    "fastnas": Arm(title="ModelOpt, FastNAS", run=fastnas, package=("nvidia-modelopt", "modelopt.torch.prune")),
    "pruned-globally": Arm(
        title="Torch-Pruning, layers ranked together", run=pruned_globally, package=("torch-pruning", "torch_pruning")
    ),
    "pruned-uniformly": Arm(
        title="Torch-Pruning, every layer alike", run=pruned_uniformly, package=("torch-pruning", "torch_pruning")
    ),
}


def setup_of(data: str, *, quick: bool) -> Setup:
    """The settings of `anywidth reproduce --scale cifar`, with 512 training and 256 test images in a quick run."""
    return PRESETS["cifar"].changed(
        data=data, train_images=512 if quick else None, test_images=256 if quick else None
    )  # fmt: skip


def compare(
    setup: Setup, out: Path, *, arms: Sequence[str], seeds: Sequence[int], seconds: float, say: Callable[[str], object]
) -> bool:
    """Run all arms with all seeds, except finished ones; returns whether all are finished.

    An arm fails if it delivers a network that exceeds its budget.

    Args:
        setup: Data, model and recipe.
        out: Folder of the records.
        arms: Names of arms.
        seeds: Seeds of weights and batches.
        seconds: Processor time of every arm.
        say: Receives a line about each arm.

    Raises:
        ValueError: a record in the folder has other settings.
    """
    known = {name: value for name, value in setup.as_json().items() if name in _KEPT} | {"seconds": seconds}
    missing = set()
    for seed in seeds:
        for name in arms:
            file = out / f"{name}-{seed}.json"
            if file.exists():
                if json.loads(file.read_text())["setup"] != known:
                    raise ValueError(f"{file} has other settings; choose another folder with --out")
                say(f"{name}, seed {seed}: finished before")
                continue
            if problem := _import(ARMS[name]):
                if name not in missing:
                    say(f"{name}: skipped, {problem}; run benchmarks/peers/run.sh, which installs what it needs")
                missing.add(name)
                continue
            try:
                record = {"arm": name, "seed": seed, "setup": known, **_result(setup, out, name, seed, seconds)}
            except OverBudgetError as error:
                say(f"{name}, seed {seed}: failed, {error}")
                missing.add(name)
                continue
            text = json.dumps(record, indent=1) + "\n"
            write_atomically(file, lambda path, text=text: path.write_text(text))
            say(_line(record))
    return not missing


def _import(arm: Arm) -> str:
    """Import the tool of an arm before its time starts; returns why that is not possible, if so."""
    if arm.package is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ModelOpt's, without a GPU
            importlib.import_module(arm.package[1])
    except ImportError as error:
        return f"because {arm.package[0]} cannot be imported ({error})"
    return ""


def _result(setup: Setup, out: Path, name: str, seed: int, seconds: float) -> dict[str, Any]:
    """Networks, times and versions of one arm."""
    context = Context(setup, seed, device=torch.device("cpu"), data_root=out, folder=out)
    torch.manual_seed(seed)
    job = Job(context, seconds)
    job.restart()
    networks = ARMS[name].run(job)
    spent = job.spent()
    package = ARMS[name].package
    return {
        "networks": measured(networks, job.budgets, job.example, context.loaders().test),
        "seconds": round(spent, 2),
        "phases": [asdict(phase) for phase in job.phases],
        "versions": {
            each: importlib.metadata.version(each) for each in ("anywidth", "torch", *([package[0]] if package else []))
        },
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }


def _line(record: dict[str, Any]) -> str:
    scores = " / ".join(f"{network['accuracy']:.1f}" for network in record["networks"])
    used = " / ".join(f"{network['macs'] / network['budget']:.2f}" for network in record["networks"])
    phases = ", ".join(f"{p['name']} {p['epochs']:.2f} epochs {p['seconds']:.1f} s" for p in record["phases"])
    time = record["seconds"]
    return (
        f"{record['arm']}, seed {record['seed']}: {scores} %, MACs {used} of the budgets, {time:.1f} s "
        f"({time / record['setup']['seconds']:.0%} of the time): {phases}"
    )
