"""The settings of a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from anywidth.core.errors import WidthError
from anywidth.groups import Analysis
from anywidth.supernet.shells import check_shells
from anywidth.supernet.switches import check_switches
from anywidth.widths import check_width

__all__ = ["SupernetSettings"]


@dataclass(frozen=True, kw_only=True)
class SupernetSettings:
    """The settings of a supernet.

    Attributes:
        divisor: As in `Supernet`.
        min_width: As in `Supernet`; the narrowest of fixed widths.
        frozen: As in `Supernet`.
        ratios: As in `Supernet`.
        cache_size: As in `Supernet`.
        switches: As in `Supernet`, in ascending order.
        switch_affine: As in `Supernet`.
        nested: As in `Supernet`.
        nested_norm: As in `Supernet`.
        samples: As in `Supernet`.
        average_inputs: As in `Supernet`.
        ordered: Whether channels were permuted when the supernet was built.

    Raises:
        WidthError: a setting is invalid, or two contradict each other.
    """

    divisor: int = 8
    min_width: float = 0.25
    frozen: Sequence[str] = ()
    ratios: Mapping[str, int] = field(default_factory=dict)
    cache_size: int = 512
    switches: Sequence[float] | None = None
    switch_affine: bool = True
    nested: Sequence[float] | None = None
    nested_norm: Literal["shell"] | None = None
    samples: int | None = None
    average_inputs: bool = False
    ordered: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.divisor, bool) or not isinstance(self.divisor, int) or self.divisor < 1:
            raise WidthError(f"divisor must be a positive integer, not {self.divisor!r}")
        check_width(self.min_width, what="min_width")
        if self.switches is not None and self.nested is not None:
            raise WidthError("give switches= or nested=: nested widths share their batch norms")
        if self.nested_norm not in (None, "shell") or (self.nested_norm and self.nested is None):
            raise WidthError(
                f"nested_norm={self.nested_norm!r} needs nested= widths, such as nested=(0.25, 0.5, 0.75, 1.0), and "
                'can be "shell" or None'
            )
        switches = None if self.switches is None else check_switches(self.switches)
        nested = None if self.nested is None else check_shells(self.nested)
        fixed = switches or nested
        given = (self.frozen,) if isinstance(self.frozen, str) else tuple(self.frozen)
        for name, value in (
            ("min_width", fixed[0] if fixed else float(self.min_width)), ("frozen", given),
            ("ratios", dict(self.ratios)), ("switches", switches), ("nested", nested),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    @property
    def fixed(self) -> Sequence[float]:
        """The only widths of the network, in ascending order; empty for one of any width."""
        return self.switches or self.nested or ()

    @property
    def kept(self) -> str | None:
        """The argument that does not survive another analysis of the model, if one was given."""
        found = {"switches": self.switches, "nested": self.nested, "order": self.ordered}
        return next((name for name, value in found.items() if value), None)

    def applied_to(self, analysis: Analysis) -> Analysis:
        """The analysis with the frozen groups and the ratios of these settings.

        Raises:
            WidthError: a pattern matches nothing, or a ratio does not divide the channels.
        """
        for pattern in (*self.frozen, *self.ratios):
            if not analysis.matching(pattern):
                known = ", ".join(group.name for group in analysis.groups[:8])
                raise WidthError(f"pattern {pattern!r} matches no channel group; some are: {known}")
        asked = {g.name: f"asked for by {p!r}" for p in self.frozen for g in analysis.matching(p)}
        analysis = analysis.freeze(asked)
        found: dict[str, int] = {}
        for pattern, ratio in self.ratios.items():
            for group in analysis.matching(pattern):
                if ratio < 1 or group.channels % ratio:
                    raise WidthError(f"ratio {ratio} does not divide the {group.channels} channels of {group.name!r}")
                found.setdefault(group.name, ratio)
        return analysis.with_ratios(found)
