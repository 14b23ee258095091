"""The arm of NVIDIA ModelOpt: FastNAS searches a pruned network for each budget, which is then fine-tuned.

Source: ModelOpt's guide to pruning, and its notebook for ResNet-20 on CIFAR-10.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import tempfile
import warnings
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.data.tensor_images import TensorImages
from peers.job import WIDTHS, Job, Share, layout_
from peers.measure import OverBudgetError, accuracy_of, macs_of

__all__ = ["fastnas"]

TUNED, RATE = 1.0, 0.5
"""Epochs and learning rate of a fine-tuning over those of the full network: "1x", and 0.5 of "0.5x-1x"."""

RESERVE = 60.0
"""Seconds for the searches, at most a third of the time. The fine-tunings receive what the searches leave."""

DIVISORS = (4, 2, 1)
"""Channels are multiples of the first of these with which the search meets the budget.

The model's channels are multiples of 4. The default, 32, would leave nothing to choose in ResNet-8. FastNAS removes the
channels whose loss of accuracy is below a threshold, and the threshold stays below the largest loss. If a budget needs
nearly all layers at their minimum, it returns a network over the budget; a finer divisor has smaller minima.
"""

SCORED, NORM_BATCHES, NORM_BATCH = 1000, 50, 32
"""Training images that rank the candidates, and batches for the batch-norm statistics of each candidate.

Fifty batches are the default. They are smaller than those of the training, because a candidate is scored 40 times.
"""


def fastnas(job: Job) -> list[nn.Module]:
    """A full network, reduced to each budget where that costs the least accuracy, and fine-tuned."""
    tool = importlib.import_module("modelopt.torch.prune")
    full = job.train_full(tuned=TUNED, reserve=min(RESERVE, job.seconds / 3))
    with tempfile.TemporaryDirectory() as folder:
        search = partial(_search, tool, job, full, Path(folder))
        smaller = [search(budget) for budget in job.budgets[:-1]]
    job.train_in_turn(
        [
            Share(name=f"fine-tuning at the budget of {width:g}", model=model, rate=RATE)
            for width, model in zip(WIDTHS[:-1], smaller, strict=True)
        ]
    )
    return [*smaller, full]


def _search(tool: Any, job: Job, full: nn.Module, folder: Path, budget: int) -> nn.Module:
    """The best network within a budget.

    Raises:
        OverBudgetError: the search does not find one.
    """
    for divisor in DIVISORS:
        found = _search_multiples(tool, job, full, folder / f"{divisor}.pth", budget, divisor)
        if macs_of(found, job.example) <= budget:
            return layout_(found)
    raise OverBudgetError(f"FastNAS finds no network for {budget:,} MACs")


def _search_multiples(tool: Any, job: Job, full: nn.Module, checkpoint: Path, budget: int, divisor: int) -> nn.Module:
    """What FastNAS returns. The checkpoint keeps the scores of candidates for other budgets."""
    space = tool.fastnas.FastNASConfig()
    space["nn.Conv2d"]["*"]["channel_divisor"] = divisor
    space["nn.BatchNorm2d"]["*"]["feature_divisor"] = divisor
    scored = _scored(job)
    model = copy.deepcopy(full).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        found, _ = tool.prune(
            model,
            mode=[("fastnas", space)],
            constraints={"flops": 2 * budget},  # this version counts two FLOPs per multiply-add
            dummy_input=job.example,
            config={
                "data_loader": _norm_batches(job),
                "collect_func": _images,
                "score_func": lambda candidate: accuracy_of(candidate, scored),
                "checkpoint": str(checkpoint),
                "verbose": False,
            },
        )
    return found


def _scored(job: Job) -> list[tuple[Tensor, Tensor]]:
    """Random training images without augmentation."""
    train: Any = job.context.bundle.train
    number = min(SCORED, len(train) // 4)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(job.context.seed))[:number]
    plain = TensorImages(
        train.images, train.labels, mean=train.mean.flatten(), std=train.std.flatten(), image_size=train.image_size
    )
    return [plain.take(part) for part in chosen.split(256)]


def _norm_batches(job: Job) -> list[Tensor]:
    """Small batches of training images."""
    loader = job.context.loaders().calibration
    train: Any = job.context.bundle.train
    size = max(2, min(NORM_BATCH, len(train) // NORM_BATCHES))
    small = chain.from_iterable(images.split(size) for images, _ in chain.from_iterable(repeat(loader)))
    return list(islice(small, NORM_BATCHES))


def _images(batch: Tensor) -> Tensor:
    return batch
