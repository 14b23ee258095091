"""What a network returns: tensors, in whatever they are packed, without its internal state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

__all__ = ["output_tensors", "plain_outputs"]

_BY_PRODUCTS = ("encoder_last_hidden_state", "image_hidden_states")
"""Hidden tensors that a network of transformers returns along with its logits, whether asked or not."""


def output_tensors(result: Any) -> list[Tensor]:
    """The tensors that a network returns, in order.

    Left out is the internal state of models of the package transformers: caches of keys and values or of recurrent
    states, and where there are logits, the outputs of inner models. It has as many channels as the network has, and
    goes back into the same network.

    >>> import torch
    >>> [tensor.shape for tensor in output_tensors({"logits": torch.zeros(2, 3), "aux": [torch.zeros(4)], "n": 5})]
    [torch.Size([2, 3]), torch.Size([4])]
    """
    return list(_tensors(result))


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif _is_cache(item):
        return
    elif isinstance(item, Mapping) and _is_of_transformers(item):
        logits = any(name.startswith("logits") for name in item)
        for name, part in item.items():
            if not (logits and (name in _BY_PRODUCTS or name.endswith("_model_output"))):
                yield from _tensors(part)
    elif is_dataclass(item) and not isinstance(item, type):
        for field in fields(item):
            yield from _tensors(getattr(item, field.name))
    else:
        leaves = pytree.tree_leaves(item, is_leaf=lambda leaf: leaf is not item)
        for leaf in leaves:
            if leaf is not item:
                yield from _tensors(leaf)


def _is_of_transformers(item: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "transformers" for kind in type(item).__mro__)


def _is_cache(item: Any) -> bool:
    return type(item).__name__.endswith("Cache") and _is_of_transformers(item)


@contextmanager
def plain_outputs(model: nn.Module) -> Iterator[None]:
    """Context manager that lets a model return its output tensors as a list, which `torch.export` understands."""
    handle = model.register_forward_hook(lambda _, __, result: output_tensors(result))
    try:
        yield
    finally:
        handle.remove()
