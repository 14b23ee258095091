"""Seeded sampling of widths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from anywidth.widths.config import Width

__all__ = ["Ends", "WidthSampler"]

Ends = Literal["both", "widest", "narrowest", "none"]


class WidthSampler:
    """Samples the widths of training steps from its own random generator.

    Two samplers with the same seed draw the same widths, whatever other code draws. The state can be saved and
    restored.

    Args:
        min_width: The narrowest width.
        seed: Seed of the generator.
        always_include: Ends of the range that belong to every sandwich. `both` is the rule of US-Nets; `none` trains
            at random widths only.
        groups: Names of channel groups that each draw a separate width; if empty, one width applies to all groups.
        grid: Widths to draw from, for networks that are compiled or recorded per width; by default any width from
            `min_width` to 1.

    >>> a, b = WidthSampler(0.25, seed=1), WidthSampler(0.25, seed=1)
    >>> a.sandwich(4) == b.sandwich(4)
    True
    """

    def __init__(
        self,
        min_width: float,
        *,
        seed: int = 0,
        always_include: Ends = "both",
        groups: Sequence[str] = (),
        grid: Sequence[float] = (),
    ) -> None:
        self.min_width = min_width
        self.always_include: Ends = always_include
        self.groups = tuple(groups)
        self.grid = tuple(grid)
        self._random = random.Random(seed)

    def uniform(self) -> float:
        """One width, uniform between the narrowest and 1, or one of the grid."""
        return self._random.choice(self.grid) if self.grid else self._random.uniform(self.min_width, 1.0)

    def nonuniform(self, groups: Sequence[str]) -> Width:
        """One width per group, each drawn like `uniform`."""
        return {name: self.uniform() for name in groups}

    def sandwich(self, n: int) -> list[Width]:
        """Sample `n` widths: the ends and random widths between them (US-Nets, arXiv 1903.05134, section 3.2)."""
        chosen: list[Width] = [1.0] if self.always_include in ("both", "widest") else []
        chosen += [self.min_width] if self.always_include in ("both", "narrowest") else []
        while len(chosen) < n:
            chosen.append(self.nonuniform(self.groups) if self.groups else self.uniform())
        return chosen[:n]

    def state_dict(self) -> dict[str, object]:
        """State of the generator as JSON values."""
        version, internal, gauss = self._random.getstate()
        return {"version": version, "internal": list(internal), "gauss": gauss}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue the sequence of another sampler."""
        internal = state["internal"]
        assert isinstance(internal, list)
        self._random.setstate((state["version"], tuple(internal), state["gauss"]))
