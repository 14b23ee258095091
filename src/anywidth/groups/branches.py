"""Which way a forward takes: the functions that it calls, for other numbers of channels and for other inputs."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors, on_meta
from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.attention import default_attention
from anywidth.groups.capture import Capture
from anywidth.groups.duplicate import duplicate, meta_stand_ins
from anywidth.groups.narrow import narrow, take

__all__ = ["Ways", "compares", "meeting_sizes"]

_MOST = 24
"""Sizes that channels are made to meet."""


class Ways:
    """The functions that copies of a model call on the meta device, where nothing is computed."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._inputs = inputs
        self._shadow = duplicate(model, meta_stand_ins(model)).eval()

    @cached_property
    def usual(self) -> tuple[Any, ...] | None:
        """Calls of the full network for the example inputs; None if it does not run."""
        return self.full(self._inputs)

    def full(self, inputs: Inputs) -> tuple[Any, ...] | None:
        """Calls of the full network; None if it does not run."""
        # A copy, because a forward may fill caches.
        tensors = {id(tensor): tensor for tensor in named_tensors(self._shadow).values()}
        return _called(duplicate(self._shadow, tensors), inputs)

    def narrowed(self, analysis: Analysis, units: npt.NDArray[np.int64]) -> tuple[Any, ...] | None:
        """Calls of the network whose group i keeps its first `units[i]` units; None if it does not run."""

        def bind(_: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
            part = take(tensor, kept)
            return nn.Parameter(part, requires_grad=False) if isinstance(tensor, nn.Parameter) else part

        return _called(narrow(self._shadow, analysis, units, bind), self._inputs)


def meeting_sizes(capture: Capture, analysis: Analysis) -> list[int]:
    """Sizes that narrowed channels may happen to have in common with something else, the most frequent first.

    They are those of all tensors of a graph, and one and eight, which forwards compare sizes with.
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


def compares(model: nn.Module) -> bool:
    """Whether the forward of a module that is not torch's own, or code that it calls, compares anything.

    Without a comparison a forward takes the same way for all numbers of channels and all sizes of inputs.
    """
    waiting = [(type(module), function) for module in model.modules() for function in _functions_of(module)]
    seen: set[tuple[type, CodeType]] = set()
    while waiting:
        kind, function = waiting.pop()
        if (kind, function.__code__) in seen:
            continue
        seen.add((kind, function.__code__))
        for code in _codes(function.__code__):
            if any(i.opname in ("COMPARE_OP", "CONTAINS_OP") for i in dis.get_instructions(code)):
                return True
            for name in code.co_names:
                called = (inspect.getattr_static(kind, name, None), function.__globals__.get(name))
                waiting += [(kind, found) for each in called if (found := _plain(each)) is not None]
    return False


def _functions_of(module: nn.Module) -> Iterator[FunctionType]:
    """The forward of a module, and functions that it keeps, such as hooks."""
    kept = [value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")]
    kept += [hook for value in kept if isinstance(value, dict) for hook in value.values()]
    for value in (type(module).forward, *kept):
        function = _plain(value)
        if function is not None:
            yield function


def _plain(value: Any) -> FunctionType | None:
    """The Python function behind a method, a property or a partial call, unless it is torch's own."""
    function = getattr(value, "fget", None) or getattr(value, "func", None) or value
    try:
        function = inspect.unwrap(function) if callable(function) else function
    except ValueError:  # wrapped by itself
        return None
    function = getattr(function, "__func__", function)
    own = isinstance(function, FunctionType) and not (function.__module__ or "").startswith("torch.")
    return function if own else None


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


class _Functions(TorchFunctionMode):
    """Notes the functions of torch that are called; looking at attributes of tensors does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Callable[..., Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in ("__get__", "size", "dim", "numel", "stride"):
            self.called.append(func)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _called(model: nn.Module, inputs: Inputs) -> tuple[Any, ...] | None:
    with default_attention(), torch.random.fork_rng(devices=[]):
        try:
            with _Functions() as functions:
                inputs.map(on_meta).call(model)
        except Exception:  # whatever does not run on the meta device, or for these inputs
            return None
    return tuple(functions.called)
