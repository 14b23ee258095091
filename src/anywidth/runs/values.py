"""Parsing of widths, budgets and other structured values from the command line and YAML."""

from __future__ import annotations

import argparse
import math
from typing import Any

__all__ = [
    "AnyWidths",
    "ValueProblem",
    "Widths",
    "parse_any_widths",
    "parse_budget_list",
    "parse_ladder",
    "parse_number",
    "parse_optional_text",
    "parse_shape",
    "parse_switches",
    "parse_text",
    "parse_width",
    "parse_widths",
]

Widths = int | tuple[float, ...]
"""Number of widths, evenly spaced from the narrowest to 1, or the widths themselves."""
AnyWidths = int | tuple[float | dict[str, float], ...]
"""Like `Widths`, but each width may also map patterns to widths."""


class ValueProblem(argparse.ArgumentTypeError, ValueError):
    """A value cannot be parsed; the parser prints the message."""


def parse_number(value: Any, *, kind: type[int] | type[float], optional: bool = False) -> float | None:
    """Number, or None (in text `null`) if that is allowed.

    >>> parse_number("1e-3", kind=float), parse_number(5, kind=int), parse_number("null", kind=int, optional=True)
    (0.001, 5, None)
    """
    if optional and value in (None, "null", "None"):
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = math.nan
    # Reject values that conversion would change, such as 1.5 as an integer.
    if isinstance(value, bool) or number != (value if isinstance(value, (int, float)) else number):
        raise ValueProblem(f"cannot read a {'whole ' if kind is int else ''}number from {value!r}")
    return number


def parse_widths(value: Any) -> Widths:
    """Number of widths from `16`, or the widths from `0.3,0.55` (in YAML also a list).

    >>> parse_widths("16"), parse_widths("0.3,0.55"), parse_widths([0.5, 1])
    (16, (0.3, 0.55), (0.5, 1.0))
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueProblem(f"{value} is not a valid number of widths; give at least 1, or a list such as 0.25,0.5")
        return value
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    try:
        widths = () if isinstance(value, bool) else tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        widths = ()
    if not widths:
        raise ValueProblem(f"cannot read widths from {value!r}; give a number such as 16, or a list such as 0.25,0.5")
    return widths


def parse_any_widths(value: Any) -> AnyWidths:
    """Like `parse_widths`, with widths by pattern: `layer3.*=0.6`, several joined by `+`.

    >>> parse_any_widths("0.5,layer3.*=0.6+layer4.*=0.5")
    (0.5, {'layer3.*': 0.6, 'layer4.*': 0.5})
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not any(isinstance(p, dict) or "=" in str(p) for p in parts):
        return parse_widths(value)
    widths: list[float | dict[str, float]] = []
    for part in parts:
        if isinstance(part, dict) or "=" in str(part):
            pairs = part.items() if isinstance(part, dict) else [p.rpartition("=")[::2] for p in str(part).split("+")]
            try:
                widths.append({str(pattern).strip(): float(number) for pattern, number in pairs})
            except (TypeError, ValueError):
                raise ValueProblem(f"cannot read widths by pattern from {part!r}; write layer3.*=0.6") from None
        else:
            plain = parse_widths([part])
            widths += [] if isinstance(plain, int) else plain
    return tuple(widths)


def parse_width(value: Any) -> float | dict[str, float] | None:
    """One width, as a number or by pattern; None stays None.

    >>> parse_width("1"), parse_width("layer3.*=0.6+*=0.5")
    (1.0, {'layer3.*': 0.6, '*': 0.5})
    """
    if value is None:
        return None
    by_pattern = isinstance(value, dict) or "=" in str(value)
    widths = parse_any_widths([value]) if by_pattern else parse_widths([value])
    if isinstance(widths, int) or len(widths) != 1:
        raise ValueProblem(f"cannot read one width from {value!r}; give one such as 0.35 or layer3.*=0.6+*=0.5")
    return widths[0]


def parse_ladder(value: Any) -> tuple[float, ...] | None:
    """Widths of a multi-width file from a list such as `0.25,0.5,1.0`; None stays None.

    >>> parse_ladder("0.25,0.5,1.0")
    (0.25, 0.5, 1.0)
    """
    return _listed(value, "a ladder needs a list of widths such as 0.25,0.5,1.0")


def parse_switches(value: Any) -> tuple[float, ...] | None:
    """Switches from a list such as `0.25,0.5,1.0`; None stays None.

    >>> parse_switches("0.25,0.5,1.0")
    (0.25, 0.5, 1.0)
    """
    return _listed(value, "switches need a list of widths such as 0.25,0.5,1.0")


def _listed(value: Any, rule: str) -> tuple[float, ...] | None:
    """Widths from a list; None stays None."""
    widths = None if value is None else parse_widths(value)
    if isinstance(widths, int):
        raise ValueProblem(f"{rule}, not {value}")
    return widths


def parse_shape(value: Any) -> tuple[int, int, int]:
    """Channels, height and width from `3,224,224` (in YAML also a list).

    >>> parse_shape("3,224,224")
    (3, 224, 224)
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ()
    try:
        channels, height, width = (int(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueProblem(
            f"cannot read a shape from {value!r}; give CHANNELS,HEIGHT,WIDTH such as 3,224,224"
        ) from None
    if min(channels, height, width) < 1:
        raise ValueProblem(f"shape {value!r} has a size below 1; give positive sizes such as 3,224,224")
    return channels, height, width


def parse_budget_list(value: Any) -> tuple[str, ...]:
    """Budgets as text from `30e6,50%` (in YAML also a list); the search interprets them.

    >>> parse_budget_list("30e6, 50%"), parse_budget_list(8.5)
    (('30e6', '50%'), ('8.5',))
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    found = tuple(text for part in parts if (text := str(part).strip()))
    if not found:
        raise ValueProblem(f"cannot read budgets from {value!r}; give a list such as 30e6,20e6 or 50%")
    return found


def parse_optional_text(value: Any) -> str | None:
    """Text, even where YAML reads a number; None stays None.

    >>> parse_optional_text(20e6), parse_optional_text(None)
    ('20000000.0', None)
    """
    return None if value is None else str(value)


def parse_text(value: Any) -> str:
    """Choice as text, even where YAML reads a number.

    >>> parse_text(16)
    '16'
    """
    return str(value)
