"""Parameters of a long table of similar cases, of which one of each kind runs by default."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest

__all__ = ["fast_and_slow"]


def fast_and_slow(
    values: Iterable[Any], fast: Collection[Any], *, name: Callable[[Any], Any] = lambda value: value
) -> list[Any]:
    """The values for `pytest.mark.parametrize`; those that are not in `fast` are slow.

    Args:
        values: The parameters, a tuple for several arguments.
        fast: The names of the values that run by default.
        name: The name of a value in `fast` and in the test's id.
    """
    values = list(values)
    names = [name(value) for value in values]
    assert set(fast) <= set(names), set(fast) - set(names)
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            id="-".join(map(str, each)) if isinstance(each, tuple) else str(each),
            marks=[] if each in fast else [pytest.mark.slow],
        )
        for value, each in zip(values, names, strict=True)
    ]
