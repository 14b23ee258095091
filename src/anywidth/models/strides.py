"""Fewer strides for small images."""

from __future__ import annotations

from collections.abc import Sequence

from anywidth.core.errors import ModelError

__all__ = ["keep_last_strides"]


def keep_last_strides(strides: Sequence[int], downsamplings: int) -> list[int]:
    """Strides in which only the last `downsamplings` above 1 are kept; earlier ones become 1.

    A network for 224x224 images halves the resolution five times; 32x32 images allow three. Without the first two,
    MobileNetV2 has 88M MACs on CIFAR-10, as in AutoSlim (arXiv 1903.11728).

    Raises:
        ModelError: there are fewer strided layers than `downsamplings`.

    >>> keep_last_strides([2, 1, 2, 2], 2)
    [1, 1, 2, 2]
    """
    strided = [i for i, stride in enumerate(strides) if stride > 1]
    if not 0 <= downsamplings <= len(strided):
        raise ModelError(f"downsamplings must be between 0 and {len(strided)}, not {downsamplings}")
    kept = set(strided[len(strided) - downsamplings :])
    return [stride if i in kept else 1 for i, stride in enumerate(strides)]
