"""What the forwards of a model do beside computing: whether training differs, and which attributes they write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.overrides import TorchFunctionMode

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors, on_meta
from anywidth.groups.attention import default_attention
from anywidth.groups.duplicate import MISSING, duplicate, stand_ins
from anywidth.groups.written import Marks, Written, emptied, refilled, written_since

__all__ = ["Probe", "probe"]

_TRIALS = 16


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The findings.

    Attributes:
        modes_differ: Whether a forward does more with channels in training than in evaluation (auxiliary heads, say).
        written: The attributes that forwards write and subnets must not take over from the full network.
    """

    modes_differ: bool
    written: Written = field(default_factory=dict)


class _Called(TorchFunctionMode):
    """Notes the functions of torch that a forward calls, on which parameters, and the shapes of what they return."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = (*args, *(kwargs or {}).values())
        # Another head of the same shape is another path.
        used = tuple(self.parameters[id(argument)] for argument in given if id(argument) in self.parameters)
        self.calls.append((func, getattr(result, "shape", None), used))
        return result


_DROPS = frozenset({"__get__", "empty", "new_empty", "bernoulli_", "div_", "mul"})
"""Names of the functions that drop whole samples at random (stochastic depth); channels stay as they are."""


def probe(model: nn.Module, inputs: Inputs) -> Probe:
    """Run copies of a model in both modes, on the meta device, where no numbers are computed.

    A forward that cannot run there runs on numbers instead, and counts as different in training: capturing a graph
    takes many times longer than looking, so that one more is the exception. One that does not run on numbers either
    is left to the captures, which say what is wrong with it.
    """
    for meta in (True, False):
        try:
            with default_attention(), torch.no_grad(), torch.random.fork_rng(devices=[]):
                return _probe(model, inputs, meta=meta)
        except Exception:
            continue
    return Probe(modes_differ=True)


def _probe(model: nn.Module, inputs: Inputs, *, meta: bool) -> Probe:
    shadow = _shadow(model, meta, {})
    for module in shadow.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_batches_tracked = None  # batch norms count in training, and nothing else is different
    before = Marks(shadow)
    calls: list[list[tuple[Any, ...]]] = []
    parameters = {id(parameter): name for name, parameter in shadow.named_parameters()}
    for training in (True, False):
        with _Called(parameters) as called:
            inputs.map(on_meta if meta else torch.clone).call(shadow.train(training))
        calls.append(called.calls)
    written = written_since(before, shadow, model)
    for path, name, empty in _caches(model, inputs, meta, written):
        written.setdefault(path, {})[name] = empty
    return Probe(modes_differ=not meta or _differ(*calls), written=written)


def _caches(model: nn.Module, inputs: Inputs, meta: bool, written: Written) -> list[tuple[str, str, Any]]:
    """Attributes that were full before and fill themselves again: all of them at once, else one by one.

    A forward may ask whether one is None or empty, or whether it is there at all.
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
    shadow = _shadow(model, meta, values).eval()
    try:
        inputs.map(on_meta if meta else torch.clone).call(shadow)
    except Exception:  # they are needed
        return False
    full, now = model.get_submodule, shadow.get_submodule
    if not all(refilled(full(path).__dict__[name], now(path).__dict__.get(name)) for path, name, _ in trial):
        return False
    return all(empty is not MISSING for *_, empty in trial) or _refilled_alike(model, inputs, values)


def _refilled_alike(model: nn.Module, inputs: Inputs, values: Written) -> bool:
    """Whether other inputs of the same shapes give the same numbers, as caches do and states or fits to data do not."""
    shadow = _shadow(model, False, values).eval()
    try:
        inputs.map(lambda tensor: torch.randn_like(tensor) if tensor.is_floating_point() else tensor.clone()).call(
            shadow
        )
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
        return duplicate(model, stand_ins(model, buffers=True), values)
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
