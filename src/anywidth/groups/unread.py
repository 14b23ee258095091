"""Sizes that a module keeps and its forward does not read, but other methods do: those that fuse branches, say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType

from torch import nn

from anywidth.groups.analysis import Attribute, Scale
from anywidth.groups.labels import Array

__all__ = ["find_unread"]

_INWARD = re.compile(r"in_?(channels|chs|features|planes|dim)|dim_in")
_OUTWARD = re.compile(r"out_?(channels|chs|features|planes|dim)|dim_out")
_EITHER = re.compile(r"dim|channels|planes|num_features|embed_dim|groups")


def find_unread(
    path: str,
    module: nn.Module,
    dims: Mapping[str, tuple[Array | None, ...]],
    scale_of: Callable[[Array], Scale],
) -> dict[str, Attribute]:
    """The integer attributes that are named like a number of channels, and count those of a weight in the module.

    Args:
        path: The module's path.
        module: The module.
        dims: Labels of every dimension of every tensor of the model, by name.
        scale_of: The size of a dimension from its labels.
    """
    names = [
        name
        for name, value in vars(module).items()
        if type(value) is int and value > 1 and any(p.fullmatch(name) for p in (_INWARD, _OUTWARD, _EITHER))
    ]
    if not names:
        return {}
    read = _read(type(module))
    found = {}
    for name in names:
        if name not in read:
            scale = next(_candidates(name, getattr(module, name), path, dims, scale_of), None)
            if scale is not None:
                found[name] = Attribute((((scale, 1),),))
    return found


def _candidates(
    name: str, value: int, path: str, dims: Mapping[str, tuple[Array | None, ...]], scale_of: Callable[[Array], Scale]
) -> Iterator[Scale]:
    """Sizes of dimensions of that length: of what the first weights read, of what the last ones make."""
    tensors = [vectors for tensor, vectors in dims.items() if tensor.startswith(f"{path}.") and vectors]
    inside = [vectors for vectors in tensors if len(vectors) > 1] or tensors
    if _OUTWARD.fullmatch(name):
        inside.reverse()
    for vectors in inside:
        depthwise = len(vectors) == 1 or vectors[1] is None
        if name == "groups":
            order = (0,) if depthwise else ()
        else:
            order = (0,) if depthwise or _OUTWARD.fullmatch(name) else (1, 0)
        for dim in order:
            vector = vectors[dim]
            if vector is not None and depthwise and not _OUTWARD.fullmatch(name):
                vector = vector[:: max(1, vector.size // value)]  # several channels may be made of each
            if vector is not None and vector.size == value:
                scale = scale_of(vector)
                if scale.parts:
                    yield scale


def _read(kind: type) -> set[str]:
    """Names that a forward refers to, in itself and in the methods of its class that it refers to."""
    seen: set[str] = set()
    waiting = ["forward"]
    while waiting:
        method = getattr(kind, waiting.pop(), None)
        if isinstance(method, FunctionType):
            new = _names(method.__code__) - seen
            seen |= new
            waiting.extend(new)
    return seen


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))
