"""Widths that a run trains, calibrates and evaluates."""

from __future__ import annotations

from anywidth.evaluation import even_widths
from anywidth.runs.settings import TrainSettings
from anywidth.runs.values import AnyWidths, Widths
from anywidth.supernet import Supernet
from anywidth.widths import Width, WidthConfig, WidthSampler, check_width

__all__ = ["build_sampler", "choose_any_widths", "choose_widths"]


def build_sampler(net: Supernet, settings: TrainSettings) -> WidthSampler:
    """Sampler of the widths of each training step."""
    widths = settings.widths
    return WidthSampler(
        net.min_width,
        seed=settings.seed,
        always_include=widths.always_include,
        groups=[group.name for group in net.analysis.elastic] if widths.width_sampling == "nonuniform" else [],
        grid=even_widths(net, settings.width_grid) if settings.width_grid else [],
    )


def choose_widths(net: Supernet, widths: Widths, also: tuple[float, ...] = ()) -> list[float]:
    """The requested widths, sorted; of widths that round to the same network, the one with the shortest number.

    A number selects all switches in a network that has switches.

    Raises:
        WidthError: a width is out of range, or is not a switch of the network.
    """
    chosen = even_widths(net, widths) if isinstance(widths, int) else widths
    found: dict[WidthConfig, float] = {}
    for width in sorted({check_width(width, net.min_width) for width in (*chosen, *also)}):
        config = net.config(width)
        found[config] = min(found.get(config, width), width, key=lambda each: len(f"{each:g}"))
    return list(found.values())


def choose_any_widths(net: Supernet, widths: AnyWidths) -> list[Width]:
    """Like `choose_widths`; pattern maps come last, in their given order.

    Raises:
        WidthError: a width is out of range, is not a switch, or has a pattern without a match.
    """
    if isinstance(widths, int):
        return list(choose_widths(net, widths))
    maps = [width for width in widths if isinstance(width, dict)]
    for width in maps:
        net.config(width)
    return [*choose_widths(net, tuple(width for width in widths if not isinstance(width, dict))), *maps]
