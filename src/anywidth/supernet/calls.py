"""The functions that a forward calls and the attributes that it writes, found without computing anything."""

from __future__ import annotations

import dis
import inspect
from collections import defaultdict
from collections.abc import Hashable, Mapping
from functools import cache
from types import CodeType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anywidth.core.inputs import Inputs, double_batch
from anywidth.core.modules import named_tensors, on_meta
from anywidth.groups.attention import default_attention
from anywidth.groups.code_globals import CodeGlobals
from anywidth.groups.duplicate import duplicate
from anywidth.groups.meta_functions import call_on_meta
from anywidth.groups.tensor_stand_ins import meta_stand_ins
from anywidth.supernet.fingerprint import Fingerprint, Written

__all__ = ["trace_calls", "written_by_forward"]


def trace_calls(
    model: nn.Module, inputs: Inputs, values: Mapping[str, Mapping[str, Any]] | None = None, *, floats: bool = False
) -> tuple[Hashable, ...] | None:
    """Every call of a torch function by a forward in training and in evaluation, with its arguments and shapes.

    The user's hooks are not called. None if the forward cannot run on the meta device.

    Args:
        model: The model.
        inputs: Example inputs.
        values: By module path and name: other values of attributes.
        floats: Whether floating-point arguments count.
    """
    try:
        return _run_shadow(model, inputs, values, floats=floats)[0]
    except Exception:  # anything may be missing on the meta device
        return None


def written_by_forward(model: nn.Module, inputs: Inputs) -> tuple[Written, tuple[Hashable, ...] | None]:
    """Attributes and buffers of modules that a forward replaces, by module path, and the result of `trace_calls`.

    Running a copy finds those that the forward writes for these inputs. The code of the forward shows those that it
    would write for other inputs, such as a grid that is cached for one image size.
    """
    written: dict[str, set[str]] = defaultdict(set)
    for path, module in model.named_modules():
        written[path] |= _stored_by(type(module))
    try:
        calls, before, after = _run_shadow(model, inputs)
    except Exception:
        calls, before, after = None, *_run_copy(model, inputs)
    for path, name in after.changed_attributes(before):
        written[path].add(name)
    for path, part in after.parts.items():
        known = before.parts[path].tensors
        written[path] |= {name for name, tensor in part.tensors.items() if known.get(name) != tensor}
    return {path: frozenset(names) for path, names in written.items() if names}, calls


def _run_shadow(
    model: nn.Module, inputs: Inputs, values: Mapping[str, Mapping[str, Any]] | None = None, *, floats: bool = False
) -> tuple[tuple[Hashable, ...], Fingerprint, Fingerprint]:
    """The calls of a copy on the meta device, and its state before and after them."""
    with default_attention(), torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        shadow = duplicate(model, meta_stand_ins(model), values)
        _drop_hooks(shadow)
        settings = CodeGlobals(shadow).settings
        before = Fingerprint(shadow, {}, settings=settings)
        tensors = named_tensors(shadow)  # held here, because a forward may replace a buffer, whose id is used again
        names = {id(tensor): name for name, tensor in tensors.items()}
        calls: list[Hashable] = []
        for training in (True, False):
            with _Calls(names, floats=floats) as recorded:
                shadow.train(training)
                double_batch(inputs).map(on_meta).call(shadow)
            calls += [training, *recorded.calls]
        return tuple(calls), before, Fingerprint(shadow, {}, settings=settings)


def _run_copy(model: nn.Module, inputs: Inputs) -> tuple[Fingerprint, Fingerprint]:
    """The state of a copy before and after a real forward."""
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng():
        same = duplicate(model)
        _drop_hooks(same)
        settings = CodeGlobals(same).settings
        before = Fingerprint(same, {}, settings=settings)
        try:
            for training in (True, False):
                same.train(training)
                double_batch(inputs).call(same)
        except Exception:  # rely on the code of the forward instead
            return before, before
        return before, Fingerprint(same, {}, settings=settings)


def _drop_hooks(model: nn.Module) -> None:
    """Remove the user's hooks, which may count or store tensors; hooks of torch stay, because they compute weights."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if not (type(hook).__module__ or "").startswith("torch.")]:
                del hooks[key]


class _Calls(TorchFunctionMode):
    """Records the torch functions that a forward calls, with their arguments and the shapes of their results."""

    def __init__(self, names: dict[int, str], *, floats: bool = False) -> None:
        super().__init__()
        self.calls: list[Hashable] = []
        self._names: dict[int, Hashable] = dict(names)
        self._alive: list[Tensor] = []
        self._floats = floats

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tuple(map(self._describe, pytree.tree_leaves((args, kwargs))))
        result = call_on_meta(func, args, kwargs)
        self.calls.append((func, given, tuple(map(self._describe, pytree.tree_leaves(result)))))
        return result

    def _describe(self, leaf: Any) -> Hashable:
        if isinstance(leaf, Tensor):
            if id(leaf) not in self._names:
                self._names[id(leaf)] = len(self._alive)
                self._alive.append(leaf)  # so that its id is not reused
            return self._names[id(leaf)], tuple(leaf.shape)
        if isinstance(leaf, (bool, int, str, type(None), torch.dtype)):
            return leaf
        if self._floats and isinstance(leaf, float):
            return leaf
        return type(leaf).__name__


@cache
def _stored_by(kind: type[nn.Module]) -> frozenset[str]:
    """Names of the attributes that the forward of a class, or a method that it calls, writes to its module."""
    stored: set[str] = set()
    waiting, seen = ["forward"], {"forward"}
    while waiting:
        method = inspect.unwrap(
            inspect.getattr_static(kind, waiting.pop(), None), stop=lambda f: hasattr(f, "__code__")
        )
        code = getattr(method, "__code__", None)
        if isinstance(code, CodeType) and code.co_varnames:
            names, called = _read(code, code.co_varnames[0])
            stored |= names
            new = {name for name in called - seen if not hasattr(nn.Module, name)}
            seen |= new
            waiting += new
    return frozenset(stored)


def _read(code: CodeType, owner: str) -> tuple[set[str], set[str]]:
    """The attributes of `owner` that code writes, and all attributes that it reads."""
    stored, read = set(), set()
    before: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            read.add(instruction.argval)
        elif instruction.opname == "STORE_ATTR" and before is not None and before.opname.startswith("LOAD_FAST"):
            last = before.argval[-1] if isinstance(before.argval, tuple) else before.argval
            if last == owner:
                stored.add(instruction.argval)
        before = instruction
    return stored, read
