"""Nested data with tensors, as JSON and a table of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anywidth.core.errors import CheckpointError

__all__ = ["decode", "encode"]

_LARGE = 65_536
"""Larger floating-point example inputs are drawn again instead of stored."""


def encode(value: Any, prefix: str, tensors: dict[str, Tensor], what: str, *, redraw: bool = False) -> Any:
    """The JSON form of tensors, numbers, strings, bytes, None, lists, tuples and dicts.

    Args:
        value: The data.
        prefix: Prefix of the names of its tensors.
        tensors: Receives the tensors, by name.
        what: Description of the data, for the error.
        redraw: Store only the shape of large floating-point tensors.

    Raises:
        CheckpointError: the data contain another type.

    >>> found = {}
    >>> encode({"mask": torch.ones(2, dtype=torch.long)}, "inputs", found, "the inputs"), list(found)
    ({'dict': [[{'value': 'mask'}, {'stored': 'inputs/0'}]]}, ['inputs/0'])
    """

    def form(item: Any) -> Any:
        if isinstance(item, Tensor):
            if redraw and item.is_floating_point() and item.numel() > _LARGE:
                return {"tensor": list(item.shape), "dtype": str(item.dtype).removeprefix("torch.")}
            name = f"{prefix}/{len(tensors)}"
            tensors[name] = item
            return {"stored": name}
        if isinstance(item, Mapping):
            return {"dict": [[form(key), form(part)] for key, part in item.items()]}
        if isinstance(item, (list, tuple)):
            return {"list" if isinstance(item, list) else "tuple": [form(part) for part in item]}
        if isinstance(item, bytes):
            return {"bytes": item.hex()}
        if item is None or isinstance(item, (bool, int, float, str)):
            return {"value": item}
        raise CheckpointError(
            f"{what} of type {type(item).__name__} cannot be saved; use tensors, numbers, strings, "
            "None, lists, tuples and dicts"
        )

    return form(value)


def decode(form: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device | None = None) -> Any:
    """The data from which `encode` made this form; tensors are on `device`.

    >>> decode({"tuple": [{"value": 1}, {"stored": "x/0"}]}, {"x/0": torch.tensor([2])})
    (1, tensor([2]))
    """
    generator = torch.Generator().manual_seed(0)

    def restore(item: Mapping[str, Any]) -> Any:
        if "stored" in item:
            return tensors[item["stored"]].to(device)
        if "tensor" in item:
            return torch.randn(item["tensor"], generator=generator, dtype=getattr(torch, item["dtype"])).to(device)
        if "dict" in item:
            return {restore(key): restore(part) for key, part in item["dict"]}
        if "list" in item:
            return [restore(part) for part in item["list"]]
        if "tuple" in item:
            return tuple(restore(part) for part in item["tuple"])
        return bytes.fromhex(item["bytes"]) if "bytes" in item else item["value"]

    return restore(form)
