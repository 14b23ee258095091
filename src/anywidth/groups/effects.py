"""Side effects of a forward in training: the buffers that it writes, and whether it draws random numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from anywidth.core.inputs import Inputs, double_batch
from anywidth.core.modules import named_tensors, on_meta
from anywidth.core.tensors import other_numbers
from anywidth.groups.attention import default_attention
from anywidth.groups.duplicate import duplicate
from anywidth.groups.meta_functions import call_on_meta

__all__ = ["ForwardEffects", "forward_effects", "is_dropout"]

_SILENT = ("dropout", "droppath", "drop_path", "stochasticdepth", "dropblock")


@dataclass(frozen=True, kw_only=True)
class ForwardEffects:
    """Side effects of a forward in training.

    Attributes:
        norms: Names of the running mean and variance of batch norms that are not modules of torch: buffers that a
            forward gives to `F.batch_norm`.
        written: Names of the other buffers that it writes, in place or by assignment, without those of batch norms.
        counters: Those of them whose new value depends on neither inputs nor weights, such as a number of steps.
        numbers: Names of plain attributes like that: numbers that every forward changes, such as a temperature.
        drops: Whether it draws random numbers outside of dropout modules, as `F.dropout` does.
        unreached: Paths of modules with parameters that were not called.
    """

    norms: tuple[tuple[str, str], ...] = ()
    written: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    drops: bool = False
    unreached: tuple[str, ...] = ()


def is_dropout(module: nn.Module) -> bool:
    """Whether a module only drops values or samples at random in training.

    >>> is_dropout(nn.Dropout2d(0.1)), is_dropout(nn.Linear(2, 2))
    (True, False)
    """
    known = isinstance(module, nn.modules.dropout._DropoutNd)
    name = type(module).__name__.lower()
    return known or (any(word in name for word in _SILENT) and not any(True for _ in module.parameters()))


def forward_effects(model: nn.Module, inputs: Inputs) -> ForwardEffects:
    """Side effects of a forward in training, found by running it on a copy of the model.

    The copy is on the meta device, where nothing is computed. A forward that cannot run there runs on the example
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
    ForwardEffects(norms=(), written=('steps',), counters=('steps',), numbers=(), drops=True, unreached=())
    """
    inputs = double_batch(inputs)
    for meta in (True, False):
        try:
            with torch.no_grad(), torch.random.fork_rng(), default_attention():
                shadow = _copy(model, meta=meta)
                call = inputs.map(on_meta) if meta else inputs.map(Tensor.clone)
                shadow.train()
                seen = _observe(shadow, call)
                if not seen.written and not seen.numbers:
                    return seen
                counters, numbers = _counters(model, inputs, seen.written, seen.numbers)
                return replace(seen, counters=counters, numbers=numbers)
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
    numbers = _numbers(model)
    with _Functions(watch), watch:
        inputs.call(model)
    moved = _numbers(model)
    norms = tuple((names[mean], names[variance]) for mean, variance in watch.norms)
    written = {names[storage] for storage in watch.written}
    written |= {names[_storage(old)] for key, old in before.items() if places[key][key[1]] is not old}
    written -= {name for pair in norms for name in pair}
    unreached = (path for path, module in model.named_modules() if module._parameters and module not in called)
    return ForwardEffects(
        norms=norms,
        written=tuple(name for name in names.values() if name in written),
        numbers=tuple(name for name, value in numbers.items() if moved.get(name, value) != value),
        drops=watch.drops,
        unreached=tuple(unreached),
    )


def _counters(
    model: nn.Module, inputs: Inputs, written: tuple[str, ...], changed: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The single numbers that change, and become the same with other inputs and other weights.

    They are buffers in `written` and plain attributes in `changed`, which a second forward has to change as well: a
    size that the first one stores is not a counter.
    """
    before = dict(model.named_buffers(remove_duplicate=False))
    written = tuple(name for name in written if before[name].numel() == 1)
    found: list[dict[str, Tensor]] = []
    moved: list[list[dict[str, float]]] = []
    for seed in (0, 1):
        copied = _copy(model, meta=False)
        copied.train()
        torch.manual_seed(seed)
        for parameter in copied.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
        try:
            inputs.map(other_numbers).call(copied)
            found.append({name: buffer.clone() for name, buffer in copied.named_buffers(remove_duplicate=False)})
            moved.append([_numbers(copied)])
            if changed:
                inputs.map(other_numbers).call(copied)
                moved[-1].append(_numbers(copied))
        except Exception:  # other numbers need not suit
            return (), ()
    first, second = found
    counters = tuple(
        name
        for name in written
        if torch.equal(first[name], second[name]) and not torch.equal(first[name], before[name])
    )
    one, other = moved
    numbers = (name for name in changed if all(name in values for values in (*one, *other)))
    alike = (name for name in numbers if all(a[name] == b[name] for a, b in zip(one, other, strict=True)))
    return counters, tuple(name for name in alike if one[0][name] != one[1][name])


def _numbers(model: nn.Module) -> dict[str, float]:
    """The integers and floating-point numbers in attributes of modules, by path and name."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in module.__dict__.items()
        if type(value) in (int, float)
    }


def _places(model: nn.Module) -> dict[tuple[str, str], dict[str, Tensor]]:
    """The places of all buffers that do not belong to a batch norm of torch, by module path and name."""
    return {
        (path, name): module._buffers  # type: ignore[misc]
        for path, module in model.named_modules()
        if not isinstance(module, _NormBase)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


class _Watch(TorchDispatchMode):
    """Records the storages that operators write to, the running statistics of batch norms, and random draws."""

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

    def batch_norm(self, mean: Any, variance: Any, training: Any) -> None:
        """Record the running statistics of a batch norm that trains."""
        if mean is not None and variance is not None and training:
            pair = (_storage(mean), _storage(variance))
            if self.storages.issuperset(pair):
                self.norms[pair] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and not self._inside:
            self.drops = self.drops or _draws(func, args)
        if "batch_norm" in func.__name__ and "backward" not in func.__name__:
            given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
            self.batch_norm(given.get("running_mean"), given.get("running_var"), given.get("training", True))
        elif func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                    self.written |= self.storages & {_storage(value)}
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """Avoids slow functions on the meta device; batch norms, which write to their statistics, are recorded here."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.instance_norm:
            return func(*args, **(kwargs or {}))
        if func is F.batch_norm:
            names = ("input", "running_mean", "running_var", "weight", "bias", "training")
            given = dict(zip(names, args, strict=False)) | dict(kwargs or {})
            self._watch.batch_norm(given.get("running_mean"), given.get("running_var"), given.get("training", False))
        return call_on_meta(func, args, kwargs)


def _draws(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator that may draw random numbers does so: attention and recurrent layers need a probability."""
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
