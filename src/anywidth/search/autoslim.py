"""`anywidth.autoslim`: the best channel numbers within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from anywidth.cost import Cost, macs
from anywidth.evaluation import Score as ScoreFunction
from anywidth.search.methods import Progress
from anywidth.search.result import SearchResult
from anywidth.search.scorer import Scorer
from anywidth.search.search import search
from anywidth.search.settings import SearchSettings
from anywidth.search.split import CALIBRATION_IMAGES, HELD_OUT_IMAGES, SearchData
from anywidth.supernet import Supernet
from anywidth.tasks import Logits, Loss, Task, logits_of

__all__ = ["autoslim"]


def autoslim(
    net: Supernet,
    loader: Iterable[Any],
    budgets: object,
    cost: Cost = macs,
    *,
    held_out: Iterable[Any] | None = None,
    settings: SearchSettings | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    held_out_images: int = HELD_OUT_IMAGES,
    score: ScoreFunction | None = None,
    loss: Loss | None = None,
    task: Task | None = None,
    logits: Logits = logits_of,
    seed: int = 0,
    state: str | Path | None = None,
    progress: Callable[[Progress], object] = lambda _: None,
) -> SearchResult:
    """Best width configs within budgets, by greedy slimming of a trained supernet.

    The search starts from the widest network. Each step tries to remove a fraction of the channels of each group and
    keeps the removal with the best score on held-out data. One descent serves all budgets. Train the found
    networks from scratch: `net.extract(config, calibrated=False)` returns one, and initializing its weights is up to
    you.

    Args:
        net: A supernet trained at random widths, preferably with a separate width for every group; it is not changed.
        loader: Batches of training data, never of test data.
        budgets: One or more cost limits: numbers, text such as `"300M"` or `"20ms"`, shares such as `"50%"`, or
            intervals such as `"90M-100M"`; see `anywidth.widths.parse_budget`.
        cost: `cost(net, config)`, such as `anywidth.macs`, or a custom function; see `anywidth.cost.NamedCost`.
        held_out: Batches of training data that the network was not trained on. Without them, `loader` is split, which
            is valid only if the network was not trained on it.
        settings: Removal criterion, size of a removal and memory; see `SearchSettings`.
        calibration_images: Size of the single large batch for every candidate's batch-norm statistics.
        held_out_images: Number of images to score candidates on, if `loader` is split.
        score: As in `anywidth.evaluate`; by default top-1 accuracy in percent.
        loss: As in `anywidth.sandwich_step`, the mean over a batch; it breaks ties between equal scores.
        task: As in `anywidth.sandwich_step`; replaces `loss`, and its first metric is the score, unless `score` is
            given. Metrics that are better when lower, such as an error, are minimized.
        logits: As in `anywidth.sandwich_step`.
        seed: Seed of the split.
        state: File for intermediate results; after an interruption, the same call continues from it.
        progress: Called often, with a `Progress`.

    Raises:
        LossError: the score or loss does not fit the outputs and the targets.
        BudgetError: a budget cannot be parsed, or limits another quantity than the cost.
        SearchError: a budget is out of reach, nothing is held out, or a score or cost is not a number; `state` is kept.
        KeyboardInterrupt: Ctrl-C was pressed; `state` is kept.

    Source: AutoSlim (arXiv 1903.11728).

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.randn(1, 4))
    >>> batch = torch.randn(20, 4), torch.zeros(20).long()
    >>> found = autoslim(net, [batch], budgets="50%")
    >>> found[0], macs(net, found[0]), macs(net)
    (WidthConfig({'0': 16}), 96, 192)
    """
    if held_out is None:
        data = SearchData.split(loader, images=calibration_images, held_out=held_out_images, seed=seed)
    else:
        data = SearchData.of(loader, held_out, images=calibration_images)
    scorer = Scorer(
        net, data, cost, settings=settings, score=score, loss=loss, task=task, logits=logits,
        state=None if state is None else Path(state),
    )  # fmt: skip
    return search(scorer, budgets, progress=progress)
