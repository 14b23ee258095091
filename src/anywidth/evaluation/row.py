"""One row of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One width: the width (or a name), MACs and parameters, and the score (accuracy in percent by default)."""

    width: float | str
    macs: int
    params: int
    accuracy: float
