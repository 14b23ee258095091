"""Imports of packages from optional extras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anywidth.core.errors import MissingExtraError

__all__ = ["from_extra"]


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Context manager that turns a failed import into an error that names the extra to install.

    Args:
        extra: Name of the extra in `pyproject.toml`.
        what: The feature and the packages it needs, such as "plots need matplotlib".

    Raises:
        MissingExtraError: the package is not installed.

    >>> with from_extra("plots", "plots need no_such_package"):
    ...     import no_such_package
    Traceback (most recent call last):
    anywidth.core.errors.MissingExtraError: plots need no_such_package: pip install 'anywidth[plots]'
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{what}: pip install 'anywidth[{extra}]'") from error
