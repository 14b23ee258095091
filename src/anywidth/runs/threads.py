"""Number of CPU threads for a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anywidth.cost import macs
from anywidth.supernet import Supernet

__all__ = ["fitting_threads"]

_SMALL = 100_000_000
"""MACs of a forward pass below which a second thread does not pay off."""


@contextmanager
def fitting_threads(net: Supernet, batch_size: int) -> Iterator[None]:
    """Context manager that runs small networks on one thread.

    Threads that synchronize after every tiny layer are no faster on an idle machine, and ten times slower on one
    that other processes use as well.
    """
    before = torch.get_num_threads()
    try:
        if macs(net) * batch_size < _SMALL:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
