"""How many samples the example inputs hold, and which operators work once for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode

from anywidth.core.inputs import Inputs
from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.capture import Capture
from anywidth.groups.grouped import AnyGroupedProduct
from anywidth.groups.narrow import narrow, take
from anywidth.groups.outputs import output_tensors

__all__ = ["Samples", "find_samples", "per_sample", "sources"]

Batch = Mapping[int, int]
"""The dimension that counts samples, by position of the input tensor."""


@dataclass(frozen=True)
class Samples:
    """How many samples there are, and the positions of the input tensors that hold them."""

    number: int
    inputs: frozenset[int]


def per_sample(analysis: Analysis, samples: Samples, copies: int = 1) -> Analysis:
    """The same analysis with MACs per sample, from those of all captured inputs.

    What is computed from weights alone, or from inputs that all samples share, counts once.

    Args:
        analysis: With the MACs of all captured inputs.
        samples: Those in the captured inputs.
        copies: How many times the example is in them.
    """
    operators = []
    for operator in analysis.operators:
        once = not operator.inputs & samples.inputs and samples.number not in operator.sizes
        operators.append(operator if once else replace(operator, macs=operator.macs // samples.number))
    return replace(analysis, operators=tuple(operators), samples=samples.number // copies)


def sources(capture: Capture) -> dict[Node, tuple[frozenset[int], frozenset[int]]]:
    """For every node: the positions of the inputs it is computed from, and the sizes that something is repeated to."""
    found: dict[Node, tuple[frozenset[int], frozenset[int]]] = {}
    number = 0
    for node in capture.program.graph.nodes:
        inputs: frozenset[int] = frozenset()
        sizes: frozenset[int] = frozenset()
        if node.op == "placeholder":
            own = node.name in capture.tensors or node.name in capture.constants
            if isinstance(node.meta.get("val"), Tensor) and not own:
                inputs, number = frozenset({number}), number + 1
        else:
            inputs = inputs.union(*(found[source][0] for source in node.all_input_nodes))
            sizes = sizes.union(*(found[source][1] for source in node.all_input_nodes), _repeats(node))
        found[node] = inputs, sizes
    return found


_MAKERS = ("expand", "repeat", "zeros", "ones", "full", "empty", "rand", "randn", "tile", "broadcast_to")


def _repeats(node: Node) -> list[int]:
    """The sizes that an operator repeats something to: a query for every sample, say."""
    name = str(node.target).removeprefix("aten.").removeprefix("new_").partition(".")[0]
    if node.op != "call_function" or name not in _MAKERS:
        return []
    sizes = next((argument for argument in node.args if isinstance(argument, (list, tuple))), ())
    return [size for size in sizes if isinstance(size, int) and size > 1]


def find_samples(
    model: nn.Module, analysis: Analysis, inputs: Inputs, capture: Capture, number: int | None = None
) -> Samples:
    """The samples in the example inputs, found by running the network on some of them.

    Inputs hold a batch along a dimension if any of its positions alone gives the outputs that it gives among the
    others. The first dimension is tried first, so that rows of features are samples and not tokens, then the second
    (`nn.LSTM` and `nn.MultiheadAttention` have steps first). If neither is a batch, all inputs are one sample, unless
    operators that take a batch got one: networks whose samples depend on one another, or with a fixed batch size.

    Args:
        model: The network at full width; a copy of its narrowest subnet runs, on random weights.
        analysis: Its groups.
        inputs: The example inputs that were captured.
        capture: The graph for evaluation.
        number: How many samples there are, if the user says so.
    """
    tensors = inputs.tensors()
    everything = frozenset(range(len(tensors)))
    if number is not None:
        held = {i for i, tensor in enumerate(tensors) if number in tensor.shape[:2]}
        return Samples(number, frozenset(held) or everything)
    if all(tensor.shape[0] == 1 for tensor in tensors if tensor.ndim) and max(t.ndim for t in tensors) > 3:
        return Samples(1, everything)
    network = _random_narrowest(model, analysis)
    size = _batch_of_operators(capture)
    for batch in _hypotheses(tensors):
        index, dim = next(iter(batch.items()))
        # Rows and columns of one image may be independent, too, if all kernels have one position.
        if (dim == 0 or size != 0) and _independent(network, inputs, batch):
            return Samples(tensors[index].shape[dim], frozenset(batch))
    held = frozenset(i for i, tensor in enumerate(tensors) if tensor.ndim and tensor.shape[0] == size)
    return Samples(size, held) if size and held else Samples(1, everything)


def _hypotheses(tensors: Sequence[Tensor]) -> list[Batch]:
    """Which dimensions may hold a batch, the most likely first: that which most inputs share.

    Queries that look at keys of another length do not depend on one another either, but the batch is in both.
    """
    leading = [tensor.shape[0] for tensor in tensors if tensor.ndim]
    second = [tensor.shape[1] for tensor in tensors if tensor.ndim > 1]
    seen: list[Batch] = []
    for dim, sizes in ((0, leading), (1, second)):
        for size in dict.fromkeys([*sizes[:1], *sorted(sizes, reverse=True)]):
            fits = {i: dim for i, t in enumerate(tensors) if t.ndim > dim and t.shape[dim] == size}
            choices = [fits]
            if dim:  # masks and lengths have the batch first even where everything else has the steps first
                flat = {i: 0 for i, t in enumerate(tensors) if 0 < t.ndim < 3 and t.shape[0] == size}
                choices = [{**fits, **flat}, fits] if flat else [fits]
            for choice in choices:
                if size > 1 and choice and choice not in seen:
                    seen.append(choice)
    return sorted(seen, key=len, reverse=True)


def _independent(network: nn.Module, inputs: Inputs, batch: Batch) -> bool:
    """Whether the first and the last of up to three samples alone give what they give together."""
    index, dim = next(iter(batch.items()))
    several = min(3, inputs.tensors()[index].shape[dim])
    try:
        together = _run(network, _part(inputs, batch, range(several)))
        return all(
            _same(together, _run(network, _part(inputs, batch, [each])), several, each) for each in (0, several - 1)
        )
    except Exception:  # whatever it is: the network does not take fewer positions of this dimension
        return False


def _part(inputs: Inputs, batch: Batch, positions: Sequence[int]) -> Inputs:
    counter = iter(range(len(inputs.tensors())))

    def part(tensor: Tensor) -> Tensor:
        dim = batch.get(next(counter))
        return tensor if dim is None else tensor.index_select(dim, torch.tensor(list(positions), device=tensor.device))

    return inputs.map(part)


def _run(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _NoChance(), AnyGroupedProduct():
        return output_tensors(inputs.call(network))


def _same(together: Sequence[Tensor], alone: Sequence[Tensor], number: int, position: int) -> bool:
    """Whether outputs of one sample are those at its position among several; at least one has to depend on it."""
    affected = 0
    for whole, single in zip(together, alone, strict=True):
        if whole.ndim != single.ndim:
            return False
        dims = [d for d, (a, b) in enumerate(zip(whole.shape, single.shape, strict=True)) if a != b]
        if any((whole.shape[d], single.shape[d]) != (number, 1) for d in dims):
            return False
        affected += bool(dims)
        for d in dims:
            whole = whole.narrow(d, position, 1)
        if dims and (whole.is_floating_point() or whole.is_complex()):
            precision = torch.finfo(whole.dtype).eps
            error, scale = (whole - single).abs().max(), single.abs().max()
            if bool(error > 1e4 * precision * scale if precision < 1e-5 else error > 8 * precision * scale):
                return False
    return affected > 0


class _NoChance(TorchDispatchMode):
    """Random numbers are all alike, so that outputs can be compared."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        return result.fill_(0.5) if name in _RANDOM and isinstance(result, Tensor) else result


_RANDOM = frozenset(
    ("rand", "randn", "rand_like", "randn_like", "normal", "normal_functional", "uniform", "exponential", "bernoulli",
     "randint", "randint_like", "randperm")
)  # fmt: skip


def _random_narrowest(model: nn.Module, analysis: Analysis) -> nn.Module:
    """A copy of the narrowest subnet in evaluation mode, with random weights, so that no zero hides a dependence."""
    generator = torch.Generator().manual_seed(0)

    def bind(_: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
        part = take(tensor.detach(), kept)
        if not isinstance(tensor, nn.Parameter):
            return part.clone()
        if part.is_floating_point():
            drawn = torch.randn(part.shape, generator=generator)
            drawn = drawn * math.sqrt(2 / max(1, part[0].numel())) if part.ndim > 1 else drawn * 0.2 + 1
            part = drawn.to(part.device, part.dtype)
        return nn.Parameter(part.clone(), requires_grad=False)

    fewest = {group.name: max(1, group.units // 4) * group.unit for group in analysis.elastic}
    return narrow(model, analysis, analysis.units(fewest), bind).eval()


def _batch_of_operators(capture: Capture) -> int | None:
    """The batch that the first layer which tells got, 0 if it got none, or None if there is no such layer.

    For networks whose samples cannot be taken apart.
    """
    for node in capture.program.graph.nodes:
        name = str(node.target).partition(".")[2].partition(".")[0]
        if node.op != "call_function" or not node.all_input_nodes:
            continue
        shape = list(getattr(node.all_input_nodes[0].meta.get("val"), "shape", ()))
        spatial = {"conv1d": 1, "conv2d": 2, "conv3d": 3}.get(name)
        if spatial is not None:
            return shape[0] if len(shape) == spatial + 2 else 0
        if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            return shape[0 if node.args[-1] else 1] if len(shape) == 3 else 0
        if name == "batch_norm" and len(shape) > 2:
            return shape[0]
    return None
