"""Other tensors in place of the parameters and buffers of a model, for copies of it."""

from __future__ import annotations

from torch import Tensor, nn

from anywidth.core.modules import named_tensors, on_meta

__all__ = ["meta_stand_ins", "stand_ins"]


def stand_ins(model: nn.Module, *, buffers: bool = False, weights: bool = False) -> dict[int, Tensor]:
    """For every parameter and buffer, by id: another tensor object, with shared or separate memory.

    Args:
        model: The model.
        buffers: Whether buffers get separate memory.
        weights: Whether parameters do. They always do if a class defines `train`, which may merge weights.
    """
    weights = weights or any(type(module).train is not nn.Module.train for module in model.modules())
    found: dict[int, Tensor] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in found:
                apart = weights if isinstance(tensor, nn.Parameter) else buffers
                found[id(tensor)] = _like(tensor, tensor.detach().clone() if apart else tensor.detach())
    return found


def meta_stand_ins(model: nn.Module) -> dict[int, Tensor]:
    """For every parameter, buffer and other tensor attribute, by id: an empty tensor on the meta device."""
    found = {id(tensor): on_meta(tensor) for tensor in named_tensors(model).values()}
    for module in model.modules():
        found |= {id(value): on_meta(value) for value in vars(module).values() if isinstance(value, Tensor)}
    return found


def _like(original: Tensor, tensor: Tensor) -> Tensor:
    if isinstance(original, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=original.requires_grad)
    return tensor.requires_grad_(original.requires_grad and original.is_leaf)
