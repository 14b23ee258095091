"""Functions and code objects of Python: what is inside them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

__all__ = ["closed_values", "function_behind", "nested_code"]


def nested_code(code: CodeType) -> Iterator[CodeType]:
    """A code object and those inside it, such as lambdas and comprehensions.

    >>> [each.co_name for each in nested_code((lambda x: lambda y: x + y).__code__)]
    ['<lambda>', '<lambda>']
    """
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested_code(constant)


def closed_values(function: FunctionType) -> Iterator[Any]:
    """The values of the outer variables that a function uses, without those that are not assigned yet.

    >>> def outer(number):
    ...     return lambda: number
    >>> list(closed_values(outer(3)))
    [3]
    """
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        yield value


def function_behind(value: Any) -> FunctionType | None:
    """The Python function behind a decorated function, a method, a property or a partial; None if there is none.

    >>> class Example:
    ...     @property
    ...     def name(self): ...
    >>> function_behind(vars(Example)["name"]).__name__
    'name'
    """
    function = getattr(value, "fget", None) or getattr(value, "func", None) or value
    try:
        function = inspect.unwrap(function) if callable(function) else function
    except ValueError:  # wrapped by itself, in a cycle
        return None
    function = getattr(function, "__func__", function)
    return function if isinstance(function, FunctionType) else None
