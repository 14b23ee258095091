"""Memory that the process keeps from one batch to the next."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

__all__ = ["give_back_memory", "kept_memory"]

# Parameters of mallopt(3), and what glibc starts with.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEEP = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0, _ARENA_MAX: 1}
_DEFAULT = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536, _ARENA_MAX: 0}


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Within it, memory that is freed stays with the process: batches take the time that they were measured to take.

    glibc gives large blocks back to the system as soon as they are freed. Activations are such blocks: every batch then
    asks for fresh pages, and now and then, on a virtual machine above all, that takes several times as long as the
    network itself. The price is that the process stays as large as it has been once. Enter it before threads start.
    Without glibc it does nothing.
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
    """Give freed memory back to the system, as after loading, which takes several times what stays."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
