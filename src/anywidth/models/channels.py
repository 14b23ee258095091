"""Number of channels of a dense network at a width."""

from __future__ import annotations

import math

from anywidth.core.errors import ModelError
from anywidth.widths.rounding import make_divisible

__all__ = ["scaled_channels"]


def scaled_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Channels at a width of a layer with `channels` at width 1, rounded to a multiple of `divisor`.

    Width 1 keeps the number. Widths above 1 are allowed, since a search may start from a wider network (AutoSlim, arXiv
    1903.11728).

    Raises:
        ModelError: the width is not a positive, finite number.

    >>> scaled_channels(64, 0.35), scaled_channels(20, 1.0)
    (24, 20)
    """
    if isinstance(width, bool) or not math.isfinite(width) or width <= 0:
        raise ModelError(f"width must be a positive number, not {width!r}; 1.0 is the full network")
    return channels if width == 1 else make_divisible(channels * width, divisor)
