"""The garbage collector of a process that answers requests."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["frozen_objects"]


@contextlib.contextmanager
def frozen_objects() -> Iterator[None]:
    """Context manager in which the garbage collector skips all objects that existed before.

    A full collection visits all objects of all imported packages. With PyTorch it stops all threads for tenths of a
    second, at an arbitrary time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
