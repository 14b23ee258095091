"""Capture of a model as ATen graphs, one for training and one for evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.errors import AnalysisError

__all__ = [
    "Capture",
    "Inputs",
    "capture",
    "double_batch",
    "module_modes",
    "named_tensors",
    "normalise_inputs",
]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Positional and keyword arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def map(self, function: Any) -> Inputs:
        """The same inputs with `function` applied to every tensor."""
        args, kwargs = pytree.tree_map_only(Tensor, function, (self.args, self.kwargs))
        return Inputs(args=args, kwargs=kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors among the inputs, in order."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def call(self, model: nn.Module) -> Any:
        """What `model` returns for these inputs."""
        return model(*self.args, **self.kwargs)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One exported graph: `tensors` maps placeholder names to parameter and buffer names of the model."""

    program: torch.export.ExportedProgram
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    training: bool
    batch: int

    def operators(self) -> Counter[str]:
        """How often every operator is called, without the counting of batches by batch norms."""
        targets = (str(node.target) for node in self.program.graph.nodes if node.op == "call_function")
        return Counter(target for target in targets if target != "aten.add_.Tensor")


def normalise_inputs(example_inputs: Any) -> Inputs:
    """Inputs from what users pass: a tensor, a tuple of arguments, or a dict of keyword arguments."""
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
            f"example_inputs has no tensor (it is a {type(example_inputs).__name__}); "
            "pass a tensor, a tuple of arguments or a dict of keyword arguments, such as torch.randn(1, 3, 224, 224)"
        )
    return inputs


def double_batch(inputs: Inputs) -> Inputs:
    """Inputs with at least two samples, because batch norm cannot train on one."""
    leading = {tensor.shape[0] for tensor in inputs.tensors() if tensor.ndim}
    if leading == {1}:
        return inputs.map(lambda t: torch.cat([t, t]) if t.ndim else t)
    return inputs


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name; one that has several names is listed under all of them."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


@contextmanager
def module_modes(model: nn.Module, training: bool | None = None) -> Iterator[None]:
    """Put every module's train/eval flag back at the end, whatever happens; `training` sets them all first."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        if training is not None:
            model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put plain attributes of modules back at the end: forwards fill caches, and while tracing, with fake tensors."""
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    inside = [(value, dict(value)) for _, state in before for value in state.values() if type(value) is dict]
    try:
        yield
    finally:
        for module, state in before:
            module.__dict__.clear()
            module.__dict__.update(state)
        for container, content in inside:
            container.clear()
            container.update(content)


def capture(model: nn.Module, inputs: Inputs, *, training: bool) -> Capture:
    """The ATen graph of a model in training or evaluation mode, by non-strict `torch.export`.

    Raises:
        AnalysisError: the model cannot be captured; the message carries what torch.export said.
    """
    inputs = double_batch(inputs)
    with unchanged(model), module_modes(model, training):
        try:
            program = torch.export.export(model, inputs.args, inputs.kwargs, strict=False)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            shapes = [tuple(t.shape) for t in inputs.tensors()]
            mode = "training" if training else "evaluation"
            raise AnalysisError(
                f"{type(model).__name__} could not be captured in {mode} mode with inputs of shape {shapes}: "
                f"{type(error).__name__}: {first}. Check that model(*example_inputs) runs, and that its forward "
                "does not branch on tensor values"
            ) from error
    signature = program.graph_signature
    constants: dict[str, Tensor] = {}
    for placeholder, name in signature.inputs_to_lifted_tensor_constants.items():
        constant = program.constants.get(name)
        if isinstance(constant, Tensor):
            constants[placeholder] = constant
    return Capture(
        program=program,
        tensors={**signature.inputs_to_parameters, **signature.inputs_to_buffers},
        constants=constants,
        training=training,
        batch=next(t.shape[0] for t in inputs.tensors() if t.ndim),
    )
