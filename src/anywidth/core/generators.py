"""The global generators of random numbers on the CPU: those of torch, NumPy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generators_kept", "seed_generators"]


def seed_generators(seed: int) -> None:
    """Seed all three, and no generator of a GPU.

    Args:
        seed: From 0 to 2**32 - 1, because NumPy takes no larger one.

    >>> seed_generators(7)
    >>> first = random.random(), np.random.rand(), torch.rand(1).item()
    >>> seed_generators(7)
    >>> first == (random.random(), np.random.rand(), torch.rand(1).item())
    True
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Context manager that restores all three.

    >>> before = torch.get_rng_state()
    >>> with generators_kept():
    ...     seed_generators(7)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
