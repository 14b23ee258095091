"""Capture of a model as ATen graphs, one for training and one for evaluation."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.fx.config
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs
from anywidth.groups.duplicate import duplicate
from anywidth.groups.explain import explain
from anywidth.groups.outputs import plain_outputs
from anywidth.groups.subgraphs import flatten_graph
from anywidth.groups.tensor_stand_ins import stand_ins

__all__ = [
    "Capture",
    "capture",
    "quiet_export",
    "without_collection",
]


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One exported graph: `tensors` maps placeholder names to parameter and buffer names of the model."""

    program: torch.export.ExportedProgram
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    training: bool

    def operators(self) -> Counter[str]:
        """The number of calls of every operator, without the batch counters of batch norms."""
        targets = (str(node.target) for node in self.program.graph.nodes if node.op == "call_function")
        return Counter(target for target in targets if target != "aten.add_.Tensor")

    def used(self) -> frozenset[str]:
        """The parameters that the graph reads."""
        nodes = self.program.graph.find_nodes(op="placeholder")
        parameters = self.program.graph_signature.inputs_to_parameters
        return frozenset(parameters[node.name] for node in nodes if node.users and node.name in parameters)


@contextmanager
def without_collection() -> Iterator[None]:
    """Context manager without garbage collection, which takes a third of the time of tracing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def quiet_export() -> Iterator[None]:
    """Context manager in which `torch.export` skips unneeded work and messages.

    Nodes do not store their place in the code, which would take a quarter longer. Caches that a forward fills belong to
    a copy, so warnings about them do not apply. Errors contain what torch logs about a failure.
    """
    known = hasattr(torch.fx.config, "do_not_emit_stack_traces")  # not in PyTorch 2.11
    before = known and torch.fx.config.do_not_emit_stack_traces
    if known:
        torch.fx.config.do_not_emit_stack_traces = True
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "torch"]
    loggers = [logger for logger in map(logging.getLogger, names) if not logger.disabled]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*assigned during export", category=UserWarning)
            # Captured networks return lists, which hooks of all modules need not know about.
            warnings.filterwarnings("ignore", message="For backward hooks to be called", category=UserWarning)
            # Branches and maps read the gradients of their arguments.
            warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
            yield
    finally:
        for logger in loggers:
            logger.disabled = False
        if known:
            torch.fx.config.do_not_emit_stack_traces = before


def capture(model: nn.Module, inputs: Inputs, *, training: bool) -> Capture:
    """The ATen graph of a model in training or evaluation mode, by non-strict `torch.export` of a copy.

    Raises:
        AnalysisError: the model cannot be captured; the message names the place in its code and the reason.
    """
    twin = duplicate(model, stand_ins(model))
    twin.train(training)
    # A failing export prints its graph to it.
    with quiet_export(), contextlib.redirect_stderr(io.StringIO()), plain_outputs(twin):
        try:
            program = torch.export.export(twin, inputs.args, inputs.kwargs, strict=False)
        except Exception as error:
            raise AnalysisError(explain(model, twin, inputs, error, training=training)) from error
    program = flatten_graph(program)
    _drop_writes(program)
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
    )


def _drop_writes(program: torch.export.ExportedProgram) -> None:
    """Remove what export adds at the end for a buffer that a forward replaces, unless it is a write to that buffer.

    For a buffer that was None it is a write to an input; forwards that do write to their inputs are refused earlier.
    For one of another shape it is a write that cannot run.
    """
    own = frozenset(program.graph_signature.user_inputs)
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        written, value = node.args[:2]
        if node.users or not isinstance(written, torch.fx.Node) or written.op != "placeholder":
            continue
        if written.name in own or (isinstance(value, torch.fx.Node) and _shape(value) != _shape(written)):
            program.graph.erase_node(node)


def _shape(node: torch.fx.Node) -> torch.Size | None:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else None
