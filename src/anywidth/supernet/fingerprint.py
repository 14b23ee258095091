"""The state of a model at one moment, to detect later changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

from anywidth.supernet.contents import MISSING, Contents
from anywidth.supernet.shared_state import Settings, SharedState

__all__ = ["Change", "Fingerprint", "Written"]

Written = Mapping[str, Collection[str]]
"""Per module path: the attributes that a forward writes."""

_OWN = frozenset({"training", "_modules", "_parameters", "_buffers"})
_DERIVED = frozenset(
    {
        "_compiled_call_impl", "_flat_weights", "_flat_weight_refs", "_is_torch_compile", "_compile_kwargs",
        "_is_full_backward_hook",
    }
)  # fmt: skip
"""Attributes that torch derives from others, or that torch and Lightning's patch of `torch.compile` set on a model."""
_requires_grad = attrgetter("requires_grad")


@dataclass(frozen=True, kw_only=True)
class Change:
    """How a model differs from its earlier state.

    Attributes:
        structure: Text of the difference in classes, names and shapes; None if there is none.
        attributes: Plain attributes with a different value, as (module path, name).
        tensors: Whether tensors were replaced or moved, or whether their `requires_grad` changed.
    """

    structure: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    tensors: bool = False


@dataclass
class _Part:
    kind: type
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    children: tuple[str, ...]
    attributes: dict[str, Any]


class Fingerprint:
    """Everything in a model that its subnets depend on, except the values of weights.

    Args:
        model: The model.
        written: Attributes that a forward writes, which are left out.
        moving: Names of buffers that a forward writes, which are left out as well.
        settings: Global and environment variables that the code of the model reads.
    """

    def __init__(
        self, model: nn.Module, written: Written, moving: Collection[str] = (), settings: Settings = ()
    ) -> None:
        self.model = model
        buffers = dict(model.named_buffers(remove_duplicate=False))
        self._moving = frozenset(id(buffers[name]) for name in moving if name in buffers)
        self._filtered: list[tuple[dict[str, Any], Collection[str], list[Any]]] = []
        self._seen: set[int] = set()
        self.parts: dict[str, _Part] = {}
        self._modules = list(model.modules())
        self._kinds = list(map(type, self._modules))
        self._contents = Contents(self._modules)
        self._shared = SharedState(settings, self._contents)
        owners: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self.parts[path] = self._part(path, module, frozenset(written.get(path, ())), owners)
        if "" in self.parts:
            self.parts[""].attributes |= self._shared.of_globals(written.get("", ()))
        self._shared.settle()
        self._contents.settle()
        self._sized, self._views = self._contents.sized, self._contents.views
        self._sizes = list(map(len, self._sized))
        self._values = list(chain.from_iterable(self._views))
        registers = (r for module in self._modules for r in (module._parameters, module._buffers))
        tensors = (
            tensor
            for register in registers
            for tensor in register.values()
            if tensor is not None and id(tensor) not in self._moving
        )
        self.tensors = list({id(tensor): tensor for tensor in tensors}.values())
        self._places = list(map(Tensor.data_ptr, self.tensors))
        self._trained = list(map(_requires_grad, self.tensors))
        self.modes = self._find_modes()

    def is_current(self) -> bool:
        """Whether nothing has changed, apart from train/eval flags, whose present values are then in `modes`."""
        # Every comparison here runs in C, because it runs at every step.
        try:
            if list(map(len, self._sized)) != self._sizes or list(map(type, self._modules)) != self._kinds:
                return False
            if not all(map(is_, chain.from_iterable(self._views), self._values)):
                # Not by identity of the objects: mostly the flags differ.
                modes = self._find_modes()
                if modes == self.modes:
                    return False
                self.modes = modes
                for number, position in self._flags:
                    self._values[position] = modes[number]
                if not all(map(is_, chain.from_iterable(self._views), self._values)):
                    return False
            for owner, left_out, values in self._filtered:
                found = [value for name, value in owner.items() if name not in left_out]
                if len(found) != len(values) or not all(map(is_, found, values)):
                    return False
            if self._filtered:
                self.modes = self._find_modes()
            return (
                list(map(Tensor.data_ptr, self.tensors)) == self._places
                and list(map(_requires_grad, self.tensors)) == self._trained
                and self._contents.is_current()
                and self._shared.is_current()
            )
        except RuntimeError:  # a container changed during the iteration
            return False

    def change_from(self, before: Fingerprint) -> Change:
        """How this model differs from its earlier state."""
        tensors = (
            len(self.tensors) != len(before.tensors)
            or not all(map(is_, self.tensors, before.tensors))
            or (self._places, self._trained) != (before._places, before._trained)
            or self._contents.state != before._contents.state
        )
        attributes = tuple(self.changed_attributes(before))
        return Change(structure=self._structure(before), attributes=attributes, tensors=tensors)

    def changed_attributes(self, before: Fingerprint) -> list[tuple[str, str]]:
        """Plain attributes whose value has changed, in modules that already existed."""
        found = []
        for path, part in self.parts.items():
            if path in before.parts and part.kind is before.parts[path].kind:
                ours, theirs = part.attributes, before.parts[path].attributes
                names = dict.fromkeys([*ours, *theirs])
                found += [(path, name) for name in names if ours.get(name, MISSING) != theirs.get(name, MISSING)]
        return found

    def _structure(self, before: Fingerprint) -> str | None:
        for path in dict.fromkeys([*before.parts, *self.parts]):
            was, now = before.parts.get(path), self.parts.get(path)
            where = repr(path) if path else "the model itself"
            if now is None or was is None:
                return f"{where} is {'new' if was is None else 'gone'}"
            if now.kind is not was.kind:
                return f"{where} was a {was.kind.__name__} and is a {now.kind.__name__}"
            for name in dict.fromkeys([*was.tensors, *now.tensors]):
                if name not in now.tensors or name not in was.tensors:
                    return f"{name} of {where} is {'new' if name in now.tensors else 'gone'}"
                (owner, shape), (new_owner, new_shape) = was.tensors[name], now.tensors[name]
                if shape != new_shape:
                    return f"{name} of {where} had shape {shape} and has {new_shape}"
                if owner != new_owner:
                    return f"{name} of {where} was {owner!r} and is {new_owner!r}"
            if now.children != was.children:
                return f"the modules inside {where} are in a different order"
        return None

    def _part(self, path: str, module: nn.Module, left_out: frozenset[str], owners: dict[int, str]) -> _Part:
        state = module.__dict__
        first = id(module) not in self._seen
        self._seen.add(id(module))
        shared = self._shared.of_class(type(module), left_out)
        left_out = (left_out | _DERIVED) & state.keys()
        if first:
            if left_out:
                excluded = left_out | {"training"}
                self._filtered.append((state, excluded, [v for k, v in state.items() if k not in excluded]))
            else:
                self._contents.watch(state)
            for name in ("_modules", "_parameters"):
                self._contents.watch(state[name])
            moving = frozenset(name for name, buffer in module._buffers.items() if id(buffer) in self._moving)
            if moving:
                kept = [buffer for name, buffer in module._buffers.items() if name not in moving]
                self._filtered.append((state["_buffers"], moving, kept))
            else:
                self._contents.watch(state["_buffers"])
        tensors = {}
        for name, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                owner = owners.setdefault(id(tensor), f"{path}.{name}" if path else name)
                if name not in left_out:
                    tensors[name] = (owner, tuple(tensor.shape))
        attributes = shared | {
            name: self._contents.freeze_hooks(value) if name.endswith("_hooks") else self._contents.freeze(value)
            for name, value in state.items()
            if name not in _OWN and name not in left_out
        }
        children = tuple(name for name, child in module._modules.items() if child is not None)
        return _Part(type(module), tensors, children, attributes)

    def _find_modes(self) -> tuple[bool, ...]:
        return tuple([module.training for module in self._modules])

    @cached_property
    def _flags(self) -> list[tuple[int, int]]:
        """The positions of the train/eval flags among the values, found when a flag changes."""
        starts: dict[int, int] = {}
        start = 0
        for container, view in zip(self._sized, self._views, strict=True):
            starts[id(container)] = start
            start += len(view)
        return [
            (number, starts[id(state)] + list(state).index("training"))
            for number, module in enumerate(self._modules)
            if id(state := module.__dict__) in starts
        ]
