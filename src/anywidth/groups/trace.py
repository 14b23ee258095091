"""Capture of a model as ATen graphs, one for training and one for evaluation."""

from __future__ import annotations

import copy
import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.config
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anywidth.errors import AnalysisError, first_line
from anywidth.groups.outputs import plain_outputs
from anywidth.groups.subgraphs import flatten_graph

__all__ = [
    "Capture",
    "Inputs",
    "capture",
    "double_batch",
    "modes_differ",
    "module_modes",
    "named_tensors",
    "normalise_inputs",
    "quiet_export",
    "without_collection",
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

    def call(self, model: Callable[..., Any]) -> Any:
        """What `model` returns for these inputs."""
        return model(*self.args, **self.kwargs)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One exported graph: `tensors` maps placeholder names to parameter and buffer names of the model."""

    program: torch.export.ExportedProgram
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    training: bool

    def operators(self) -> Counter[str]:
        """How often every operator is called, without the counting of batches by batch norms."""
        targets = (str(node.target) for node in self.program.graph.nodes if node.op == "call_function")
        return Counter(target for target in targets if target != "aten.add_.Tensor")

    def used(self) -> frozenset[str]:
        """The parameters that the graph reads."""
        nodes = self.program.graph.find_nodes(op="placeholder")
        parameters = self.program.graph_signature.inputs_to_parameters
        return frozenset(parameters[node.name] for node in nodes if node.users and node.name in parameters)


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


class _Called(TorchFunctionMode):
    """Notes the functions of torch that a forward calls, on which parameters, and the shapes of what they return."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = (*args, *(kwargs or {}).values())
        used = tuple(self.parameters[id(argument)] for argument in given if id(argument) in self.parameters)
        self.calls.append((func, getattr(result, "shape", None), used))
        return result


_DROPS = frozenset({"__get__", "empty", "new_empty", "bernoulli_", "div_", "mul"})
"""Names of the functions that drop whole samples at random (stochastic depth); channels stay as they are."""


def modes_differ(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a forward does more with channels in training than in evaluation (auxiliary heads, say).

    Told by the functions that it calls on the meta device, where no numbers are computed; a forward that cannot run
    there counts as different. Capturing a graph takes many times longer.
    """
    calls: list[list[tuple[Any, ...]]] = []
    fast_attention = torch.backends.mha.get_fastpath_enabled()  # for evaluation only, and not in captured graphs
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            shadow = copy.deepcopy(model, {id(t): _meta(t) for t in named_tensors(model).values()})
            for module in shadow.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.num_batches_tracked = None  # batch norms count in training, and nothing else is different
            # Another head of the same shape is another path.
            parameters = {id(parameter): name for name, parameter in shadow.named_parameters()}
            for training in (True, False):
                with _Called(parameters) as called:
                    inputs.map(_meta).call(shadow.train(training))
                calls.append(called.calls)
    except Exception:  # whatever it is: the captures then run the forward itself, and say what is wrong with it
        return True
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    training, evaluation = calls
    rest = iter(evaluation)
    expected = next(rest, None)
    for call in training:
        if call == expected:
            expected = next(rest, None)
        elif getattr(call[0], "__name__", "") not in _DROPS:
            return True
    return expected is not None


def _meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection within it: tracing makes so many small objects that looking through them takes a third."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def quiet_export() -> Iterator[None]:
    """Within it, `torch.export` leaves out what is of no use here.

    Nodes do not carry where in the code they come from, which takes a quarter longer. Caches that a forward fills are
    put back by `unchanged`, so there is nothing to warn of.
    """
    known = hasattr(torch.fx.config, "do_not_emit_stack_traces")  # not in PyTorch 2.11
    before = known and torch.fx.config.do_not_emit_stack_traces
    if known:
        torch.fx.config.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*assigned during export", category=UserWarning)
            # Branches and maps look at gradients of what they are given.
            warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
            yield
    finally:
        if known:
            torch.fx.config.do_not_emit_stack_traces = before


def capture(model: nn.Module, inputs: Inputs, *, training: bool) -> Capture:
    """The ATen graph of a model in training or evaluation mode, by non-strict `torch.export`.

    Raises:
        AnalysisError: the model cannot be captured; the message carries what torch.export said.
    """
    with unchanged(model), module_modes(model, training), quiet_export(), plain_outputs(model):
        try:
            program = torch.export.export(model, inputs.args, inputs.kwargs, strict=False)
        except Exception as error:
            shapes = [tuple(t.shape) for t in inputs.tensors()]
            mode = "training" if training else "evaluation"
            raise AnalysisError(
                f"{type(model).__name__} could not be captured in {mode} mode with inputs of shape {shapes}: "
                f"{type(error).__name__}: {first_line(error)}. Check that model(*example_inputs) runs, and that its "
                "forward does not branch on tensor values"
            ) from error
    program = flatten_graph(program)
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
