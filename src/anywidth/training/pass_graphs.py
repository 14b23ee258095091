"""CUDA graphs of the passes of a sandwich step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.core.errors import TrainingError
from anywidth.core.inputs import Inputs
from anywidth.supernet import Supernet

__all__ = ["Pass", "PassGraphs", "Runner", "run_directly"]

_PLAIN = (int, float, str, bool, type(None))

Pass = Callable[[Inputs, Any, Any], tuple[Tensor, Any]]
"""Forward and backward of one width: maps inputs, targets and the teacher's output to the detached loss and output."""


class Runner(Protocol):
    """Runs the passes of a step, directly or from recordings."""

    def __call__(self, key: Hashable, function: Pass, inputs: Inputs, targets: Any, soft: Any) -> tuple[Tensor, Any]:
        """Run `function(inputs, targets, soft)` or a recording of it; `key` identifies the pass."""
        ...


def run_directly(key: Hashable, function: Pass, inputs: Inputs, targets: Any, soft: Any) -> tuple[Tensor, Any]:
    """Run the pass directly."""
    return function(inputs, targets, soft)


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    targets: Any
    soft: Any
    results: tuple[Tensor, Any]
    overwrites: bool


class PassGraphs:
    """Records the passes of a sandwich step as CUDA graphs and replays them: one launch instead of hundreds.

    Small networks on a large GPU wait for kernel launches. A graph belongs to one width and one batch shape, so draw
    random widths from a grid (`WidthSampler(grid=...)`). The first pass of a width runs directly, the second is
    recorded. Pass the same object to all steps: `sandwich_step(net, ..., execution=Execution(runner=graphs))`.

    The gradients of the supernet's parameters are the tensors that the recordings write to. They are attached again
    after `zero_grad(set_to_none=True)`, which is the fastest. If parameters move, passes are recorded again. Module
    hooks run while a pass is recorded, not when it is replayed. The functions given to `sandwich_step` (`loss`, `task`,
    `distillation`, `logits`) remain those of the recording.

    Args:
        net: The supernet, on a GPU.
        limit: Maximum number of recordings; the least recently used is dropped.

    Raises:
        TrainingError: the network is not on a GPU.
    """

    def __init__(self, net: Supernet, *, limit: int = 128) -> None:
        self.net = net
        self.limit = limit
        self._places: tuple[int, ...] = ()
        self._forget()

    def __len__(self) -> int:
        """The number of recordings."""
        return len(self._recorded)

    def __call__(self, key: Hashable, function: Pass, inputs: Inputs, targets: Any, soft: Any) -> tuple[Tensor, Any]:
        """Record or replay a pass."""
        parameters = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self._check(parameters)
        empty = all(parameter.grad is None for parameter in parameters)
        modes = tuple(module.training for module in self.net.model.modules())
        key = (
            key,
            self.net.generation,
            modes,
            empty,
            _kind(inputs.tensors()),
            _kind(pytree.tree_leaves(targets)),
            _precision(),
        )
        recorded = self._recorded.get(key)
        if recorded is None and key not in self._seen:
            self._seen.add(key)
            if self._gradients:
                self._attach()
            return function(inputs, targets, soft)
        if recorded is None:
            recorded = self._recorded[key] = self._record(function, inputs, targets, soft, parameters, empty)
            if len(self._recorded) > self.limit:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(key)
        self._attach(zero=not recorded.overwrites)
        static = [*recorded.inputs.tensors(), *pytree.tree_leaves((recorded.targets, recorded.soft))]
        given = [*inputs.tensors(), *pytree.tree_leaves((targets, soft))]
        for ours, theirs in zip(static, given, strict=True):
            if isinstance(ours, Tensor):
                ours.copy_(theirs)
        recorded.graph.replay()
        # Recordings share memory: another one may overwrite the results.
        return pytree.tree_map_only(Tensor, Tensor.clone, recorded.results)

    def _record(
        self, function: Pass, inputs: Inputs, targets: Any, soft: Any,
        parameters: list[nn.Parameter], empty: bool,
    ) -> _Recorded:  # fmt: skip
        """Record a pass. If there are no gradients yet, it creates them, so that nothing has to be zeroed or added."""
        overwrites = empty and not self._gradients
        if not overwrites:
            self._gradients = self._gradients or [(parameter, torch.zeros_like(parameter)) for parameter in parameters]
            self._attach()
        inputs = inputs.map(Tensor.clone)
        targets = pytree.tree_map_only(Tensor, Tensor.clone, targets)
        require_replaceable(soft)
        soft = pytree.tree_map_only(Tensor, Tensor.clone, soft)
        # Casts cached by autocast outside would become part of the recording, and casts from inside would leak out.
        torch.clear_autocast_cache()
        cast = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        )
        graph = torch.cuda.CUDAGraph()
        # Other threads may keep using the GPU, such as the one that pins memory for a data loader.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"), cast:
            results = function(inputs, targets, soft)
        self._pool = graph.pool()
        if overwrites:
            made = [(parameter, parameter.grad) for parameter in parameters]
            self._gradients = [(p, torch.zeros_like(p) if gradient is None else gradient) for p, gradient in made]
            self._others = [
                ours for (_, theirs), (_, ours) in zip(made, self._gradients, strict=True) if theirs is None
            ]
        return _Recorded(graph, inputs, targets, soft, results, overwrites)

    def _check(self, parameters: list[nn.Parameter]) -> None:
        """Drop all recordings if parameters have moved."""
        places = tuple(parameter.data_ptr() for parameter in parameters)
        if places != self._places:
            if not all(parameter.is_cuda for parameter in parameters):
                raise TrainingError("CUDA graphs need the network on a GPU; move it there, or train without them")
            self._forget()
            self._places = places

    def _forget(self) -> None:
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []
        self._others: list[Tensor] = []
        self._pool: Any = None

    def _attach(self, *, zero: bool = True) -> None:
        """Set the parameters' gradients to the tensors that recordings write to; `None` means zeros."""
        empty = []
        for parameter, gradient in self._gradients:
            given = parameter.grad
            if given is gradient:
                continue
            if given is None:
                empty.append(gradient)
            else:
                gradient.copy_(given)
            parameter.grad = gradient
        if not zero:
            empty = self._others
        if empty:
            torch._foreach_zero_(empty)  # type: ignore[attr-defined]


def require_replaceable(soft: Any) -> None:
    """Refuse a teacher's output if a replay cannot replace its tensors with those of another batch.

    Raises:
        TrainingError: it contains objects other than tuples, lists, dicts and tensors.
    """
    for leaf in pytree.tree_leaves(soft):
        if not isinstance(leaf, (Tensor, *_PLAIN)):
            raise TrainingError(
                f"a recording cannot replace the tensors inside the teacher's {type(leaf).__name__}; "
                "let the model return tensors, tuples or dicts, or train without CUDA graphs"
            )


def _kind(tensors: list[Any]) -> Hashable:
    return tuple((t.shape, t.dtype, t.device) if isinstance(t, Tensor) else t for t in tensors)


def _precision() -> Hashable:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
