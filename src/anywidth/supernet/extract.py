"""Independent copies of subnets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.narrow import narrow, take
from anywidth.supernet.statistics import norm_modules
from anywidth.supernet.subnet import OwnTensor
from anywidth.widths import WidthConfig

__all__ = ["extract"]


@torch.no_grad()
def extract(
    model: nn.Module,
    analysis: Analysis,
    config: WidthConfig,
    own_tensor: OwnTensor,
    *,
    calibrated: bool,
    handmade: Sequence[tuple[str, str]] = (),
) -> nn.Module:
    """A plain network of one config that shares no tensors with the supernet; see `Supernet.extract`."""

    def bind(name: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
        own = own_tensor(name, tensor, kept)
        part = take(tensor.detach(), kept) if own is None else own.detach()
        copy = part.clone(memory_format=torch.contiguous_format)
        return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy

    dense = narrow(model, analysis, analysis.blocks(config), bind)
    if not calibrated:
        for norm in norm_modules(dense).values():
            norm.reset_running_stats()
        own = dict(dense.named_buffers(remove_duplicate=False))
        for mean, variance in handmade:
            own[mean].zero_()
            own[variance].fill_(1)
    return dense
