"""A copy of a module tree on other tensors: the surgery behind every subnet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.trace import named_tensors

__all__ = ["is_leading", "narrow", "take"]

Bind = Callable[[str, Tensor, Sequence[Kept]], Tensor]


def is_leading(kept: Sequence[Kept]) -> bool:
    """Whether the kept part is a leading block, so that a view can stand for it."""
    return all(k is None or isinstance(k, int) for k in kept)


def take(tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
    """The kept part of a tensor: a view if it is a leading block, else a copy."""
    for dim, k in enumerate(kept):
        if isinstance(k, int):
            tensor = tensor.narrow(dim, 0, k)
        elif k is not None:
            tensor = tensor.index_select(dim, torch.from_numpy(k).to(tensor.device))
    return tensor


def narrow(model: nn.Module, analysis: Analysis, units: npt.NDArray[np.int64], bind: Bind) -> nn.Module:
    """A copy of `model` (same classes, same forward) whose tensors are what `bind` returns.

    `bind(name, tensor, kept)` is called once per parameter and buffer, by its first name. Integer attributes
    that forwards read (groups, normalised shapes, numbers of features) are set to fit.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model).items():
        if id(tensor) not in memo:
            memo[id(tensor)] = bind(name, tensor, analysis.kept(analysis.names[name], units))
    narrowed = copy.deepcopy(model, memo)
    for path, attributes in analysis.attributes.items():
        module = narrowed.get_submodule(path)
        for name, attribute in attributes.items():
            values = attribute.values(units)
            before = getattr(module, name)
            # Straight into the instance: some modules check in __setattr__, and properties stay what they are.
            module.__dict__[name] = type(before)(values) if isinstance(before, (tuple, list)) else values[0]
    for module in narrowed.modules():
        _follow(module)
        for name, value in vars(module).items():
            # A plain dict of tensors is a cache of the forward, filled at full width; it fills itself again.
            cache = type(value) is dict and name not in ("_parameters", "_buffers")
            if cache and value and all(isinstance(item, Tensor) for item in value.values()):
                value.clear()
    return narrowed


def _follow(new: Any) -> None:
    """Set the sizes that a module of torch.nn repeats from its tensors (for its repr, mostly) to their shapes."""
    weight = getattr(new, "weight", None)
    if isinstance(new, nn.modules.conv._ConvNd):
        assert isinstance(weight, Tensor)
        first, second = weight.shape[0], weight.shape[1] * new.groups
        if new.transposed:
            new.in_channels, new.out_channels = first, second
        else:
            new.out_channels, new.in_channels = first, second
    elif isinstance(new, nn.Linear):
        new.out_features, new.in_features = new.weight.shape
    elif isinstance(new, nn.modules.batchnorm._NormBase):
        reference = weight if isinstance(weight, Tensor) else new.running_mean
        if reference is not None:
            new.num_features = reference.shape[0]
    elif isinstance(new, (nn.LayerNorm, nn.RMSNorm)) and isinstance(weight, Tensor):
        new.normalized_shape = tuple(weight.shape)
    elif isinstance(new, nn.GroupNorm) and isinstance(weight, Tensor):
        new.num_channels = weight.shape[0]
    elif isinstance(new, nn.PReLU) and isinstance(weight, Tensor):
        new.num_parameters = weight.shape[0]
    elif isinstance(new, nn.Embedding):
        new.num_embeddings, new.embedding_dim = new.weight.shape
