"""Parts that the benchmarks of training steps share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["peak_memory", "sgd"]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the papers, with a learning rate that hardly changes the weights."""
    return torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True)


def peak_memory(work: Callable[[], object]) -> int:
    """Peak bytes of tensors on the GPU while a function runs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()
