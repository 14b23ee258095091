"""Atomic file writes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from anywidth.core.errors import CheckpointError

__all__ = ["write_atomically"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Run `write` on a temporary file next to `path` and rename it to `path`; readers see the old or the new file.

    Raises:
        CheckpointError: the disk is full or the folder is not writable; the previous file is kept.
    """
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, handle = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        write(Path(handle))
        with open(handle, "rb") as file:  # noqa: PTH123 - the descriptor is needed for fsync
            os.fsync(file.fileno())
        Path(handle).chmod(0o644)
        Path(handle).replace(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; the previous file, if any, is unchanged"
        ) from error
    finally:
        if handle is not None:
            Path(handle).unlink(missing_ok=True)
    return path
