"""References that subnets are compared with, made without the code under test."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.ops import StochasticDepth

import anywidth as aw
from anywidth.core.inputs import normalise_inputs
from zoo import Case

__all__ = [
    "assert_close",
    "assert_like_slicing",
    "assert_same_layers",
    "call",
    "configs",
    "kept",
    "masked",
    "outputs",
    "slicing_gradients",
    "weighted",
    "without_dropout",
]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def assert_close(got: Any, wanted: Any, tolerance: float = 1e-9) -> None:
    """The tensors of two results agree within `tolerance` of the largest value of each."""
    ours, theirs = ([tensor.detach() for tensor in outputs(side)] for side in (got, wanted))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert bool(torch.isfinite(a).all()), "not finite"
        error = float((a - b).abs().max()) if a.numel() else 0.0
        scale = max(float(b.abs().max()) if b.numel() else 0.0, 1.0)
        assert error <= tolerance * scale, f"differs by {error:.3g} of {scale:.3g}"


def outputs(result: Any) -> list[Tensor]:
    """The tensors that a model returned."""
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def call(model: nn.Module, inputs: Any) -> Any:
    """What a model returns for inputs in any of the accepted forms."""
    return normalise_inputs(inputs).call(model)


def configs(net: aw.Supernet, seed: int = 0, random: int = 2) -> list[aw.WidthConfig]:
    """The narrowest, a uniform one, and nonuniform ones with any permitted number of channels per group."""
    rng = np.random.default_rng(seed)
    chosen = [net.config(net.min_width), net.config(float(rng.uniform(net.min_width, 1)))]
    if sum(parameter.numel() for parameter in net.model.parameters()) > 50e6:
        chosen, random = [], 1
    for _ in range(random):
        channels = {
            g.name: int(rng.integers(1, g.channels // g.block_size + 1)) * g.block_size for g in net.analysis.elastic
        }
        chosen.append(aw.WidthConfig(channels))
    return chosen


def without_dropout(model: nn.Module) -> None:
    """Sets all probabilities of dropout to zero."""
    for module in model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, StochasticDepth)):
            module.p = 0.0


def kept(net: aw.Supernet, config: Mapping[str, int], name: str) -> list[Tensor]:
    """Indices of the kept positions of every dimension of a parameter or buffer, from the analysis' axes alone."""
    analysis = net.analysis  # looked up once: every look asks whether the model has changed
    first = analysis.names[name]
    shape = dict([*net.model.named_parameters(), *net.model.named_buffers()])[first].shape
    axes = analysis.axes.get(first, (None,) * len(shape))
    found = []
    for size, axis in zip(shape, axes, strict=True):
        positions = range(size)
        if axis is not None:
            groups = [None if number < 0 else analysis.groups[number] for number in axis.group.tolist()]
            positions = [
                position
                for position, (group, index) in enumerate(zip(groups, axis.index.tolist(), strict=True))
                if group is None or group.frozen or index * group.block_size < config[group.name]
            ]
        found.append(torch.tensor(list(positions), dtype=torch.long))
    return found


def masked(net: aw.Supernet, config: Mapping[str, int], case: Case) -> nn.Module:
    """A copy of the full network in which every weight that reads a dropped channel is zero."""
    full = copy.deepcopy(net.model)
    with torch.no_grad():
        for prefix, module in full.named_modules():
            if not isinstance(module, (*_CONVS, *_TRANSPOSED, nn.Linear)):
                continue
            name = f"{prefix}.weight" if prefix else "weight"
            for dim, indices in enumerate(kept(net, config, name)):
                reads = dim == (0 if isinstance(module, _TRANSPOSED) else 1)
                if reads or (dim < 2 and name in case.both_ways):
                    rest = torch.ones(module.weight.shape[dim], dtype=torch.bool)
                    rest[indices] = False
                    module.weight.index_fill_(dim, rest.nonzero()[:, 0], 0.0)
    return full


def slicing_gradients(
    net: aw.Supernet, config: Mapping[str, int], dense: nn.Module, inputs: Any, weights: Sequence[Tensor]
) -> tuple[Any, dict[str, Tensor]]:
    """Outputs and gradients of the full parameters by autograd through slicing them.

    `dense` gives the architecture of the config, its own parameters are not used; the loss is the sum of the
    outputs times `weights`.
    """
    full = dict(net.model.named_parameters())
    sliced = {}
    for name, parameter in full.items():
        part: Tensor = parameter
        for dim, indices in enumerate(kept(net, config, name)):
            part = part.index_select(dim, indices)
        sliced[name] = part
    call_inputs = normalise_inputs(inputs)
    result = functional_call(dense, sliced, call_inputs.args, call_inputs.kwargs)
    loss = weighted(result, weights)
    gradients = torch.autograd.grad(loss, list(full.values()), allow_unused=True)
    return result, {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(full.items(), gradients, strict=True)
    }


def assert_like_slicing(net: aw.Supernet, config: aw.WidthConfig, x: Any, *, training: bool) -> None:
    """A subnet's outputs and the supernet's gradients are those of autograd through slicing."""
    net.model.zero_grad(set_to_none=True)
    got = call(net.subnet(config).train(training), x)
    weights = [torch.randn(got.shape, dtype=torch.float64)]
    weighted(got, weights).backward()
    dense = net.extract(config).train(training)
    wanted, gradients = slicing_gradients(net, config, dense, x, weights)
    assert_close(got, wanted)
    for name, parameter in net.model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(gradient, gradients[name], 1e-6)


def weighted(result: Any, weights: Sequence[Tensor]) -> Tensor:
    """A scalar that depends on every output."""
    pairs = [(out, weight) for out, weight in zip(outputs(result), weights, strict=True) if out.requires_grad]
    return sum((out * weight).sum() for out, weight in pairs)  # type: ignore[return-value]


def assert_same_layers(net: aw.Supernet, config: Mapping[str, int], full: nn.Module, sub: nn.Module, x: Any) -> None:
    """Every plain layer of `sub` gives, call by call, the kept channels of what that of `full` gives."""
    seen = [_layer_outputs(full, x), _layer_outputs(sub, x)]
    assert seen[0].keys() == seen[1].keys()
    for prefix in seen[0]:
        name = f"{prefix}.weight" if prefix else "weight"
        module = net.model.get_submodule(prefix)
        dim = -1 if isinstance(module, nn.Linear) else 1
        channels = kept(net, config, name)[0]
        assert len(seen[0][prefix]) == len(seen[1][prefix])
        for whole, part in zip(seen[0][prefix], seen[1][prefix], strict=True):
            assert_close(part, whole.index_select(dim, channels))


def _layer_outputs(model: nn.Module, x: Any) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    handles = []
    for prefix, module in model.named_modules():
        norm = isinstance(module, nn.modules.batchnorm._NormBase) and module.affine
        if norm or isinstance(module, (*_CONVS, nn.Linear)):

            def note(_: nn.Module, __: Any, out: Tensor, prefix: str = prefix) -> None:
                found.setdefault(prefix, []).append(out.detach().clone())

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            call(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return found
