"""The arms of Torch-Pruning: a full network, pruned to each budget and fine-tuned.

Source: DepGraph (arXiv 2301.12900), its benchmark on CIFAR (`reproduce/`) and the first example of its README.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

from torch import Tensor, nn

from peers.job import WIDTHS, Job, Share, layout_
from peers.measure import macs_of

__all__ = ["pruned_globally", "pruned_uniformly"]

TUNED, RATE = 0.5, 0.1
"""Epochs and learning rate of a fine-tuning over those of the full network: 100 of 200 epochs, and 0.01 of 0.1."""

STEPS = 400
"""Steps in which all channels would be removed; pruning stops at the budget."""

RESERVE = 12.0
"""Seconds for pruning, at most a third of the time."""


def pruned_globally(job: Job) -> list[nn.Module]:
    """Channels of all layers are ranked together, as in the benchmark on CIFAR."""
    return _pruned(job, global_pruning=True)


def pruned_uniformly(job: Job) -> list[nn.Module]:
    """The same share of channels is removed from every layer, as in the README."""
    return _pruned(job)


def _pruned(job: Job, **options: Any) -> list[nn.Module]:
    pruning = importlib.import_module("torch_pruning")
    full = job.train_full(tuned=TUNED, reserve=min(RESERVE, job.seconds / 3))
    smaller = [prune(pruning, full, job.example, budget, **options) for budget in job.budgets[:-1]]
    job.train_in_turn(
        [
            Share(name=f"fine-tuning at the budget of {width:g}", model=model, rate=RATE)
            for width, model in zip(WIDTHS[:-1], smaller, strict=True)
        ]
    )
    return [*smaller, full]


def prune(pruning: Any, full: nn.Module, example: Tensor, budget: int, **options: Any) -> nn.Module:
    """A copy of a network with the channels of largest group norm that fit into a budget of MACs."""
    model = copy.deepcopy(full).eval()
    pruner = pruning.pruner.BasePruner(
        model,
        example,
        importance=pruning.importance.GroupMagnitudeImportance(p=2),
        iterative_steps=STEPS,
        pruning_ratio=1.0,
        ignored_layers=[model.classifier],
        **options,
    )
    while macs_of(model, example) > budget and pruner.current_step < STEPS:
        pruner.step()
    return layout_(model)
