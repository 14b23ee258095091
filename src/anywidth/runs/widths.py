"""The widths that a run trains, calibrates and evaluates."""

from __future__ import annotations

from anywidth.evaluation import even_widths
from anywidth.runs.settings import TrainSettings
from anywidth.runs.values import AnyWidths, Widths
from anywidth.supernet import Supernet
from anywidth.widths import Width, WidthSampler, check_width

__all__ = ["build_sampler", "choose_any_widths", "choose_widths"]


def build_sampler(net: Supernet, settings: TrainSettings) -> WidthSampler:
    """What draws the widths of every training step."""
    widths = settings.widths
    return WidthSampler(
        net.min_width,
        seed=settings.seed,
        ends=widths.ends,
        groups=[group.name for group in net.analysis.elastic] if widths.random == "nonuniform" else [],
        ladder=even_widths(net, settings.ladder) if settings.ladder else [],
    )


def choose_widths(net: Supernet, widths: Widths, also: tuple[float, ...] = ()) -> list[float]:
    """The widths that are meant, narrowest first, each once; a number means all switches where there are some.

    Raises:
        WidthError: one is out of range, or no switch.
    """
    chosen = even_widths(net, widths) if isinstance(widths, int) else widths
    found = sorted({check_width(width, net.min_width) for width in (*chosen, *also)})
    for width in found:
        net.config(width)
    return found


def choose_any_widths(net: Supernet, widths: AnyWidths) -> list[Width]:
    """As `choose_widths`; maps of patterns come last, as given.

    Raises:
        WidthError: one is out of range, no switch, or has a pattern that matches nothing.
    """
    if isinstance(widths, int):
        return list(choose_widths(net, widths))
    maps = [width for width in widths if isinstance(width, dict)]
    for width in maps:
        net.config(width)
    return [*choose_widths(net, tuple(width for width in widths if not isinstance(width, dict))), *maps]
