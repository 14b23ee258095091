"""One row of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One width: the width or a name, its MACs and parameters, and its score."""

    width: float | str
    macs: int
    params: int
    score: float
