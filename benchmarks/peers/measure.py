"""MACs and accuracy of delivered networks, measured alike for every arm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["OverBudgetError", "accuracy_of", "macs_of", "measured"]


class OverBudgetError(RuntimeError):
    """A delivered network exceeds its budget."""


@torch.no_grad()
def macs_of(network: nn.Module, example: Tensor) -> int:
    """Multiply-adds that PyTorch's counter sees in a forward pass on one image."""
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(example)
    return counter.get_total_flops() // 2


@torch.no_grad()
def accuracy_of(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Top-1 accuracy in percent."""
    network.eval()
    right = count = 0
    for images, labels in batches:
        right += int((network(images).argmax(1) == labels).sum())
        count += len(labels)
    return 100 * right / count


def measured(
    networks: Sequence[nn.Module], budgets: Sequence[int], example: Tensor, test: Iterable[Any]
) -> list[dict[str, float]]:
    """Budget, MACs, parameters and test accuracy of every network.

    Raises:
        OverBudgetError: a network has more MACs than its budget.
    """
    rows = []
    for network, budget in zip(networks, budgets, strict=True):
        macs = macs_of(network, example)
        if macs > budget:
            raise OverBudgetError(f"a network for {budget:,} MACs has {macs:,}")
        params = sum(parameter.numel() for parameter in network.parameters())
        rows.append({"budget": budget, "macs": macs, "params": params, "accuracy": accuracy_of(network, test)})
    return rows
