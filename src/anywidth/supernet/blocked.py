"""Inference networks of a nested supernet that skip the products with zero blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import module_modes
from anywidth.core.tensors import tensors_in
from anywidth.groups.attention import default_attention
from anywidth.groups.compare import difference, tolerance_of
from anywidth.groups.duplicate import duplicate
from anywidth.groups.later_shells import LaterEntries
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.untouched import untouched
from anywidth.supernet.blocked_attention import BlockedAttention, is_plain_attention, split_attention
from anywidth.supernet.blocked_layer import Blocked, is_plain_layer, split_layer

if TYPE_CHECKING:
    from anywidth.supernet.supernet import Supernet
    from anywidth.widths import WidthConfig

__all__ = ["SMALLEST", "Blocked", "BlockedAttention", "blocked"]

SMALLEST = 500_000
"""MACs that one more product has to save by default: about what a call of a kernel costs on a CPU core."""


def blocked(net: Supernet, config: WidthConfig, dense: nn.Module, *, smallest: int) -> nn.Module:
    """A dense network whose layers with zero blocks are replaced by blocked ones, in place; see `Supernet.blocked`.

    Args:
        net: The nested supernet.
        config: The width of the dense network.
        dense: What `net.extract` returned for it.
        smallest: As in `Supernet.blocked`.

    Raises:
        AnalysisError: the network computes something else with these layers.
    """
    found = {
        path: module for path, module in dense.named_modules() if is_plain_layer(module) or is_plain_attention(module)
    }
    with untouched(dense), module_modes(dense, training=False), torch.no_grad(), default_attention():
        work, wanted = _watched(dense, list(found.values()), net.inputs)
    split: dict[int, nn.Module] = {}
    for path, module in found.items():
        if id(module) in work:
            new = _split(net, config, path, module, work[id(module)], smallest)
            if new is not None:
                split[id(module)] = new
    for parent in list(dense.modules()):
        for name, child in parent._modules.items():
            if id(child) in split:
                parent._modules[name] = split[id(child)]
    with untouched(dense), module_modes(dense, training=False), torch.no_grad(), default_attention():
        got = tensors_in(net.inputs.call(duplicate(dense, stand_ins(dense))))
        wrong = difference(got, wanted, tolerance_of({t.dtype for t in (*got, *wanted)}), dtypes=True)
    if wrong is not None:
        raise AnalysisError(
            f"net.blocked: {type(dense).__name__} computes something else without the zero blocks ({wrong}), because "
            "it uses its layers in another way than calling them. Use net.extract instead"
        )
    return dense


def _split(
    net: Supernet, config: WidthConfig, path: str, module: nn.Module, work: int, smallest: int
) -> nn.Module | None:
    """What stands for a module; None if it stays."""

    def zeros_of(weight: str) -> LaterEntries | None:
        name = f"{path}.{weight}"
        return net.shells.later_at(net.analysis.names.get(name, name), config)

    if isinstance(module, nn.MultiheadAttention):
        projections, output = zeros_of("in_proj_weight"), zeros_of("out_proj.weight")
        if projections is None or output is None:
            return None
        return split_attention(module, projections, output, work, smallest)
    assert is_plain_layer(module)
    later = zeros_of("weight")
    return None if later is None else split_layer(module, later, work, smallest)


def _watched(dense: nn.Module, modules: Sequence[nn.Module], inputs: Inputs) -> tuple[dict[int, int], list[Tensor]]:
    """How many products with one weight entry each module computes in a call, by its id, and the outputs of the call.

    Layers that are not called, because their parent reads their weight, are missing.
    """
    seen: dict[int, int] = {}

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        if isinstance(module, nn.modules.conv._ConvNd):
            tensor, dim = given if module.transposed else output, 1 - module.weight.ndim
        else:
            tensor, dim = given, -1
        seen[id(module)] = seen.get(id(module), 0) + tensor.numel() // tensor.shape[dim]

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        return seen, [t.clone() for t in tensors_in(inputs.call(dense))]
    finally:
        for handle in handles:
            handle.remove()
