"""Check that a copy of a model computes the same as the model itself."""

from __future__ import annotations

import random
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.code_globals import CodeGlobals, globals_of
from anywidth.groups.compare import difference, tolerance_of
from anywidth.groups.duplicate import duplicate, duplicate_attributes
from anywidth.groups.outputs import output_tensors
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.written import Written

__all__ = ["check_copy"]

_CHEAP = 200_000_000
"""Networks of fewer MACs are always checked."""


def check_copy(model: nn.Module, inputs: Inputs, written: Written, *, macs: int) -> None:
    """Refuse a model whose copy at full width returns different numbers.

    A proof compares copies with each other, so it does not detect what all copies lack: anything that the code finds by
    the identity of a module or parameter. Large models are checked only if they have hooks or use identities.

    Args:
        model: The model. Its tensors and attributes are restored afterwards.
        inputs: Inputs of one call.
        written: The attributes that forwards write.
        macs: MACs of the model.

    Raises:
        AnalysisError: the copy returns different numbers, although two calls of the model agree.
    """
    if macs >= _CHEAP and not _looks_at_identities(model):
        return
    with _kept(model), torch.no_grad():
        try:
            copied = duplicate(model, stand_ins(model, weights=True, buffers=True), written)
            model.eval()
            copied.eval()
            got, wanted = _run(copied, inputs), _run(model, inputs)
            dtypes = {tensor.dtype for tensor in wanted if tensor.is_floating_point()}
            tolerance = tolerance_of(dtypes)
            found = difference(got, wanted, tolerance, dtypes=True)
            if found is None or difference(_run(model, inputs), wanted, tolerance, dtypes=True) is not None:
                return
        except AnalysisError:
            raise
        except Exception:  # the capture reports the error
            return
    raise AnalysisError(
        f"a copy of {type(model).__name__} does not compute the same as the model itself, and subnets are copies. "
        "Its code looks something up by the identity of a module or parameter, such as id(self), or by a global "
        "dictionary with modules as keys. Keep what it looks up as an attribute of the module"
    )


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Context manager in which modules use copies of their attributes; their tensors are restored afterwards.

    Modules, parameters and buffers stay the same objects.
    """
    tensors = {id(tensor): (tensor, tensor.detach().clone()) for tensor in named_tensors(model).values()}
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        for module, attributes in duplicate_attributes(model):
            module.__dict__.update(attributes)
        yield
    finally:
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for tensor, numbers in tensors.values():
            if not torch.equal(tensor.detach(), numbers):
                tensor.data.copy_(numbers)


def _run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return [tensor.clone() for tensor in output_tensors(inputs.map(torch.clone).call(model))]


def _looks_at_identities(model: nn.Module) -> bool:
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return True
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    functions = [value for kind in kinds for value in vars(kind).values() if isinstance(value, types.FunctionType)]
    own = [function for function in functions if not function.__module__.startswith("torch.")]
    if any("id" in globals_of(function.__code__) for function in own):
        return True
    containers = [value for value in CodeGlobals(model).containers if isinstance(value, dict)]
    return any(isinstance(key, (nn.Module, Tensor, weakref.ref)) for container in containers for key in container)
