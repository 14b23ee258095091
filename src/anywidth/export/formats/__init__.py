"""Export formats, one file each."""

from anywidth.export.formats.registry import FORMATS, ExportFormat, Write, format_of

__all__ = ["FORMATS", "ExportFormat", "Write", "format_of"]
