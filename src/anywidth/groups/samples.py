"""Find the number of samples in the example inputs, and the operators that run once for all samples."""

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
from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.capture import Capture
from anywidth.groups.grouped import AnyGroupedProduct
from anywidth.groups.narrow import narrow, take
from anywidth.groups.outputs import output_tensors

__all__ = ["Samples", "find_samples", "per_sample", "sources"]

Batch = Mapping[int, int]
"""The sample dimension, by position of the input tensor."""


@dataclass(frozen=True)
class Samples:
    """The number of samples, and the positions of the input tensors that contain them."""

    number: int
    inputs: frozenset[int]


def per_sample(analysis: Analysis, samples: Samples, copies: int = 1) -> Analysis:
    """A copy of the analysis with MACs per sample, computed from those of all captured inputs.

    Operators on weights alone, or on inputs that all samples share, count once.

    Args:
        analysis: The analysis with the MACs of all captured inputs.
        samples: The samples in the captured inputs.
        copies: Number of copies of the example in them.
    """
    operators = []
    for operator in analysis.operators:
        once = not operator.inputs & samples.inputs and samples.number not in operator.sizes
        operators.append(operator if once else replace(operator, macs=operator.macs // samples.number))
    return replace(analysis, operators=tuple(operators), samples=samples.number // copies)


def sources(capture: Capture) -> dict[Node, tuple[frozenset[int], frozenset[int]]]:
    """For every node: the positions of the inputs that it depends on, and those whose size something is repeated to."""
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
    """The sizes to which an operator repeats something, such as a query for every sample."""
    name = str(node.target).removeprefix("aten.").removeprefix("new_").partition(".")[0]
    if node.op != "call_function" or name not in _MAKERS:
        return []
    sizes = next((argument for argument in node.args if isinstance(argument, (list, tuple))), ())
    return [size for size in sizes if isinstance(size, int) and size > 1]


def find_samples(
    model: nn.Module, analysis: Analysis, inputs: Inputs, capture: Capture, number: int | None = None
) -> Samples:
    """The samples in the example inputs, found by running the network on parts of them.

    A dimension is the batch if each position alone leads to the same outputs as together with the others. The first
    dimension is tried first, so that rows of features are samples and not tokens, then the second (`nn.LSTM` and
    `nn.MultiheadAttention` have steps first). If neither is the batch, all inputs are one sample, unless operators with
    a batch received one: networks whose samples depend on each other, or with a fixed batch size.

    Args:
        model: The network at full width; a copy of its narrowest subnet runs, on random weights.
        analysis: Its groups.
        inputs: The example inputs that were captured.
        capture: The graph for evaluation.
        number: The number of samples, if the user gave it.
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
        # Rows and columns of one image may also be independent, if all kernels have one position.
        if (dim == 0 or size != 0) and _independent(network, inputs, batch):
            return Samples(tensors[index].shape[dim], frozenset(batch))
    held = frozenset(i for i, tensor in enumerate(tensors) if tensor.ndim and tensor.shape[0] == size)
    return Samples(size, held) if size and held else Samples(1, everything)


def _hypotheses(tensors: Sequence[Tensor]) -> list[Batch]:
    """The possible batch dimensions, the most likely first: the one that most inputs share.

    Queries that attend to keys of another length are also independent of each other, but the batch is in both.
    """
    leading = [tensor.shape[0] for tensor in tensors if tensor.ndim]
    second = [tensor.shape[1] for tensor in tensors if tensor.ndim > 1]
    seen: list[Batch] = []
    for dim, sizes in ((0, leading), (1, second)):
        for size in dict.fromkeys([*sizes[:1], *sorted(sizes, reverse=True)]):
            fits = {i: dim for i, t in enumerate(tensors) if t.ndim > dim and t.shape[dim] == size}
            choices = [fits]
            if dim:  # masks and lengths have the batch first even if all other tensors have the steps first
                flat = {i: 0 for i, t in enumerate(tensors) if 0 < t.ndim < 3 and t.shape[0] == size}
                choices = [{**fits, **flat}, fits] if flat else [fits]
            for choice in choices:
                if size > 1 and choice and choice not in seen:
                    seen.append(choice)
    return sorted(seen, key=len, reverse=True)


def _independent(network: nn.Module, inputs: Inputs, batch: Batch) -> bool:
    """Whether the first and the last of up to three samples have the same outputs alone and together."""
    index, dim = next(iter(batch.items()))
    several = min(3, inputs.tensors()[index].shape[dim])
    try:
        together = _run(network, _part(inputs, batch, range(several)))
        return all(
            _same(together, _run(network, _part(inputs, batch, [each])), several, each) for each in (0, several - 1)
        )
    except Exception:  # any error means that the network does not accept fewer positions of this dimension
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
    """Whether the outputs of one sample equal those at its position among several; one must depend on it."""
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
    """Context manager in which random numbers are constant, so that outputs can be compared."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        return result.fill_(0.5) if name in _RANDOM and isinstance(result, Tensor) else result


_RANDOM = frozenset(
    ("rand", "randn", "rand_like", "randn_like", "normal", "normal_functional", "uniform", "exponential", "bernoulli",
     "randint", "randint_like", "randperm")
)  # fmt: skip


def _random_narrowest(model: nn.Module, analysis: Analysis) -> nn.Module:
    """A copy of the narrowest subnet in evaluation mode, with random weights, so that zeros do not hide dependences."""
    generator = torch.Generator().manual_seed(0)

    def bind(_: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
        part = take(tensor.detach(), kept)
        if not isinstance(tensor, nn.Parameter):
            return part.clone()
        if part.is_floating_point():
            drawn = torch.randn(part.shape, generator=generator)
            drawn = drawn * math.sqrt(2 / max(1, part[0].numel())) if part.ndim > 1 else drawn * 0.2 + 1
            part = drawn.to(part.device, part.dtype)
        return nn.Parameter(part.clone(), requires_grad=False)

    fewest = {group.name: max(1, group.blocks // 4) * group.block_size for group in analysis.elastic}
    sub = narrow(model, analysis, analysis.blocks(fewest), bind)
    sub.eval()
    return sub


def _batch_of_operators(capture: Capture) -> int | None:
    """The batch size at the first layer that reveals it, 0 if its input has no batch, None without such a layer.

    For networks whose samples cannot be separated.
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
