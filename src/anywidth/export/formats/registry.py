"""What a format of exported files is, and the table of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anywidth.core.errors import ExportError
from anywidth.core.registry import Registry
from anywidth.cost import latency
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["FORMATS", "ExportFormat", "Prepare", "Write", "format_of"]

Write = Callable[[Path, float], float]
"""Writes a file, checks it for a tolerance, and returns its largest difference to the subnet's outputs."""


class Prepare(Protocol):
    """The function of an export format."""

    def __call__(self, net: Supernet, width: Width, *, dynamic_batch: bool) -> Write:
        """Prepare one width for writing.

        Args:
            net: The supernet; nothing of it changes.
            width: As in `Supernet.config`.
            dynamic_batch: Whether the file is to take any number of samples.

        Returns:
            What writes the file. The path that it gets is a temporary one: the file gets its name if nothing is raised.

        Raises:
            AnywidthError: the width cannot be exported, or a package is missing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One format.

    Attributes:
        name: What `format=` and `--format` call it.
        suffixes: Endings of file names that mean it, such as ".onnx".
        prepare: Prepares a width for writing.
        latency: What one call of such a file takes on this machine, in milliseconds.
    """

    name: str
    suffixes: tuple[str, ...]
    prepare: Prepare
    latency: Callable[[Supernet, Width], float] = latency


FORMATS = Registry(
    ExportFormat,
    kind="format",
    package="anywidth.export.formats",
    group="anywidth.export_formats",
    error=ExportError,
)
"""All export formats by name."""


def format_of(path: Path, format: str | None = None) -> ExportFormat:
    """The format that is asked for, or that the ending of a file means.

    Raises:
        ExportError: the format is unknown.

    >>> format_of(Path("small.onnx")).name, format_of(Path("small.bin"), "torch").name
    ('onnx', 'torch')
    """
    if format is not None:
        return FORMATS.find(format)
    found = FORMATS.first(lambda record: path.suffix in record.suffixes)
    if found is None:
        raise ExportError(
            f"the ending of {path.name!r} means no format; say format= one of {', '.join(FORMATS.names())}, or end it "
            "in .onnx"
        )
    return found
