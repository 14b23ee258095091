"""CUDA graphs of the passes of a sandwich step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.errors import TrainingError
from anywidth.groups.trace import Inputs
from anywidth.supernet import Supernet

__all__ = ["Pass", "PassGraphs", "Runner", "run_directly"]

Pass = Callable[[Inputs, Any, Tensor | None], tuple[Tensor, Any]]
"""Forward and backward of one width: inputs, targets and the teacher's logits in, detached loss and output out."""


class Runner(Protocol):
    """Runs the passes of a step, directly or from recordings."""

    def __call__(
        self, key: Hashable, function: Pass, inputs: Inputs, targets: Any, soft: Tensor | None
    ) -> tuple[Tensor, Any]:
        """What `function(inputs, targets, soft)` returns and does to gradients; `key` tells passes apart."""
        ...


def run_directly(
    key: Hashable, function: Pass, inputs: Inputs, targets: Any, soft: Tensor | None
) -> tuple[Tensor, Any]:
    """The pass itself."""
    return function(inputs, targets, soft)


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    targets: Any
    soft: Tensor | None
    results: tuple[Tensor, Any]


class PassGraphs:
    """Records the passes of a sandwich step as CUDA graphs and replays them: one launch instead of hundreds.

    Small networks on a large GPU wait for their kernels to be launched. A graph belongs to one width and one shape of
    batch, so let random widths come from a ladder (`WidthSampler(ladder=...)`). The first pass of a width runs as it
    is, the second is recorded. Give one object to all steps: `sandwich_step(net, ..., runner=graphs)`.

    The gradients of the supernet's parameters lie where the recordings add to them; a `None` after `zero_grad()` is
    replaced by zeros there. Recordings are made again when parameters move. Module hooks run while a pass is recorded,
    not when it is replayed.

    Args:
        net: The supernet, on a GPU.
        limit: How many recordings are kept; the one used longest ago goes first.

    Raises:
        TrainingError: the network is not on a GPU.
    """

    def __init__(self, net: Supernet, *, limit: int = 128) -> None:
        self.net = net
        self.limit = limit
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []
        self._places: tuple[int, ...] = ()
        self._pool: Any = None

    def __len__(self) -> int:
        """The number of recordings."""
        return len(self._recorded)

    def __call__(
        self, key: Hashable, function: Pass, inputs: Inputs, targets: Any, soft: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Record or replay a pass."""
        self._attach()
        key = (key, _kind(inputs.tensors()), _kind(pytree.tree_leaves(targets)), _precision())
        recorded = self._recorded.get(key)
        if recorded is None:
            if key not in self._seen:
                self._seen.add(key)
                return function(inputs, targets, soft)
            recorded = self._recorded[key] = self._record(function, inputs, targets, soft)
            if len(self._recorded) > self.limit:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(key)
        static = [*recorded.inputs.tensors(), *pytree.tree_leaves((recorded.targets, recorded.soft))]
        given = [*inputs.tensors(), *pytree.tree_leaves((targets, soft))]
        for ours, theirs in zip(static, given, strict=True):
            if isinstance(ours, Tensor):
                ours.copy_(theirs)
        recorded.graph.replay()
        # Recordings share their memory: another one may overwrite the results.
        return pytree.tree_map_only(Tensor, Tensor.clone, recorded.results)

    def _record(self, function: Pass, inputs: Inputs, targets: Any, soft: Tensor | None) -> _Recorded:
        inputs = inputs.map(Tensor.clone)
        targets = pytree.tree_map_only(Tensor, Tensor.clone, targets)
        soft = None if soft is None else soft.clone()
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # Casts that autocast remembers from outside would be baked in, and those from inside would be taken outside.
        cast = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        )
        torch.clear_autocast_cache()
        with torch.cuda.graph(graph, pool=self._pool), cast:
            results = function(inputs, targets, soft)
        return _Recorded(graph, inputs, targets, soft, results)

    def _attach(self) -> None:
        """Make the parameters' gradients the tensors that recordings add to."""
        parameters = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        places = tuple(parameter.data_ptr() for parameter in parameters)
        if places != self._places:
            if not all(parameter.is_cuda for parameter in parameters):
                raise TrainingError("CUDA graphs need the network on a GPU; move it there, or train without them")
            self._recorded.clear()
            self._seen.clear()
            self._places = places
            self._gradients = [(parameter, torch.zeros_like(parameter)) for parameter in parameters]
        fresh = []
        for parameter, gradient in self._gradients:
            given = parameter.grad
            if given is gradient:
                continue
            if given is None:
                fresh.append(gradient)
            else:
                gradient.copy_(given)
            parameter.grad = gradient
        if fresh:
            torch._foreach_zero_(fresh)  # type: ignore[attr-defined]


def _kind(tensors: list[Any]) -> Hashable:
    return tuple((t.shape, t.dtype, t.device) if isinstance(t, Tensor) else t for t in tensors)


def _precision() -> Hashable:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"), torch.is_grad_enabled()
