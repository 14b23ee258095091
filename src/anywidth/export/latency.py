"""Measured latency of a width in ONNX Runtime."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from anywidth.export.onnx_model import onnx_model
from anywidth.export.program import dense_program
from anywidth.export.session import feeds, open_session
from anywidth.supernet import Supernet
from anywidth.widths import Width

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["onnx_latency", "session_latency"]


def onnx_latency(
    net: Supernet,
    width: Width = 1.0,
    *,
    repeats: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    calibrated: bool = True,
) -> float:
    """Median time of one call in ONNX Runtime on this CPU, for the example inputs, in milliseconds.

    The counterpart of `anywidth.latency`, which measures PyTorch.

    Args:
        net: The supernet; its example inputs define the batch size and shape.
        width: As in `Supernet.config`; must be calibrated.
        repeats: Number of timed calls.
        warmup: Number of untimed calls before them.
        calibrated: Whether the width must be calibrated; the latency does not depend on it.
        threads: Threads within an operator; by default as many as torch uses.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> onnx_latency(net, 0.5, repeats=3) > 0
    True
    """
    model = onnx_model(dense_program(net, width, dynamic_batch=False, calibrated=calibrated))
    return session_latency(
        open_session(model.SerializeToString(), threads=threads), net, repeats=repeats, warmup=warmup
    )


def session_latency(
    session: onnxruntime.InferenceSession, net: Supernet, *, repeats: int = 20, warmup: int = 3
) -> float:
    """Median time of one call of a session, for the example inputs of a supernet, in milliseconds."""
    inputs = feeds(session, net.inputs)
    times = []
    for number in range(warmup + repeats):
        start = time.perf_counter()
        session.run(None, inputs)
        if number >= warmup:
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
