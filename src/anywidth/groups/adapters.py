"""Adapters, one per class: update module state that depends on tensor shapes after narrowing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["adapt", "adapter", "repeated"]

Adapter = Callable[[Any], None]
F = TypeVar("F", bound=Adapter)
_ADAPTERS: dict[type[nn.Module], Adapter] = {}


def adapter(*kinds: type[nn.Module]) -> Callable[[F], F]:
    """Register a function that completes narrowed modules of these classes (and their subclasses).

    It receives every such module of a subnet, after its tensors and integer attributes are set, and updates in place
    any other state that depends on sizes. Calling it again must not change anything. The proof of the groups runs with
    it, so a wrong adapter freezes channels and never leads to a wrong subnet.

    >>> class Averaged(nn.Linear):
    ...     def __init__(self, inputs: int, outputs: int) -> None:
    ...         super().__init__(inputs, outputs)
    ...         self.share = 1 / inputs
    >>> @adapter(Averaged)
    ... def averaged(module: Averaged) -> None:
    ...     module.share = 1 / module.weight.shape[1]
    """

    def register(function: F) -> F:
        _ADAPTERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def adapt(module: nn.Module) -> None:
    """Run the adapters of a module's class and its base classes, the most general first."""
    for kind in reversed(type(module).__mro__):
        if kind in _ADAPTERS:
            _ADAPTERS[kind](module)


def repeated(kind: type) -> frozenset[str]:
    """Names of the numbers that adapters may set in modules of a class, from its bases among torch's layers.

    >>> class Own(nn.Linear): pass
    >>> sorted(repeated(Own))
    ['in_features', 'out_features']
    """
    return frozenset(
        name
        for base in kind.__mro__
        if base in _ADAPTERS and base.__module__.startswith("torch.nn")
        for name in getattr(base, "__constants__", ())
    )


@adapter(nn.modules.conv._ConvNd)
def _convolution(module: nn.modules.conv._ConvNd) -> None:
    first, second = module.weight.shape[0], module.weight.shape[1] * module.groups
    module.out_channels, module.in_channels = (second, first) if module.transposed else (first, second)


@adapter(nn.Linear)
def _linear(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


@adapter(nn.modules.batchnorm._NormBase)
def _batch_norm(module: nn.modules.batchnorm._NormBase) -> None:
    reference = module.weight if isinstance(module.weight, Tensor) else module.running_mean
    if reference is not None:
        module.num_features = reference.shape[0]


@adapter(nn.LayerNorm, nn.RMSNorm)
def _layer_norm(module: nn.LayerNorm | nn.RMSNorm) -> None:
    if isinstance(module.weight, Tensor):
        module.normalized_shape = tuple(module.weight.shape)


@adapter(nn.GroupNorm)
def _group_norm(module: nn.GroupNorm) -> None:
    if isinstance(module.weight, Tensor):
        module.num_channels = module.weight.shape[0]


@adapter(nn.PReLU)
def _prelu(module: nn.PReLU) -> None:
    module.num_parameters = module.weight.shape[0]


@adapter(nn.Embedding)
def _embedding(module: nn.Embedding) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@adapter(nn.Transformer)
def _transformer(module: nn.Transformer) -> None:
    attention = next((part for part in module.modules() if isinstance(part, nn.MultiheadAttention)), None)
    if attention is not None:
        module.d_model = attention.embed_dim
