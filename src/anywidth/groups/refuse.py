"""Refuse models that cannot have subnets, with the name of the module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs

__all__ = ["check_inputs", "check_model"]

_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def check_model(model: Any) -> None:
    """Raise if a model has modules or tensors that cannot be copied or narrowed.

    Raises:
        AnalysisError: it does; the message names the module or tensor and the fix.

    >>> check_model(nn.Sequential(nn.Linear(4, 2, device="meta")))
    Traceback (most recent call last):
    ...
    anywidth.core.errors.AnalysisError: 0.weight is on the meta device, without numbers: ...
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise AnalysisError(f"the model is {kind}, not a torch.nn.Module; give a module, such as MyNetwork()")
    for path, module in model.named_modules():
        reason = _module_reason(module)
        if reason is not None:
            raise AnalysisError(f"{path or 'the model'} ({type(module).__name__}) {reason}")
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            reason = None if tensor is None else _tensor_reason(tensor)
            if reason is not None:
                raise AnalysisError(f"{f'{path}.{name}' if path else name} {reason}")


def check_inputs(inputs: Inputs) -> None:
    """Raise if an input is not an ordinary dense tensor.

    Raises:
        AnalysisError: with the shape of the tensor, and what to do.
    """
    for tensor in inputs.tensors():
        kind = None
        if tensor.is_nested:
            kind = "a nested tensor; pad it: torch.nested.to_padded_tensor(x, 0.0)"
        elif tensor.layout != torch.strided:
            kind = f"a sparse tensor ({tensor.layout}); make it dense: x.to_dense()"
        elif tensor.is_quantized:
            kind = f"quantized ({tensor.dtype}); make it float: x.dequantize()"
        elif tensor.is_meta:
            kind = f"of shape {tuple(tensor.shape)} on the meta device, without numbers; give one with numbers"
        elif is_traceable_wrapper_subclass(tensor):
            kind = f"a {type(tensor).__name__}, not an ordinary tensor; give a plain tensor of the same shape"
        if kind is not None:
            raise AnalysisError(f"one of example_inputs is {kind}")


def _module_reason(module: nn.Module) -> str | None:
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return "is a scripted module, whose code is fixed; use the module that was given to torch.jit.script"
    if type(module).__module__.startswith(_QUANTIZED):
        return "is quantized, with packed weights that cannot be sliced; narrow the float model and quantize afterwards"
    return None


def _tensor_reason(tensor: Tensor) -> str | None:
    if is_lazy(tensor):
        return "has no shape yet; call the model once on an input, so that its lazy modules get their weights"
    if tensor.is_meta:
        return (
            "is on the meta device, without numbers: model.to_empty(device='cpu') gives it memory; "
            "then initialise or load its weights"
        )
    if isinstance(tensor, nn.Parameter) and tensor.is_inference():
        return (
            "was created under torch.inference_mode, so it cannot be trained or followed; create or load the model "
            "outside, or clone its tensors there: module.weight = nn.Parameter(module.weight.clone())"
        )
    if tensor.is_quantized:
        return f"is quantized ({tensor.dtype}); narrow the float model and quantize afterwards"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout}); make it dense: tensor.to_dense()"
    if is_traceable_wrapper_subclass(tensor):
        return (
            f"is a {type(tensor).__name__}, which is not an ordinary tensor (sharded or quantized); make the supernet "
            "from the plain model, before it is sharded or quantized"
        )
    return None
