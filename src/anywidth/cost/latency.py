"""Measured latency of a width."""

from __future__ import annotations

import statistics
import time

import torch

from anywidth.groups.trace import Inputs
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["latency"]


def latency(
    net: Supernet,
    width: Width = 1.0,
    *,
    device: str | torch.device = "cpu",
    repeats: int = 20,
    warmup: int = 3,
) -> float:
    """Median time of one forward pass of the extracted network on the example inputs, in milliseconds.

    Args:
        net: The supernet; its example inputs give the batch and the shape.
        width: As in `Supernet.config`; batch-norm statistics do not matter here.
        device: Where to run.
        repeats: Timed passes.
        warmup: Passes before those.

    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> latency(net, 0.5, repeats=3) > 0
    True
    """
    device = torch.device(device)
    dense = net.extract(width, calibrated=False).to(device).eval()
    inputs: Inputs = net.inputs.map(lambda tensor: tensor.to(device))
    times = []
    with torch.inference_mode():
        for number in range(warmup + repeats):
            start = time.perf_counter()
            inputs.call(dense)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= warmup:
                times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
