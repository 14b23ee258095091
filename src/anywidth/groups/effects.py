"""What a forward in training does beside returning outputs: which buffers it writes, whether it draws numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from anywidth.core.inputs import Inputs, double_batch
from anywidth.core.modules import named_tensors, on_meta
from anywidth.groups.attention import default_attention
from anywidth.groups.duplicate import duplicate

__all__ = ["ForwardEffects", "forward_effects", "is_dropout"]

_SILENT = ("dropout", "droppath", "drop_path", "stochasticdepth", "dropblock")


@dataclass(frozen=True, kw_only=True)
class ForwardEffects:
    """What a forward in training does beside returning outputs.

    Attributes:
        norms: Names of the running mean and variance of batch norms that are not modules of torch: buffers that a
            forward gives to `F.batch_norm`.
        written: Names of the other buffers that it writes, in place or by assignment, without those of batch norms.
        drops: Whether it draws random numbers outside of dropout modules, as `F.dropout` does.
        unreached: Paths of modules with parameters that were not called.
    """

    norms: tuple[tuple[str, str], ...] = ()
    written: tuple[str, ...] = ()
    drops: bool = False
    unreached: tuple[str, ...] = ()


def is_dropout(module: nn.Module) -> bool:
    """Whether a module does nothing but drop values or samples at random while it trains.

    >>> is_dropout(nn.Dropout2d(0.1)), is_dropout(nn.Linear(2, 2))
    (True, False)
    """
    known = isinstance(module, nn.modules.dropout._DropoutNd)
    name = type(module).__name__.lower()
    return known or (any(word in name for word in _SILENT) and not any(True for _ in module.parameters()))


def forward_effects(model: nn.Module, inputs: Inputs) -> ForwardEffects:
    """What a forward in training does beside returning outputs, found by running it on a copy of the model.

    The copy lies on the meta device, where nothing is computed. A forward that cannot run there runs on the example
    inputs.

    >>> class Counter(nn.Module):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.register_buffer("steps", torch.zeros(()))
    ...     def forward(self, x: Tensor) -> Tensor:
    ...         self.steps += 1
    ...         return nn.functional.dropout(x, 0.5, self.training)
    >>> from anywidth.core.inputs import normalise_inputs
    >>> forward_effects(Counter(), normalise_inputs(torch.randn(2, 3)))
    ForwardEffects(norms=(), written=('steps',), drops=True, unreached=())
    """
    inputs = double_batch(inputs)
    for meta in (True, False):
        try:
            with torch.no_grad(), torch.random.fork_rng(), default_attention():
                shadow = _copy(model, meta=meta)
                call = inputs.map(on_meta) if meta else inputs.map(Tensor.clone)
                return _observe(shadow.train(), call)
        except Exception:
            continue
    return ForwardEffects(drops=True)


def _observe(model: nn.Module, inputs: Inputs) -> ForwardEffects:
    places = _places(model)
    before = {key: registry[key[1]] for key, registry in places.items()}
    names = {_storage(tensor): f"{path}.{name}" if path else name for (path, name), tensor in reversed(before.items())}
    watch = _Watch(frozenset(names))
    called: set[nn.Module] = set()
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: called.add(module))
        if is_dropout(module):
            module.register_forward_pre_hook(lambda *_: watch.enter())
            module.register_forward_hook(lambda *_: watch.leave())
    with watch:
        inputs.call(model)
    norms = tuple((names[mean], names[variance]) for mean, variance in watch.norms)
    written = {names[storage] for storage in watch.written}
    written |= {names[_storage(old)] for key, old in before.items() if places[key][key[1]] is not old}
    written -= {name for pair in norms for name in pair}
    unreached = (path for path, module in model.named_modules() if module._parameters and module not in called)
    return ForwardEffects(
        norms=norms,
        written=tuple(name for name in names.values() if name in written),
        drops=watch.drops,
        unreached=tuple(unreached),
    )


def _places(model: nn.Module) -> dict[tuple[str, str], dict[str, Tensor]]:
    """Where every buffer that does not belong to a batch norm of torch is registered, by module path and name."""
    return {
        (path, name): module._buffers  # type: ignore[misc]
        for path, module in model.named_modules()
        if not isinstance(module, _NormBase)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


class _Watch(TorchDispatchMode):
    """Notes which storages operators write to, the running statistics of batch norms, and random numbers."""

    def __init__(self, storages: frozenset[int]) -> None:
        super().__init__()
        self.storages = storages
        self.norms: dict[tuple[int, int], None] = {}
        self.written: set[int] = set()
        self.drops = False
        self._inside = 0

    def enter(self) -> None:
        self._inside += 1

    def leave(self) -> None:
        self._inside -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and not self._inside:
            self.drops = self.drops or _draws(func, args)
        if "batch_norm" in func.__name__ and "backward" not in func.__name__:
            given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
            mean, variance = given.get("running_mean"), given.get("running_var")
            if mean is not None and variance is not None and given.get("training", True):
                pair = (_storage(mean), _storage(variance))
                if self.storages.issuperset(pair):
                    self.norms[pair] = None
        elif func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                    self.written |= self.storages & {_storage(value)}
        return func(*args, **kwargs)


def _draws(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator that may draw random numbers does: attention and recurrent layers need a probability."""
    names = [argument.name for argument in func._schema.arguments]
    for name in ("dropout_p", "dropout", "p"):
        if name in names and "bernoulli" not in func.__name__:
            number = names.index(name)
            value = args[number] if number < len(args) else func._schema.arguments[number].default_value
            return bool(value)
    return True


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _copy(model: nn.Module, *, meta: bool) -> nn.Module:
    make = on_meta if meta else _apart
    return duplicate(model, {id(tensor): make(tensor) for tensor in named_tensors(model).values()})


def _apart(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied
