"""Sizes that a module stores but that no operator of its captured forward receives.

Other methods read some of them (such as those that fuse branches); forwards read others for inputs unlike the example.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Set
from functools import lru_cache
from types import CodeType, FunctionType

from torch import nn

from anywidth.groups.adapters import repeated
from anywidth.groups.analysis import Attribute, Scale
from anywidth.groups.labels import Array
from anywidth.groups.python_code import closed_values, function_behind, nested_code

__all__ = ["find_equal", "find_stale_sizes", "read_elsewhere"]

_INWARD = re.compile(r"in_?(channels|chs|features|planes|dim)|dim_in")
_OUTWARD = re.compile(r"out_?(channels|chs|features|planes|dim)|dim_out")
_EITHER = re.compile(r"dim|channels|planes|num_features|embed_dim|groups")


def find_stale_sizes(
    path: str,
    module: nn.Module,
    dims: Mapping[str, tuple[Array | None, ...]],
    scale_of: Callable[[Array], Scale],
    elsewhere: Set[str] = frozenset(),
) -> dict[str, Attribute]:
    """The integer attributes named like a number of channels that count the channels of a weight in the module.

    Args:
        path: The module's path.
        module: The module.
        dims: Labels of every dimension of every tensor of the model, by name.
        scale_of: Returns the size of a dimension from its labels.
        elsewhere: Names that forwards read from other objects; the proof decides whether these follow.
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
            value = getattr(module, name)
            scale = next(_candidates(name, value, path, dims, scale_of), None)
            if scale is not None:
                found[name] = Attribute((((scale, 1), (Scale(value, ()), 1))[: 2 if name in elsewhere else 1],))
    return found


def find_equal(
    path: str,
    module: nn.Module,
    dims: Mapping[str, tuple[Array | None, ...]],
    scale_of: Callable[[Array], Scale],
) -> dict[str, Attribute]:
    """The integer attributes that a forward refers to and that equal a number of channels of a weight in the module.

    They are left alone at first, because no operator may receive them for the example inputs. Those that adapters set
    for layers of torch follow at first, unless the subclass computes something from them.
    """
    values = {name: value for name, value in vars(module).items() if type(value) is int and value > 1}
    if not values:
        return {}
    read = _read(type(module))
    found = {}
    for name, value in values.items():
        if name not in read or name.startswith("_"):
            continue
        equal = (v for t, vectors in dims.items() if t.startswith(f"{path}." if path else "") for v in vectors)
        scales = (scale_of(v) for v in equal if v is not None and v.size == value)
        scale = next((scale for scale in scales if scale.parts), None)
        if scale is not None:
            alone, follows = (Scale(value, ()), 1), (scale, 1)
            found[name] = Attribute(((follows, alone) if name in repeated(type(module)) else (alone, follows),))
    return found


def _candidates(
    name: str, value: int, path: str, dims: Mapping[str, tuple[Array | None, ...]], scale_of: Callable[[Array], Scale]
) -> Iterator[Scale]:
    """Sizes of dimensions of that length: inputs of the first weights, outputs of the last ones."""
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
                vector = vector[:: max(1, vector.size // value)]  # each may be made into several channels
            if vector is not None and vector.size == value:
                scale = scale_of(vector)
                if scale.parts:
                    yield scale


def read_elsewhere(model: nn.Module) -> frozenset[str]:
    """Names that forwards of a model's modules read from objects other than the module itself."""
    found: set[str] = set()
    for kind in {type(module) for module in model.modules()}:
        if not kind.__module__.startswith("torch.nn"):
            found |= _read_from_others(kind)
    return frozenset(found)


@lru_cache(maxsize=4096)
def _read_from_others(kind: type) -> frozenset[str]:
    return frozenset(name for function in _functions(kind) for name in _foreign(function.__code__))


def _read(kind: type) -> set[str]:
    """Names that a forward uses, including in the methods of its class that it uses."""
    return {name for function in _functions(kind) for name in _names(function.__code__)}


def _functions(kind: type) -> list[FunctionType]:
    """A class's forward, and the methods, properties and functions of its module file that it uses."""
    found: dict[FunctionType, None] = {}
    waiting = [function_behind(inspect.getattr_static(kind, name, None)) for name in ("forward", "__call__")]
    while waiting:
        function = waiting.pop()
        if function is None or function in found or (function.__module__ or "").startswith("torch"):
            continue
        found[function] = None
        names = _names(function.__code__)
        waiting += [function_behind(inspect.getattr_static(kind, name, None)) for name in names]
        beside = [function.__globals__.get(name) for name in names]
        waiting += [
            other
            for other in (*beside, *closed_values(function))
            if isinstance(other, FunctionType) and other.__module__ == function.__module__
        ]
    return list(found)


def _names(code: CodeType) -> set[str]:
    """Attribute names in code, including strings that `getattr` may read."""
    constants = (constant for each in nested_code(code) for constant in each.co_consts)
    strings = {constant for constant in constants if isinstance(constant, str) and constant.isidentifier()}
    return strings.union(*(each.co_names for each in nested_code(code)))


def _foreign(code: CodeType) -> set[str]:
    """Names that code reads from objects other than its first argument."""
    found: set[str] = set()
    for each in nested_code(code):
        first = each.co_varnames[0] if each.co_argcount else None
        before: object = None
        for instruction in dis.get_instructions(each):
            called = "NULL" in instruction.argrepr  # `x.dim()`, which is a method of a tensor
            if instruction.opname == "LOAD_ATTR" and not called and before != first:
                found.add(instruction.argval)
            loaded = instruction.opname.startswith("LOAD_FAST")
            name = instruction.argval if loaded else None
            before = name[-1] if isinstance(name, tuple) else name
    return found
