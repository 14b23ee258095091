"""Memory that the process keeps between batches."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

__all__ = ["give_back_memory", "kept_memory"]

# Parameters of mallopt(3), and glibc's defaults.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEEP = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0, _ARENA_MAX: 1}
_DEFAULT = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536, _ARENA_MAX: 0}


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Context manager in which the process keeps freed memory, so that batches take the measured time.

    glibc returns large blocks to the system as soon as they are freed. Activations are such blocks, so every batch
    requests fresh pages. Sometimes, above all on a virtual machine, that takes several times as long as the network
    itself. The cost is that the process never shrinks. Enter it before threads start. Without glibc it does nothing.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    for parameter, value in _KEEP.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _DEFAULT.items():
            libc.mallopt(parameter, value)
        give_back_memory()


def give_back_memory() -> None:
    """Return freed memory to the system, for use after loading, which needs much more memory than serving."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
