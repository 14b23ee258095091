"""Measured latency of a width."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from anywidth.core.errors import AnywidthError, first_line
from anywidth.core.inputs import Inputs
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
    compiled: bool = False,
) -> float:
    """Median time of one forward pass of the extracted network on the example inputs, in milliseconds.

    Args:
        net: The supernet; its example inputs define the batch size and shape.
        width: As in `Supernet.config`; it need not be calibrated.
        device: Device to measure on.
        repeats: Number of timed passes.
        warmup: Number of untimed passes before them.
        compiled: Whether to compile the network with `torch.compile`, which takes seconds to minutes per width and
            needs a C++ compiler on the CPU.

    Raises:
        AnywidthError: the network cannot be compiled.

    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> latency(net, 0.5, repeats=3) > 0
    True
    """
    device = torch.device(device)
    dense = net.extract(width, calibrated=False).to(device)
    dense.eval()
    inputs: Inputs = net.inputs.map(lambda tensor: tensor.to(device))
    network: Callable[..., Any] = dense
    if compiled:
        torch.compiler.reset()  # torch stops compiling after eight networks of one class
        network = torch.compile(dense, dynamic=False)
    times = []
    # torch.compile does not support inference mode.
    with torch.no_grad() if compiled else torch.inference_mode():
        if compiled:
            _compile(network, inputs)
        for number in range(warmup + repeats):
            start = time.perf_counter()
            inputs.call(network)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= warmup:
                times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _compile(network: Callable[..., Any], inputs: Inputs) -> None:
    try:
        inputs.call(network)
    except Exception as error:  # raised by the compiler, by the code it generates, or by the network
        raise AnywidthError(
            f"torch.compile failed: {first_line(error)}; install a C++ compiler, or measure without compiling"
        ) from error
