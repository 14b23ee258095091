"""Records that are found by name: the library's own, and those of other packages."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar

from anywidth.core.errors import AnywidthError, first_line

__all__ = ["Registry"]


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)


class Registry(Generic[R]):
    """Records of one kind.

    A module of the package `package` adds its record when it is imported, so that a new record is one new file there.
    Another package lists its records as entry points of `group`. They are imported when the library's own records do
    not have what is looked for, and never replace one of those.

    Args:
        record: The class of the records.
        kind: What a record is called in messages, such as "search method".
        package: The package whose modules hold the library's own records.
        group: The group of entry points.
        error: Raised for an unknown name.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Colour:
    ...     name: str
    >>> colours = Registry(Colour, kind="colour", package="anywidth.core", group="colours", error=AnywidthError)
    >>> _ = colours.add(Colour("red"))
    >>> colours.find("red")
    Colour(name='red')
    >>> colours.find("blue")
    Traceback (most recent call last):
    anywidth.core.errors.AnywidthError: colour 'blue' is unknown; choose one of red
    """

    def __init__(self, record: type[R], *, kind: str, package: str, group: str, error: type[AnywidthError]) -> None:
        self.record, self.kind, self.package, self.group, self.error = record, kind, package, group, error
        self._records: dict[str, R] = {}
        self._loaded = False

    def add(self, record: R) -> R:
        """Add a record, in place of one of the same name, and return it."""
        self._records[record.name] = record
        return record

    def find(self, name: str) -> R:
        """The record of a name.

        Raises:
            AnywidthError: the name is unknown.
        """
        found = self.first(lambda record: record.name == name)
        if found is None:
            raise self.error(f"{self.kind} {name!r} is unknown; choose one of {', '.join(self.names())}")
        return found

    def first(self, fits: Callable[[R], bool]) -> R | None:
        """The first record for which a function returns true, or None."""
        self._load_own()
        for record in self._records.values():
            if fits(record):
                return record
        self._load_entry_points()
        return next((record for record in self._records.values() if fits(record)), None)

    def names(self) -> list[str]:
        """The names of all records, in alphabetic order."""
        self._load_own()
        self._load_entry_points()
        return sorted(self._records)

    def _load_own(self) -> None:
        if not self._loaded:
            self._loaded = True
            for module in pkgutil.iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{module.name}")

    def _load_entry_points(self) -> None:
        """Add the records of other packages whose names are not taken."""
        for point in entry_points(group=self.group):
            where = f"entry point {point.name} = {point.value} of the group {self.group}"
            try:
                record = point.load()
            except Exception as error:  # importing another package may raise anything
                raise self.error(
                    f"{where} cannot be loaded: {first_line(error)}; mend or remove its package"
                ) from error
            if not isinstance(record, self.record):
                raise self.error(f"{where} is a {type(record).__name__}; it has to be a {self.record.__name__}")
            self._records.setdefault(record.name, record)
