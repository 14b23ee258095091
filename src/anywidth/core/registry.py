"""Registries of named records, including those of other packages."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar

from anywidth.core.errors import AnywidthError, first_line

__all__ = ["Registry"]


class Named(Protocol):
    """An object with a name."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)


class Registry(Generic[R]):
    """Registry for records of one kind.

    Each module of `package` adds its record on import, so that a new record is one new file. Other packages list
    records as entry points of `group`. These are imported only if the library has no matching record, and never
    replace a library record.

    Args:
        record: Class of the records.
        kind: Name of the kind in messages, such as "search method".
        package: Package whose modules define the library's records.
        group: Entry-point group.
        error: Exception class for an unknown name.

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
        self._unknown: set[tuple[str, ...]] = set()

    def add(self, record: R) -> R:
        """Add a record, replacing one of the same name, and return it."""
        self._records[record.name] = record
        self._unknown.clear()
        return record

    def find(self, name: str) -> R:
        """Record with a given name.

        Raises:
            AnywidthError: the name is unknown.
        """
        found = self.first(lambda record: record.name == name)
        if found is None:
            raise self.error(f"{self.kind} {name!r} is unknown; choose one of {', '.join(self.names())}")
        return found

    def first(self, fits: Callable[[R], bool]) -> R | None:
        """First record for which `fits` returns true, or None."""
        self._load_own()
        for record in self._records.values():
            if fits(record):
                return record
        self._load_entry_points()
        return next((record for record in self._records.values() if fits(record)), None)

    def first_of(self, names: Sequence[str], otherwise: str | None = None) -> R | None:
        """The record of the first of several names that has one, or else of the name `otherwise`; None if none has.

        Other packages are asked only where there is no `otherwise`, and once for the same names.
        """
        self._load_own()
        wanted = (*names, otherwise) if otherwise is not None else tuple(names)
        found = next((self._records[name] for name in wanted if name in self._records), None)
        if found is None and wanted not in self._unknown:
            self._load_entry_points()
            found = next((self._records[name] for name in wanted if name in self._records), None)
            if found is None:
                self._unknown.add(wanted)
        return found

    def names(self) -> list[str]:
        """Names of all records in alphabetical order."""
        self._load_own()
        self._load_entry_points()
        return sorted(self._records)

    def _load_own(self) -> None:
        if not self._loaded:
            self._loaded = True
            for module in pkgutil.iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{module.name}")

    def _load_entry_points(self) -> None:
        """Add records of other packages whose names are still free."""
        for point in entry_points(group=self.group):
            where = f"entry point {point.name} = {point.value} of the group {self.group}"
            try:
                record = point.load()
            except Exception as error:  # importing another package may raise anything
                raise self.error(
                    f"{where} cannot be loaded: {first_line(error)}; repair or uninstall its package"
                ) from error
            if not isinstance(record, self.record):
                raise self.error(f"{where} is a {type(record).__name__}; it must be a {self.record.__name__}")
            self._records.setdefault(record.name, record)
