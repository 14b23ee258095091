"""`anywidth.autoslim`: the best channel numbers for a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from anywidth.cost import Cost, macs
from anywidth.evaluation import Score as ScoreFunction
from anywidth.evaluation import top1
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
    score: ScoreFunction = top1,
    loss: Loss | None = None,
    task: Task | None = None,
    logits: Logits = logits_of,
    seed: int = 0,
    state: str | Path | None = None,
    progress: Callable[[Progress], object] = lambda _: None,
) -> SearchResult:
    """Width configs that keep within budgets at the least loss of accuracy, by greedy slimming of a trained supernet.

    From the widest network on, at every step one piece of each channel group is removed in turn, and the removal that
    leaves the highest accuracy on held-out images stays. All budgets are met in one descent. The networks that are
    found are meant to be trained from scratch; `net.extract(config, calibrated=False)` gives one, and new weights are
    up to you.

    Args:
        net: A supernet, trained at random widths, best with a width of its own for every group; nothing of it changes.
        loader: Batches of training data, never of test data.
        budgets: One or several limits of the cost: numbers, text such as `"300M"` or `"20ms"`, shares such as `"50%"`,
            or intervals such as `"90M-100M"`; see `anywidth.widths.parse_budget`.
        cost: `cost(net, config)`, such as `anywidth.macs`, or a function of your own; see `anywidth.cost.NamedCost`.
        held_out: Batches of training data that the network was not trained on. Without them, `loader` is split, which
            is honest only if the network was not trained on it.
        settings: What a removal is chosen by, how large it is, how much memory to use; see `SearchSettings`.
        calibration_images: The size of the one large batch that every candidate's batch-norm statistics come from.
        held_out_images: How many images to score candidates on, if `loader` is split.
        score: As in `anywidth.evaluate`; by default top-1 accuracy in percent.
        loss: As in `anywidth.sandwich_step`, the mean over a batch; it decides between equal accuracies.
        task: As in `anywidth.sandwich_step`, in place of `loss`.
        logits: As in `anywidth.sandwich_step`.
        seed: Of the split.
        state: A file that keeps what was found out; the same call goes on with it after an interruption.
        progress: Called often, with a `Progress`.

    Raises:
        LossError: score or loss does not fit the outputs and the targets; give those that do.
        BudgetError: a budget cannot be read, or limits something else than the cost.
        SearchError: a budget is out of reach, nothing is held out, or a score or cost is no number; `state` is kept.
        KeyboardInterrupt: Ctrl-C; `state` is kept.

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
