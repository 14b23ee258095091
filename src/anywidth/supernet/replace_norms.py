"""Replacement of norms over elastic channels by norms per shell, so that networks with them can be nested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs
from anywidth.groups.analysis import Analysis
from anywidth.groups.before_channels import modules_before_channels
from anywidth.groups.later_shells import is_elastic, position_shells
from anywidth.supernet.shell_norm import NormKind, ShellNorm
from anywidth.widths import WidthConfig

__all__ = ["described", "norms_over_shells", "replaced_norms"]

_EPSILONS = ("eps", "variance_epsilon", "epsilon")


def norms_over_shells(
    model: nn.Module, inputs: Inputs, analysis: Analysis, widths: Iterable[WidthConfig]
) -> dict[str, tuple[NormKind, int, Tensor]]:
    """The norms over elastic channels that other channels are made from: kind, dimension and shells, by path.

    Found are layer and RMS norms of any class over the last or the second dimension, and group norms with one group.
    Norms in the tail are left out: every width runs them on its own channels.

    Args:
        model: The model.
        inputs: Example inputs.
        analysis: Its groups.
        widths: The widths at which shells end, in ascending order.

    Raises:
        AnalysisError: one of them has hooks, which its replacement would not run.
    """
    bounds = np.stack([analysis.blocks(config) for config in widths])
    found: dict[str, tuple[NormKind, int, Tensor]] = {}
    before: frozenset[str] | None = None
    for path, module in model.named_modules():
        kind = _kind_of(module)
        axes = analysis.axes.get(analysis.names.get(f"{path}.weight", ""), ()) if kind is not None else ()
        axis = axes[0] if axes else None
        if kind is None or axis is None or not is_elastic(analysis, axis).any():
            continue
        before = modules_before_channels(model, inputs, analysis) if before is None else before
        if path in before:
            _check_hooks(path, module)
            found[path] = *kind, torch.from_numpy(position_shells(axis, bounds).astype(np.int64))
    return found


def described(model: nn.Module) -> dict[str, tuple[NormKind, int]]:
    """The norms per shell of a model: kind and dimension, by path; which channels are in which shell is a buffer."""
    return {path: (module.kind, module.dim) for path, module in model.named_modules() if isinstance(module, ShellNorm)}


@contextmanager
def replaced_norms(model: nn.Module, norms: Mapping[str, tuple[NormKind, int, Tensor]]) -> Iterator[None]:
    """Context manager that replaces norms by norms per shell for good; after an error, the old ones are back.

    Args:
        model: The model; its parameters and the keys of its state dict stay.
        norms: What `norms_over_shells` found.
    """
    before: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = []
    fused: list[tuple[nn.TransformerEncoderLayer, int]] = []
    try:
        for path, (kind, dim, shells) in norms.items():
            norm = model.get_submodule(path)
            if isinstance(norm, ShellNorm) and torch.equal(norm.shells, shells.to(norm.shells.device)):
                continue
            weight = cast(nn.Parameter, norm.weight)
            new = ShellNorm(
                kind, shells.to(weight.device), dim=dim, eps=_epsilon(norm, weight.dtype), weight=weight,
                bias=cast("nn.Parameter | None", getattr(norm, "bias", None)),
            )  # fmt: skip
            new.train(norm.training)
            for parent in list(model.modules()):
                for name, child in parent._modules.items():
                    if child is norm:
                        before.append((parent._modules, name, norm))
                        parent._modules[name] = new
                        if isinstance(parent, nn.TransformerEncoderLayer):
                            fused.append((parent, parent.activation_relu_or_gelu))
                            parent.activation_relu_or_gelu = 0  # the fused kernel has layer norms inside
        yield
    except BaseException:
        for modules, name, norm in before:
            modules[name] = norm
        for layer, value in reversed(fused):
            layer.activation_relu_or_gelu = value
        raise


@torch.no_grad()
def _kind_of(module: nn.Module) -> tuple[NormKind, int] | None:
    """What a module computes, if that is a norm over one dimension; found by running it on random numbers."""
    if isinstance(module, ShellNorm):
        return module.kind, module.dim
    if isinstance(module, nn.GroupNorm):
        return ("group", 1) if module.num_groups == 1 and module.affine else None
    weight = module._parameters.get("weight")
    own = {name for name, parameter in module._parameters.items() if parameter is not None}
    if weight is None or weight.ndim != 1 or not own <= {"weight", "bias"} or module._modules:
        return None
    if module._buffers or not any(hasattr(module, name) for name in _EPSILONS):
        return None
    bias, size, eps = module._parameters.get("bias"), weight.numel(), _epsilon(module, weight.dtype)
    generator = torch.Generator().manual_seed(0)
    for dim, shape in ((-1, (2, 3, size)), (1, (2, size, 3, 2))):
        x = torch.randn(shape, generator=generator).to(weight)
        last = x.movedim(dim, -1)
        with suppress(RuntimeError, ValueError, IndexError, TypeError):
            got = module.forward(x)  # without hooks
            wanted: dict[NormKind, Tensor] = {"layer": F.layer_norm(last, (size,), weight, bias, eps)}
            if bias is None:
                wanted["rms"] = F.rms_norm(last, (size,), weight, eps)
            for kind, value in wanted.items():
                if got.shape == x.shape and torch.allclose(got, value.movedim(-1, dim), rtol=1e-3, atol=1e-3):
                    return kind, dim
    return None


def _check_hooks(path: str, norm: nn.Module) -> None:
    found = [name for name, hooks in vars(norm).items() if name.endswith("_hooks") and hooks]
    if found and not isinstance(norm, ShellNorm):
        kind = found[0].strip("_").removesuffix("s").replace("_", " ")
        raise AnalysisError(
            f'nested_norm="shell" replaces {path} ({type(norm).__name__}), which has a {kind} that its replacement '
            "would not run. Remove the hook, and register it on the new module after building the supernet"
        )


def _epsilon(norm: nn.Module, dtype: torch.dtype) -> float:
    found = next((getattr(norm, name) for name in _EPSILONS if hasattr(norm, name)), None)
    return torch.finfo(dtype).eps if found is None else float(found)
