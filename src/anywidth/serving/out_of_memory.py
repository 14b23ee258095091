"""Distinguish a lack of memory from an input that the network does not accept."""

from __future__ import annotations

import torch

__all__ = ["is_out_of_memory"]

_SAID = ("can't allocate memory", "not enough memory", "failed to allocate memory", "bad allocation", "bad_alloc")
"""Messages of PyTorch on the CPU and of ONNX Runtime, which have no error class for this."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether numpy, PyTorch or ONNX Runtime failed because memory ran out.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(IndexError("index out of range in self"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and any(words in str(error).lower() for words in _SAID)
