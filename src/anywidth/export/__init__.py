"""A width as a file that other programs run."""

from anywidth.export.export import Exported, Format, export
from anywidth.export.torch_file import load_dense

__all__ = ["Exported", "Format", "export", "load_dense"]
