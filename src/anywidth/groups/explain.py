"""Explain in one paragraph why a model could not be captured."""

from __future__ import annotations

import linecache
from types import TracebackType

import torch
from torch import nn

from anywidth.core.errors import first_line
from anywidth.core.inputs import Inputs
from anywidth.groups.duplicate import duplicate
from anywidth.groups.tensor_stand_ins import stand_ins

__all__ = ["explain", "own_error"]

_DATA_DEPENDENT = ("data-dependent", "data dependent", "GuardOnDataDependent", "_local_scalar_dense", "aten::nonzero")
_WIDTH = 200


def explain(model: nn.Module, twin: nn.Module, inputs: Inputs, error: Exception, *, training: bool) -> str:
    """The error of a model that `torch.export` could not capture: the module, the line and the fix.

    Args:
        model: The model.
        twin: The copy of the model that was exported.
        inputs: The inputs of the call.
        error: The error of `torch.export`.
        training: The mode of the copy.
    """
    name = type(model).__name__
    own = own_error(model, inputs, training=training)
    if own is not None:
        return own
    where = _where(error, twin)
    text = f"{type(error).__name__}: {error}"
    if any(sign in text for sign in _DATA_DEPENDENT):
        return (
            f"{name} could not be captured: its forward depends on the values of tensors{where}. A graph takes "
            "the same path for all values: use torch.where instead of if, masks instead of selected rows, and sizes "
            "instead of numbers read by .item(), int(), bool() or .tolist()"
        )
    return (
        f"{name} could not be captured in {'training' if training else 'evaluation'} mode{where}: "
        f"{type(error).__name__}: {_short(error)}. Rewrite that part so that torch.export.export(model, inputs) runs"
    )


def own_error(model: nn.Module, inputs: Inputs, *, training: bool) -> str | None:
    """The error of a model's forward without a capture; None if it runs."""
    twin = duplicate(model, stand_ins(model, weights=True, buffers=True))
    twin.train(training)
    try:
        with torch.no_grad():
            inputs.map(torch.clone).call(twin)
    except Exception as error:
        given = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in inputs.tensors())
        return (
            f"{type(model).__name__} does not run on example_inputs ({given}){_where(error, twin)}: "
            f"{type(error).__name__}: {_short(error)}. Give inputs for which model(*example_inputs) runs"
        )
    return None


def _where(error: BaseException, model: nn.Module) -> str:
    """The innermost running module, and the last line of code outside of torch."""
    paths = {id(module): path for path, module in model.named_modules()}
    module: nn.Module | None = None
    line = ""
    for frame, number in _frames(error.__traceback__):
        owner = frame.f_locals.get("self")
        code = frame.f_code
        if id(owner) in paths:
            module = owner
        foreign = "/torch/" in code.co_filename or "/anywidth/groups/" in code.co_filename
        if module is not None and not foreign and not code.co_filename.startswith("<"):
            source = linecache.getline(code.co_filename, number).strip()
            line = f", line {number} of {code.co_filename}" + (f" ({source})" if source else "")
    if module is None:
        return ""
    path = paths[id(module)]
    return f" in {f'module {path!r}' if path else 'its own forward'} ({type(module).__name__}{line})"


def _frames(traceback: TracebackType | None):
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _short(error: BaseException) -> str:
    line = first_line(error)
    return (line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}...").rstrip(".")
