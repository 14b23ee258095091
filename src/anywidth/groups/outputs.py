"""The output tensors of a network in any structure, without its internal state."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.groups.reach import attributes_in

__all__ = ["output_tensors", "plain_outputs"]

_BY_PRODUCTS = ("encoder_last_hidden_state", "image_hidden_states")
"""Hidden tensors that a network of transformers may return along with its logits."""


def output_tensors(result: Any) -> list[Tensor]:
    """The tensors that a network returns, in order.

    The internal state of models of the package transformers is left out: caches of keys and values or of recurrent
    states, and if there are logits, the outputs of inner models. Its channels depend on the width, and it is passed
    back to the same network.

    >>> import torch
    >>> [tensor.shape for tensor in output_tensors({"logits": torch.zeros(2, 3), "aux": [torch.zeros(4)], "n": 5})]
    [torch.Size([2, 3]), torch.Size([4])]
    """
    return list(_tensors(result))


def _tensors(item: Any, above: tuple[int, ...] = ()) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif id(item) in above or _is_cache(item):
        return
    elif isinstance(item, Mapping) and _is_of_transformers(item):
        logits = any(name.startswith("logits") for name in item)
        for name, part in item.items():
            if not (logits and (name in _BY_PRODUCTS or name.endswith("_model_output"))):
                yield from _tensors(part, (*above, id(item)))
    elif is_dataclass(item) and not isinstance(item, type):
        for field in fields(item):
            yield from _tensors(getattr(item, field.name), (*above, id(item)))
    else:
        leaves = pytree.tree_leaves(item, is_leaf=lambda leaf: leaf is not item)
        parts = [leaf for leaf in leaves if leaf is not item]
        if len(leaves) == 1 and leaves[0] is item:
            parts = _inside(item)
        for part in parts:
            yield from _tensors(part, (*above, id(item)))


def _inside(item: Any) -> list[Any]:
    """The contents of an object that torch does not know: the values of a mapping, and attributes."""
    if isinstance(item, (type, nn.Module, types.ModuleType, types.FunctionType, types.MethodType)):
        return []
    return [*(item.values() if isinstance(item, Mapping) else ()), *attributes_in(item).values()]


def _is_of_transformers(item: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "transformers" for kind in type(item).__mro__)


def _is_cache(item: Any) -> bool:
    return type(item).__name__.endswith("Cache") and _is_of_transformers(item)


@contextmanager
def plain_outputs(model: nn.Module) -> Iterator[None]:
    """Context manager in which a model returns its output tensors as a list, which `torch.export` supports."""
    handle = model.register_forward_hook(lambda _, __, result: output_tensors(result))
    try:
        yield
    finally:
        handle.remove()
