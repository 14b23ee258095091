"""Turn off the fused attention of evaluation mode, which captured graphs do not contain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["default_attention"]


@contextmanager
def default_attention() -> Iterator[None]:
    """Context manager that turns off the fused attention of evaluation mode, as captures do."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
