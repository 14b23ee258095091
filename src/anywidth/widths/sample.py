"""Seeded sampling of widths."""

from __future__ import annotations

import random
from collections.abc import Sequence

from anywidth.widths.config import Width

__all__ = ["WidthSampler"]


class WidthSampler:
    """Widths for the steps of a training run, from a generator of its own.

    Two samplers with the same seed draw the same widths, whatever else draws random numbers; the state can be
    saved and put back.

    >>> a, b = WidthSampler(0.25, seed=1), WidthSampler(0.25, seed=1)
    >>> a.sandwich(4) == b.sandwich(4)
    True
    """

    def __init__(self, min_width: float, *, seed: int = 0) -> None:
        self.min_width = min_width
        self._random = random.Random(seed)

    def uniform(self) -> float:
        """One width, uniform between the smallest and 1."""
        return self._random.uniform(self.min_width, 1.0)

    def nonuniform(self, groups: Sequence[str]) -> Width:
        """One width per group, each uniform between the smallest and 1."""
        return {name: self.uniform() for name in groups}

    def sandwich(self, n: int) -> list[float]:
        """The widest, the narrowest and n - 2 random widths (US-Nets, arXiv 1903.05134, section 3.2)."""
        return [1.0, self.min_width, *(self.uniform() for _ in range(n - 2))][:n]

    def state_dict(self) -> dict[str, object]:
        """The state of the generator, as JSON values."""
        version, internal, gauss = self._random.getstate()
        return {"version": version, "internal": list(internal), "gauss": gauss}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on drawing where another sampler stopped."""
        internal = state["internal"]
        assert isinstance(internal, list)
        self._random.setstate((state["version"], tuple(internal), state["gauss"]))
