"""The widest width that keeps within a budget of time, multiply-adds, parameters or bytes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from anywidth.core.errors import ExportError
from anywidth.cost import latency, macs, params
from anywidth.evaluation import even_widths
from anywidth.export.export import Format, export
from anywidth.export.latency import onnx_latency, session_latency
from anywidth.export.session import open_session
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["Budget", "Quantity", "known_widths", "parse_budget", "widest_within"]

Quantity = Literal["latency", "macs", "params", "size"]
Write = Callable[[Width, Path], object]

_UNITS: dict[Quantity, dict[str, float]] = {
    "latency": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "size": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
}
_FORM = re.compile(r"\s*(\w+)\s*<=\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An upper limit of one quantity.

    Attributes:
        quantity: latency (milliseconds per call), macs (per sample), params, or size (bytes of the file).
        limit: What it may be at most, in that unit.
    """

    quantity: Quantity
    limit: float

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity) or not self.limit > 0:
            raise ExportError(f"a budget is an upper limit above 0 of {', '.join(get_args(Quantity))}, not {self}")


def parse_budget(text: str) -> Budget:
    """A budget from what a person writes.

    >>> parse_budget("latency<=5ms"), parse_budget("size <= 1MB").limit, parse_budget("macs<=20e6").limit
    (Budget(quantity='latency', limit=5.0), 1000000.0, 20000000.0)
    """
    found = _FORM.fullmatch(text)
    units = next((u for name, u in _UNITS.items() if found and name == found[1].lower()), None)
    if not found or units is None or found[3].lower() not in units:
        raise ExportError(f"cannot read a budget from {text!r}; give such as latency<=5ms, macs<=20e6 or size<=1MB")
    try:
        limit = float(found[2]) * units[found[3].lower()]
    except ValueError:
        raise ExportError(f"budget {text!r} has no number: {found[2]}") from None
    return Budget(quantity=found[1].lower(), limit=limit)  # type: ignore[arg-type]


def widest_within(
    net: Supernet,
    budget: Budget,
    widths: Sequence[Width] | None = None,
    *,
    format: Format = "onnx",
    write: Write | None = None,
) -> Width:
    """The widest width that keeps within a budget.

    Time and bytes are those of the file: a few widths are written and run on this machine, by bisection.

    Args:
        net: The supernet.
        budget: The limit.
        widths: To choose from; by default those that are calibrated, or 16 evenly spaced ones if none has to be.
        format: Of the file; latency is that of ONNX Runtime for `onnx`, and of PyTorch for the others.
        write: Writes another ONNX file of a width, such as one of 8-bit integers, which has to keep to the limit.

    Raises:
        ExportError: even the narrowest is above the limit; the message says what it takes.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    >>> macs(net, widest_within(net, Budget(quantity="macs", limit=200)))
    192
    """
    found = sorted(known_widths(net) if widths is None else widths, key=lambda width: macs(net, width))
    cost: Callable[[Width], float] = {
        "latency": lambda width: _latency(net, width, format, write),
        "macs": lambda width: macs(net, width),
        "params": lambda width: params(net, width),
        "size": lambda width: _size(net, width, format, write),
    }[budget.quantity]
    low, high = 0, len(found)  # below `low` all are within the budget, from `high` on none is
    taken: dict[int, float] = {}
    while low < high:
        middle = (low + high) // 2
        taken[middle] = cost(found[middle])
        low, high = (middle + 1, high) if taken[middle] <= budget.limit else (low, middle)
    if low == 0:
        unit = {"latency": " ms", "size": " bytes"}.get(budget.quantity, "")
        raise ExportError(
            f"no width keeps {budget.quantity} within {budget.limit:g}{unit}: "
            f"the narrowest, {net.label(found[0])}, takes {taken[0]:.4g}{unit}"
        )
    return found[low - 1]


def known_widths(net: Supernet) -> list[Width]:
    """The widths that can be exported as they are: the calibrated ones, or evenly spaced ones if none has to be."""
    if not net.statistics.needed:
        return list(even_widths(net, 16))
    calibrated = list(net.statistics.current())
    return list(dict.fromkeys([*map(net.config, (*net.switches, 1.0)), *calibrated]))


def _size(net: Supernet, width: Width, format: Format, write: Write | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        if write is None:
            return export(net, width, file, format).size
        write(width, file)
        return file.stat().st_size


def _latency(net: Supernet, width: Width, format: Format, write: Write | None) -> float:
    if write is None:
        return (onnx_latency if format == "onnx" else latency)(net, width)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file.onnx")
        write(width, file)
        return session_latency(open_session(file), net)
