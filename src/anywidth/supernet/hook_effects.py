"""Forward hooks of the user that change numbers, found when subnets run them."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import nn

from anywidth.supernet.global_hooks import GLOBAL_TABLES, global_hooks, watch_global_hooks
from anywidth.supernet.hook import SubnetHook
from anywidth.supernet.observed_hook import observe

__all__ = ["HookEffects", "HookKey", "forward_hooks"]

HookKey = tuple[str, str, int]
"""A hook: the path of its module (empty for a hook of all modules), the table of hooks, and its number there."""

_TABLES = ("_forward_pre_hooks", "_forward_hooks")


def forward_hooks(model: nn.Module) -> frozenset[HookKey]:
    """All forward hooks and forward pre-hooks of the user in a module tree, and those of all modules.

    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> handle = model[0].register_forward_hook(lambda module, args, output: output.relu())
    >>> [(path, table) for path, table, _ in forward_hooks(model)]
    [('0', '_forward_hooks')]
    """
    return frozenset(
        (path, table, number)
        for path, module in model.named_modules()
        for table in _TABLES
        for number, hook in getattr(module, table).items()
        if _of_user(hook)
    ) | {("", table, number) for table, number in global_hooks()}


class HookEffects:
    """Which hooks of a model change what layers receive.

    Most hooks only look, and nobody can tell without calling them. So hooks are watched when a subnet runs them: one
    that returns another value, or that writes to a tensor, changes numbers.

    Args:
        model: The model, whose present hooks the proof of its channel groups covers.

    Attributes:
        changing: The hooks that are known to change numbers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.changing: set[HookKey] = set()
        self.accept()

    def accept(self) -> None:
        """Accept the present hooks as proved."""
        self._proved = forward_hooks(self.model)
        self._global = global_hooks()
        self._covered = True

    @property
    def settled(self) -> bool:
        """Whether the proof covers all of them, and the hooks of all modules are the same as before."""
        return self._covered and global_hooks() == self._global

    def unproved(self) -> str | None:
        """Text of a hook that changes numbers and that the proof does not cover, or None."""
        found = sorted((forward_hooks(self.model) & self.changing) - self._proved)
        self._covered, self._global = not found, global_hooks()
        if not found:
            return None
        path, table, _ = found[0]
        kind = "forward pre-hook" if "pre" in table else "forward hook"
        where = "all modules" if table in GLOBAL_TABLES else repr(path) if path else "the model itself"
        return f"a new {kind} of {where} changes what layers receive"

    def watch(self, network: nn.Module, found: Callable[[], object]) -> None:
        """Call `found` as soon as a hook in a copy of the model changes numbers for the first time.

        This includes hooks of all modules, whose path is empty.
        """

        def note(key: HookKey) -> None:
            self.add(key)
            found()

        for path, module in network.named_modules():
            for table in _TABLES:
                hooks = getattr(module, table)
                for number, hook in hooks.items():
                    if _of_user(hook):
                        hooks[number] = _Watched(hook, (path, table, number), self.changing, note)
        watch_global_hooks(
            network,
            known=lambda table, number: ("", table, number) in self.changing,
            found=lambda table, number: note(("", table, number)),
        )

    def add(self, key: HookKey) -> None:
        """Take note of a hook that changes numbers."""
        self.changing.add(key)
        self._covered = self._covered and key in self._proved


class _Watched:
    """A hook whose first effect is noted; a copy of it is the hook alone."""

    def __init__(
        self, hook: Callable[..., Any], key: HookKey, changing: Set[HookKey], note: Callable[[HookKey], object]
    ) -> None:
        self.hook, self._key, self._changing, self._note = hook, key, changing, note

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        if torch.compiler.is_compiling() or self._key in self._changing:
            return self.hook(module, *given)
        return observe(self.hook, module, given, "pre" in self._key[1], lambda: self._note(self._key))

    def __reduce__(self) -> tuple[Any, ...]:
        return _alone, (self.hook,)


def _alone(hook: Callable[..., Any]) -> Callable[..., Any]:
    return hook


def _of_user(hook: Any) -> bool:
    """Whether a hook belongs to the user: hooks of torch compute weights, such as those of weight norm."""
    return not isinstance(hook, (SubnetHook, _Watched)) and not (type(hook).__module__ or "").startswith("torch.")
