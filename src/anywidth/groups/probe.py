"""Check whether a model's forward differs in training, and which attributes it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.overrides import TorchFunctionMode

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors, on_meta
from anywidth.core.tensors import other_numbers
from anywidth.groups.attention import default_attention
from anywidth.groups.duplicate import MISSING, duplicate
from anywidth.groups.meta_functions import call_on_meta
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.written import Marks, Written, emptied, refilled, written_since

__all__ = ["Probe", "calls_of", "probe"]

_TRIALS = 16


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The findings.

    Attributes:
        modes_differ: Whether a forward does more with channels in training than in evaluation (auxiliary heads, say).
        written: The attributes that forwards write and subnets must not take over from the full network.
        changed_inputs: The numbers of the input tensors that a forward writes to.
    """

    modes_differ: bool
    written: Written = field(default_factory=dict)
    changed_inputs: tuple[int, ...] = ()


class _Called(TorchFunctionMode):
    """Records the torch functions that a forward calls, their parameters, and the shapes of their results."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = call_on_meta(func, args, kwargs)
        given = (*args, *(kwargs or {}).values())
        # Another head of the same shape is a different path.
        used = tuple(self.parameters[id(argument)] for argument in given if id(argument) in self.parameters)
        self.calls.append((func, getattr(result, "shape", None), used))
        return result


_DROPS = frozenset({"__get__", "empty", "new_empty", "bernoulli_", "div_", "mul"})
"""Names of functions that drop whole samples at random (stochastic depth), without affecting channels."""

_CASTS = ("to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "detach")


def probe(model: nn.Module, inputs: Inputs) -> Probe:
    """Run copies of a model in both modes, on the meta device, where no numbers are computed.

    A forward that cannot run there runs on numbers instead, and counts as different in training. That costs another
    capture, which takes much longer than this check, but it is rare. If the forward does not run on numbers either, the
    capture reports the error.
    """
    for meta in (True, False):
        try:
            with default_attention(), torch.no_grad(), torch.random.fork_rng(devices=[]):
                return _probe(model, inputs, meta=meta)
        except Exception:
            continue
    return Probe(modes_differ=True)


def calls_of(
    model: nn.Module,
    inputs: Inputs,
    *,
    training: bool,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[tuple[Any, ...]] | None:
    """The functions that a forward calls, apart from casts and random drops, with shapes and the parameters used.

    Args:
        model: The model; a copy of it runs.
        inputs: Example inputs.
        training: Whether it runs in training.
        around: Makes a context manager for the forward alone.

    Returns:
        The calls; None if the forward cannot run.
    """
    for meta in (True, False):
        shadow = _shadow(model, meta, {})
        shadow.train(training)
        parameters = {id(parameter): name for name, parameter in shadow.named_parameters()}
        try:
            with default_attention(), torch.no_grad(), torch.random.fork_rng(devices=[]), _Called(parameters) as called:
                given = inputs.map(on_meta if meta else torch.clone)
                with around():
                    given.call(shadow)
        except Exception:  # anything may be missing on the meta device
            continue
        return [call for call in called.calls if getattr(call[0], "__name__", "") not in (*_DROPS, *_CASTS)]
    return None


def _probe(model: nn.Module, inputs: Inputs, *, meta: bool) -> Probe:
    shadow = _shadow(model, meta, {})
    for module in shadow.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_batches_tracked = None  # batch norms count batches in training; nothing else differs
    before = Marks(shadow)
    calls: list[list[tuple[Any, ...]]] = []
    changed: dict[int, None] = {}
    parameters = {id(parameter): name for name, parameter in shadow.named_parameters()}
    for training in (True, False):
        shadow.train(training)
        given = inputs.map(on_meta if meta else torch.clone)
        counts = [tensor._version for tensor in given.tensors()]
        with _Called(parameters) as called:
            given.call(shadow)
        calls.append(called.calls)
        pairs = zip(given.tensors(), counts, strict=True)
        changed |= {number: None for number, (tensor, count) in enumerate(pairs) if tensor._version != count}
    written = written_since(before, shadow, model)
    for path, name, empty in _caches(model, inputs, meta, written):
        written.setdefault(path, {})[name] = empty
    return Probe(modes_differ=not meta or _differ(*calls), written=written, changed_inputs=tuple(changed))


def _caches(model: nn.Module, inputs: Inputs, meta: bool, written: Written) -> list[tuple[str, str, Any]]:
    """Attributes that were filled before and fill themselves again: all at once if possible, otherwise one by one.

    A forward may check whether one is None, empty or missing.
    """
    candidates = emptied(model, written)
    if not candidates:
        return []
    if _fill(model, inputs, meta, candidates):
        return candidates
    removed = [(path, name, MISSING) for path, name, _ in candidates]
    if _fill(model, inputs, meta, removed):
        return removed
    pairs = zip(candidates[:_TRIALS], removed, strict=False) if len(candidates) > 1 else ()
    tried = (next((each for each in pair if _fill(model, inputs, meta, [each])), None) for pair in pairs)
    return [each for each in tried if each is not None]


def _fill(model: nn.Module, inputs: Inputs, meta: bool, trial: list[tuple[str, str, Any]]) -> bool:
    values: Written = {}
    for path, name, empty in trial:
        values.setdefault(path, {})[name] = empty
    shadow = _shadow(model, meta, values)
    shadow.eval()
    try:
        inputs.map(on_meta if meta else torch.clone).call(shadow)
    except Exception:  # the forward needs them
        return False
    full, now = model.get_submodule, shadow.get_submodule
    if not all(refilled(full(path).__dict__[name], now(path).__dict__.get(name)) for path, name, _ in trial):
        return False
    return all(empty is not MISSING for *_, empty in trial) or _refilled_alike(model, inputs, values)


def _refilled_alike(model: nn.Module, inputs: Inputs, values: Written) -> bool:
    """Whether other inputs of the same shapes lead to the same numbers, as for caches but not for states."""
    shadow = _shadow(model, False, values)
    shadow.eval()
    try:
        inputs.map(other_numbers).call(shadow)
    except Exception:
        return False
    for path, names in values.items():
        before, after = model.get_submodule(path).__dict__, shadow.get_submodule(path).__dict__
        for name in names:
            pairs = zip(pytree.tree_leaves(before[name]), pytree.tree_leaves(after[name]), strict=True)
            tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
            if not all(torch.allclose(a, b, equal_nan=True) for a, b in tensors):
                return False
    return True


def _shadow(model: nn.Module, meta: bool, values: Written) -> nn.Module:
    if not meta:
        return duplicate(model, stand_ins(model, weights=True, buffers=True), values)
    return duplicate(model, {id(t): on_meta(t) for t in named_tensors(model).values()}, values)


def _differ(training: list[tuple[Any, ...]], evaluation: list[tuple[Any, ...]]) -> bool:
    rest = iter(evaluation)
    expected = next(rest, None)
    for call in training:
        if call == expected:
            expected = next(rest, None)
        elif getattr(call[0], "__name__", "") not in _DROPS:
            return True
    return expected is not None
