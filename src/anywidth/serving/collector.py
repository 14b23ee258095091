"""The garbage collector of a process that answers requests."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["frozen_objects"]


@contextlib.contextmanager
def frozen_objects() -> Iterator[None]:
    """Within it, the garbage collector looks only at objects that are made within it.

    A full collection goes through all objects of all imported packages. With PyTorch that takes tenths of a second, at
    a time that nobody chose, in which no thread runs.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
