"""Widest width within a budget of latency, multiply-adds, parameters or bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from anywidth.core.errors import ExportError
from anywidth.cost import macs, params
from anywidth.evaluation import even_widths
from anywidth.export.export import export
from anywidth.export.formats import FORMATS
from anywidth.export.latency import session_latency
from anywidth.export.session import open_session
from anywidth.supernet import Supernet
from anywidth.widths import Budget, Width

__all__ = ["QUANTITIES", "known_widths", "widest_within"]

Write = Callable[[Width, Path], object]

QUANTITIES = {"latency": "ms", "macs": "MACs", "params": "parameters", "size": "bytes"}
"""Quantities that a budget of a file can limit, with their units."""


def widest_within(
    net: Supernet,
    budget: Budget,
    widths: Sequence[Width] | None = None,
    *,
    format: str = "onnx",
    write: Write | None = None,
) -> Width:
    """Widest width within a budget.

    Latency and size are measured on the file: a few widths are written and run on this machine, by bisection.

    Args:
        net: The supernet.
        budget: The limits; a share is relative to width 1.
        widths: Widths to choose from; by default the calibrated ones, or 16 evenly spaced ones if none need
            calibration.
        format: Format of the file; latency is measured in ONNX Runtime for `onnx`, and in PyTorch for `torch` and
            `pt2`.
        write: Writes another ONNX file of a width, such as an 8-bit one, to which the limit applies.

    Raises:
        BudgetError: the budget names no quantity, or one that does not apply to files.
        ExportError: no width is within the limits; the message gives the cost of the narrowest.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    >>> macs(net, widest_within(net, Budget(quantity="macs", high=200)))
    192
    """
    quantity = budget.quantity_among(QUANTITIES)
    found = sorted(known_widths(net) if widths is None else widths, key=lambda width: macs(net, width))
    cost: Callable[[Width], float] = {
        "latency": lambda width: _latency(net, width, format, write),
        "macs": lambda width: macs(net, width),
        "params": lambda width: params(net, width),
        "size": lambda width: _size(net, width, format, write),
    }[quantity]
    limits = budget.absolute(cost(1.0)) if budget.share else budget
    low, high = 0, len(found)  # all below `low` are within the budget, none from `high` on
    taken: dict[int, float] = {}
    while low < high:
        middle = (low + high) // 2
        taken[middle] = cost(found[middle])
        low, high = (middle + 1, high) if taken[middle] <= limits.high else (low, middle)
    if low == 0 or taken[low - 1] < limits.low:
        unit = {"latency": " ms", "size": " bytes"}.get(quantity, "")
        nearest = max(low - 1, 0)
        within = f"between {limits.low:g} and {limits.high:g}" if limits.low else f"within {limits.high:g}"
        raise ExportError(
            f"no width has {quantity} {within}{unit}: "
            f"{'the narrowest' if low == 0 else 'the widest below'}, {net.config(found[nearest])}, takes "
            f"{taken[nearest]:.4g}{unit}"
        )
    return found[low - 1]


def known_widths(net: Supernet) -> list[Width]:
    """Widths that can be exported now: the calibrated ones, or evenly spaced ones if none need calibration."""
    if not net.statistics.needed:
        return list(even_widths(net, 16))
    calibrated = list(net.statistics.current())
    return list(dict.fromkeys([*map(net.config, (*net.switches, 1.0)), *calibrated]))


def _size(net: Supernet, width: Width, format: str, write: Write | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        if write is None:
            return export(net, width, file, format).size
        write(width, file)
        return file.stat().st_size


def _latency(net: Supernet, width: Width, format: str, write: Write | None) -> float:
    if write is None:
        return FORMATS.find(format).latency(net, width)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file.onnx")
        write(width, file)
        return session_latency(open_session(file), net)
