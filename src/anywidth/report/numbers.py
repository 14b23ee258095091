"""Large numbers and times for reading."""

from __future__ import annotations

__all__ = ["count", "seconds"]

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """A count with three digits and a unit.

    >>> count(316_780), count(24_600_000), count(12)
    ('317 k', '24.6 M', '12')
    """
    for size, unit in _UNITS:
        # 999.5 would be shown as 1,000 of this unit.
        if value >= size * 0.9995:
            scaled = value / size
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """A duration as a person says it.

    >>> seconds(8.4), seconds(75), seconds(3 * 3600 + 120)
    ('8 s', '1 min 15 s', '3 h 2 min')
    """
    total = round(value)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"
