"""Batches of a loader, split into what the model is called with and what it is compared to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.errors import DataError
from anywidth.groups.trace import Inputs, normalise_inputs

__all__ = ["model_device", "split_batch"]


def model_device(model: nn.Module) -> torch.device:
    """Where the first parameter of a model is; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def split_batch(batch: Any, device: torch.device | None = None) -> tuple[Inputs, Any]:
    """Inputs and targets of a batch, moved to a device.

    A pair is (inputs, targets); a mapping gives its `labels` as targets and the rest as keyword arguments; a lone
    tensor has no targets (None). Inputs may themselves be a tuple of arguments or a mapping.
    """
    if device is not None:
        batch = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)
    if isinstance(batch, Tensor):
        return normalise_inputs(batch), None
    if isinstance(batch, Mapping):
        rest = {key: value for key, value in batch.items() if key != "labels"}
        return normalise_inputs(rest), batch.get("labels")
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return normalise_inputs(batch[0]), None
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return normalise_inputs(batch[0]), batch[1]
    raise DataError(
        f"a loader gave a {type(batch).__name__} of {len(batch) if hasattr(batch, '__len__') else '?'} parts; "
        "it should give (inputs, targets) pairs, tensors, or mappings with 'labels'"
    )
