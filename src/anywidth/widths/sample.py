"""Seeded sampling of widths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from anywidth.widths.config import Width

__all__ = ["Ends", "WidthSampler"]

Ends = Literal["both", "widest", "narrowest", "none"]


class WidthSampler:
    """Widths for the steps of a training run, from a generator of its own.

    Two samplers with the same seed draw the same widths, whatever else draws random numbers; the state can be
    saved and put back.

    Args:
        min_width: The narrowest width.
        seed: Of the generator.
        ends: Which ends of the range are in every sandwich: `both` is the rule of US-Nets, `none` is naive training at
            random widths alone.
        groups: Names of channel groups that get a random width each; without them a random width is one of all groups.
        ladder: The widths that random ones are chosen from, for compiled networks and CUDA graphs, which are of one
            width; by default every width from `min_width` to 1.

    >>> a, b = WidthSampler(0.25, seed=1), WidthSampler(0.25, seed=1)
    >>> a.sandwich(4) == b.sandwich(4)
    True
    """

    def __init__(
        self,
        min_width: float,
        *,
        seed: int = 0,
        ends: Ends = "both",
        groups: Sequence[str] = (),
        ladder: Sequence[float] = (),
    ) -> None:
        self.min_width = min_width
        self.ends: Ends = ends
        self.groups = tuple(groups)
        self.ladder = tuple(ladder)
        self._random = random.Random(seed)

    def uniform(self) -> float:
        """One width, uniform between the smallest and 1, or among those of the ladder."""
        return self._random.choice(self.ladder) if self.ladder else self._random.uniform(self.min_width, 1.0)

    def nonuniform(self, groups: Sequence[str]) -> Width:
        """One width per group, each drawn as `uniform` does."""
        return {name: self.uniform() for name in groups}

    def sandwich(self, n: int) -> list[Width]:
        """N widths: the ends, and random ones between them (US-Nets, arXiv 1903.05134, section 3.2)."""
        chosen: list[Width] = [1.0] if self.ends in ("both", "widest") else []
        chosen += [self.min_width] if self.ends in ("both", "narrowest") else []
        while len(chosen) < n:
            chosen.append(self.nonuniform(self.groups) if self.groups else self.uniform())
        return chosen[:n]

    def state_dict(self) -> dict[str, object]:
        """The state of the generator, as JSON values."""
        version, internal, gauss = self._random.getstate()
        return {"version": version, "internal": list(internal), "gauss": gauss}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on drawing where another sampler stopped."""
        internal = state["internal"]
        assert isinstance(internal, list)
        self._random.setstate((state["version"], tuple(internal), state["gauss"]))
