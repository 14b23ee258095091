"""Forward hooks of all modules that change numbers, such as those of `register_module_forward_hook`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.modules import module as module_file

from anywidth.supernet.hook import SubnetHook
from anywidth.supernet.observed_hook import observe

__all__ = ["GLOBAL_TABLES", "global_hooks", "watch_global_hooks"]

GLOBAL_TABLES: dict[str, dict[int, Callable[..., Any]]] = {
    "_global_forward_pre_hooks": module_file._global_forward_pre_hooks,
    "_global_forward_hooks": module_file._global_forward_hooks,
}
"""Torch's tables of hooks of all modules, by name."""

_observers: WeakKeyDictionary[nn.Module, ReferenceType[_Observer]] = WeakKeyDictionary()
"""Observers by module; a network owns its observer by a hook."""


def global_hooks() -> tuple[tuple[str, int], ...]:
    """Table and number of every forward hook and forward pre-hook of all modules.

    >>> handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    >>> [table for table, _ in global_hooks()]
    ['_global_forward_hooks']
    >>> handle.remove()
    >>> global_hooks()
    ()
    """
    return tuple([(table, number) for table, hooks in GLOBAL_TABLES.items() for number in hooks])


def watch_global_hooks(
    network: nn.Module, *, known: Callable[[str, int], bool], found: Callable[[str, int], object]
) -> None:
    """Watch hooks of all modules in a network from now on, also those that are registered later.

    Args:
        network: The network.
        known: Whether the hook of a table and number is known to change numbers.
        found: Called with the table and number of any other hook that does.
    """
    observer = _Observer(known, found)
    for module in network.modules():
        _observers[module] = ref(observer)
    network.register_forward_pre_hook(_BeforeForward(observer))
    _watch_new()


class _Observer:
    """Hears about the hooks of all modules in one network."""

    def __init__(self, known: Callable[[str, int], bool], found: Callable[[str, int], object]) -> None:
        self.known, self.found = known, found


class _BeforeForward(SubnetHook):
    """Watches the hooks that were registered since the last forward."""

    def __init__(self, observer: _Observer) -> None:
        self._observer = observer

    def __call__(self, subnet: nn.Module, *given: Any) -> None:
        if torch.compiler.is_compiling() or not any(GLOBAL_TABLES.values()):
            return
        for hook in _watch_new():
            if hook.pre:  # it has already run for the network itself, so it is tried on a copy
                hook(subnet, *pytree.tree_map_only(Tensor, torch.clone, given))


class _Watched:
    """A hook of all modules, whose first effect in a watched network is noted."""

    def __init__(self, hook: Callable[..., Any], table: str, number: int) -> None:
        self.hook, self.pre = hook, "pre" in table
        self._key = table, number

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.hook(module, *given)
        reference = _observers.get(module)
        observer = None if reference is None else reference()
        if observer is None or observer.known(*self._key):
            return self.hook(module, *given)
        return observe(self.hook, module, given, self.pre, lambda: observer.found(*self._key))


def _watch_new() -> list[_Watched]:
    """Watch all hooks that are not watched yet; returns them."""
    new = []
    for table, hooks in GLOBAL_TABLES.items():
        for number, hook in list(hooks.items()):
            if not isinstance(hook, _Watched):
                hooks[number] = _Watched(hook, table, number)
                new.append(hooks[number])
    return new
