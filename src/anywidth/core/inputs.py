"""Arguments of one model call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from anywidth.core.errors import AnalysisError
from anywidth.core.tensors import tensors_in

__all__ = ["Inputs", "double_batch", "normalise_inputs"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Positional and keyword arguments of one model call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def map(self, function: Any) -> Inputs:
        """Inputs with `function` applied to every tensor."""
        args, kwargs = pytree.tree_map_only(Tensor, function, (self.args, self.kwargs))
        return Inputs(args=args, kwargs=kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors among the inputs, in order."""
        return tensors_in((self.args, self.kwargs))

    def call(self, model: Callable[..., Any]) -> Any:
        """Output of `model` for these inputs."""
        return model(*self.args, **self.kwargs)


def normalise_inputs(example_inputs: Any) -> Inputs:
    """Inputs from a tensor, a tuple of arguments, or a dict of keyword arguments."""
    if isinstance(example_inputs, Inputs):
        inputs = example_inputs
    elif isinstance(example_inputs, Mapping):
        inputs = Inputs(args=(), kwargs=dict(example_inputs))
    elif isinstance(example_inputs, (tuple, list)):
        inputs = Inputs(args=tuple(example_inputs), kwargs={})
    else:
        inputs = Inputs(args=(example_inputs,), kwargs={})
    if not inputs.tensors():
        raise AnalysisError(
            f"example_inputs contains no tensor (it is a {type(example_inputs).__name__}); "
            "pass a tensor, a tuple of arguments or a dict of keyword arguments, such as torch.randn(1, 3, 224, 224)"
        )
    return inputs


def double_batch(inputs: Inputs) -> Inputs:
    """Inputs with at least two samples, because batch norm cannot train on a single sample."""
    leading = {tensor.shape[0] for tensor in inputs.tensors() if tensor.ndim}
    if leading == {1}:
        return inputs.map(lambda t: torch.cat([t, t]) if t.ndim else t)
    return inputs
