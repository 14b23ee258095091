"""The masked network's values, with which those of narrowed networks are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from anywidth.groups.compare import tensor_difference
from anywidth.groups.observed import Key

__all__ = ["Received", "Reference", "ShapeError"]

Received = dict[tuple[Key, int], list[Tensor]]
"""The inputs of operators that read weights, by the weights and the number of earlier reads."""


class ShapeError(Exception):
    """An operator that reads weights received another shape than the kept part of the full network's."""


@dataclass(frozen=True)
class Reference:
    """The outputs of the masked network, the precisions of its computation, and the inputs of its operators."""

    outputs: list[Tensor]
    dtypes: set[torch.dtype]
    received: Mapping[tuple[Key, int], list[Tensor | None]]

    def difference(self, seen: Received, tolerance: tuple[float, float]) -> str | None:
        """Text of the first difference in the inputs of a narrowed network's operators, or None."""
        for (key, index), found in seen.items():
            for ours, wanted in zip(found, self.received.get((key, index), []), strict=False):
                text = None if wanted is None else tensor_difference(ours, wanted, tolerance)
                if text is not None:
                    return (
                        f"its narrowed network differs from the masked one by {text} at the input of {', '.join(key)}"
                    )
        return None
