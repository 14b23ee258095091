"""Digests that identify tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["digest_of"]


def digest_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A short text that is the same for the same texts and numbers, in their order, on any device.

    >>> digest_of([("a", torch.ones(2))]) == digest_of([("a", torch.ones(2))]) != digest_of([("b", torch.ones(2))])
    True
    """
    found = hashlib.sha256()
    for text, tensor in tensors:
        found.update(text.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
