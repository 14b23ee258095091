"""What forwards keep in plain attributes for the next call: states, which are refused, and caches of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs
from anywidth.core.tensors import other_numbers, tensors_in
from anywidth.groups.duplicate import MISSING, duplicate
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.written import Written, holds_tensors

__all__ = ["caches_weights", "check_nothing_carried"]

_SEED = 0


def check_nothing_carried(model: nn.Module, inputs: Inputs, written: Written) -> None:
    """Refuse a model whose output depends on attributes that an earlier call has set.

    A proof compares single calls, so it does not cover a second call. Caches are allowed, because a call returns the
    same with and without them. Buffers are also allowed, because every subnet has separate ones.

    Args:
        model: The model.
        inputs: Inputs of one call.
        written: The attributes that forwards write.

    Raises:
        AnalysisError: an output depends on an earlier call.
    """
    if not any(name != "_buffers" for names in written.values() for name in names):
        return
    first, second = (duplicate(model, stand_ins(model, weights=True, buffers=True), written) for _ in range(2))
    first.eval()
    second.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            inputs.map(other_numbers).call(first)
            outputs = [_tensors(inputs, each) for each in (first, second)]
        except Exception:  # the capture reports the error
            return
    same = len(outputs[0]) == len(outputs[1]) and all(map(_equal, *outputs))
    if same:
        return
    places = [(path, name) for path, names in written.items() for name in names if name != "_buffers"]
    held = [place for place in places if holds_tensors(first.get_submodule(place[0]).__dict__.get(place[1], MISSING))]
    path, name = (held or places)[0]
    raise AnalysisError(
        f"the forward of {type(model.get_submodule(path)).__name__} keeps {name!r} for its next call, and its output "
        "depends on it. Pass it as an argument and return it, or register it as a buffer"
    )


def caches_weights(model: nn.Module, inputs: Inputs, written: Written) -> bool:
    """Whether evaluation goes on with what an earlier call made from weights, although the weights have changed.

    Args:
        model: The model.
        inputs: Inputs of one call.
        written: The attributes that forwards write.
    """
    if not written:
        return False
    used = duplicate(model, stand_ins(model, weights=True, buffers=True), written)
    used.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            _tensors(inputs, used)
            torch.manual_seed(_SEED)
            for parameter in used.parameters():
                if parameter.is_floating_point():
                    parameter.mul_(1.5).add_(0.01 * torch.randn_like(parameter))
            fresh = duplicate(used, stand_ins(used, weights=True, buffers=True), written)
            return not all(map(_equal, _tensors(inputs, used), _tensors(inputs, fresh)))
        except Exception:  # the captures say what is wrong
            return True


def _tensors(inputs: Inputs, model: nn.Module) -> list[Tensor]:
    torch.manual_seed(_SEED)
    return tensors_in(inputs.map(torch.clone).call(model))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not (a.is_floating_point() or a.is_complex()):
        return a.shape == b.shape
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
