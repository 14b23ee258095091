"""The functions that a forward calls, for other numbers of channels and for other inputs."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors, on_meta
from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.attention import default_attention
from anywidth.groups.capture import Capture
from anywidth.groups.duplicate import duplicate
from anywidth.groups.meta_functions import call_on_meta
from anywidth.groups.narrow import narrow, take
from anywidth.groups.python_code import closed_values, function_behind, nested_code
from anywidth.groups.tensor_stand_ins import meta_stand_ins

__all__ = ["Ways", "compared_numbers", "meeting_sizes", "names_in_code"]

_HIGHEST = 4096
"""The largest integer in code that may be a size."""

_MOST = 24
"""Maximum number of sizes to try for channels."""


class Ways:
    """The functions that copies of a model call on the meta device, where nothing is computed."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._inputs = inputs
        self._shadow = duplicate(model, meta_stand_ins(model))
        self._shadow.eval()

    @cached_property
    def usual(self) -> tuple[Any, ...] | None:
        """Calls of the full network for the example inputs; None if the network does not run."""
        return self.full(self._inputs)

    def full(self, inputs: Inputs) -> tuple[Any, ...] | None:
        """Calls of the full network; None if the network does not run."""
        # A copy, because a forward may fill caches.
        tensors = {id(tensor): tensor for tensor in named_tensors(self._shadow).values()}
        return _called(duplicate(self._shadow, tensors), inputs)

    def narrowed(self, analysis: Analysis, blocks: npt.NDArray[np.int64]) -> tuple[Any, ...] | None:
        """Calls of the network whose group i keeps its first `blocks[i]` blocks; None if it does not run."""

        def bind(_: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
            part = take(tensor, kept)
            return nn.Parameter(part, requires_grad=False) if isinstance(tensor, nn.Parameter) else part

        return _called(narrow(self._shadow, analysis, blocks, bind), self._inputs)


def meeting_sizes(capture: Capture, analysis: Analysis) -> list[int]:
    """Sizes that a number of narrowed channels may coincide with, the most frequent first.

    These are the sizes of all tensors of a graph, and one and eight, which forwards often compare sizes with.
    """
    sizes: dict[int, int] = {}
    for node in capture.program.graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, Tensor) else ():
            if isinstance(size, int):
                sizes[size] = sizes.get(size, 0) + 1
    largest = max((group.channels for group in analysis.elastic), default=0)
    common = sorted((size for size in sizes if 1 < size < largest and size != 8), key=lambda size: -sizes[size])
    return [1, 8, *common][:_MOST]


def compared_numbers(model: nn.Module) -> frozenset[int] | None:
    """Integers in code with comparisons: the forwards of modules other than torch's, and functions that they call.

    None if nothing is compared: then a forward takes the same branches for all numbers of channels and input sizes.
    """
    numbers: set[int] | None = None
    for function, code, named in _code_of(model):
        if _compares(code):
            values = [*code.co_consts, *closed_values(function), *named]
            values += [vars(v).get(name) for v in values if _has_settings(v) for name in code.co_names]
            numbers = (numbers or set()) | {number for value in values for number in _integers_in(value)}
    return None if numbers is None else frozenset(numbers)


def names_in_code(model: nn.Module) -> frozenset[str]:
    """Names of functions, variables and attributes in the code of modules other than torch's, and in what they call.

    >>> class Careful(nn.Module):
    ...     def forward(self, x: Tensor) -> Tensor:
    ...         return x.float() if torch.is_autocast_enabled() else x
    >>> sorted(names_in_code(Careful()))
    ['float', 'is_autocast_enabled', 'torch']
    """
    return frozenset(name for _, code, _ in _code_of(model) for name in code.co_names)


def _code_of(model: nn.Module) -> Iterator[tuple[FunctionType, CodeType, list[Any]]]:
    """All code that forwards and hooks run, apart from torch's, with its function and the values of its names."""
    waiting = [(module, function) for module in model.modules() for function in _functions_of(module)]
    seen: set[tuple[int, CodeType]] = set()
    while waiting:
        module, function = waiting.pop()
        if (id(module), function.__code__) in seen:
            continue
        seen.add((id(module), function.__code__))
        for code in nested_code(function.__code__):
            named = [value for name in code.co_names for value in _named(module, function, name)]
            yield function, code, named
            waiting += [(module, found) for each in named if (found := _plain(each)) is not None]


@cache
def _compares(code: CodeType) -> bool:
    return any(i.opname in ("COMPARE_OP", "CONTAINS_OP") for i in dis.get_instructions(code))


def _named(module: nn.Module, function: FunctionType, name: str) -> tuple[Any, Any]:
    """What a name in a function of a module may stand for: an attribute of the module, or a global variable."""
    own = vars(module).get(name)
    attribute = inspect.getattr_static(type(module), name, None) if own is None else own
    return attribute, function.__globals__.get(name)


def _has_settings(value: Any) -> bool:
    """Whether a value is an object with attributes that code may compare with, such as a config."""
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, (type, ModuleType, Tensor))


def _integers_in(constant: Any) -> Iterator[int]:
    """The whole numbers of a value that may be sizes."""
    for each in constant if isinstance(constant, (tuple, list, frozenset, set)) else (constant,):
        if type(each) is int and 1 < each <= _HIGHEST:
            yield each


def _functions_of(module: nn.Module) -> Iterator[FunctionType]:
    """The forward of a module, and functions that it stores, such as hooks."""
    kept = [value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")]
    kept += [hook for value in kept if isinstance(value, dict) for hook in value.values()]
    for value in (type(module).forward, *kept):
        function = _plain(value)
        if function is not None:
            yield function


def _plain(value: Any) -> FunctionType | None:
    """The Python function behind a method, a property or a partial, unless it belongs to torch."""
    function = function_behind(value)
    return None if function is None or (function.__module__ or "").startswith("torch.") else function


class _Functions(TorchFunctionMode):
    """Records the torch functions that are called, without reads of tensor attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Callable[..., Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in ("__get__", "size", "dim", "numel", "stride"):
            self.called.append(func)
        return call_on_meta(func, args, kwargs)


@torch.no_grad()
def _called(model: nn.Module, inputs: Inputs) -> tuple[Any, ...] | None:
    with default_attention(), torch.random.fork_rng(devices=[]):
        try:
            with _Functions() as functions:
                inputs.map(on_meta).call(model)
        except Exception:  # anything may fail on the meta device, or for these inputs
            return None
    return tuple(functions.called)
