"""Functions and code objects of Python: what is inside them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from anywidth.groups.python_code import closed_values, function_behind, nested_code


def plain() -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner() -> Any:
        return function()

    return inner


class Holder:
    def method(self) -> None: ...

    @property
    def name(self) -> None: ...

    @functools.cached_property
    def cached(self) -> None: ...

    @staticmethod
    def static() -> None: ...

    @classmethod
    def of_class(cls) -> None: ...


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (plain, "plain"),
        (decorated(plain), "plain"),
        (functools.partial(plain), "plain"),
        (Holder().method, "method"),
        *((vars(Holder)[name], name) for name in ("method", "name", "cached", "static", "of_class")),
        (len, None),
        (3, None),
        (None, None),
    ],
)
def test_the_function_behind(value: Any, name: str | None) -> None:
    found = function_behind(value)
    assert (None if found is None else found.__name__) == name


def test_a_function_wrapped_by_itself_has_none_behind_it() -> None:
    def loop() -> None: ...

    loop.__wrapped__ = loop  # type: ignore[attr-defined]
    assert function_behind(loop) is None


def test_code_inside_code() -> None:
    def outer() -> Any:
        return lambda: [each for each in range(3) if (lambda: each)()]

    assert sum(each.co_name == "<lambda>" for each in nested_code(outer.__code__)) == 2


def test_closed_values_leave_out_what_is_not_assigned_yet() -> None:
    given = None

    def function() -> Any:
        return given, later

    assert list(closed_values(function)) == [None]
    later = 5
    assert list(closed_values(function)) == [None, 5]
