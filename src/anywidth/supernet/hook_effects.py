"""Forward hooks of the user that change numbers, found when subnets run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.supernet.hook import SubnetHook

__all__ = ["HookEffects", "HookKey", "forward_hooks"]

HookKey = tuple[str, str, int]
"""A hook: the path of its module, the table of hooks, and its number there."""

_TABLES = ("_forward_pre_hooks", "_forward_hooks")


def forward_hooks(model: nn.Module) -> frozenset[HookKey]:
    """All forward hooks and forward pre-hooks of the user in a module tree.

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
    )


class HookEffects:
    """Which hooks of a model change what layers receive.

    Most hooks only look, and nobody can tell without calling them. So hooks are watched when a subnet runs them: one
    that returns another value, or that writes to a tensor, changes numbers.

    Args:
        model: The model, whose present hooks the proof of its channel groups covers.

    Attributes:
        changing: The hooks that are known to change numbers.
        settled: Whether the proof covers all of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.changing: set[HookKey] = set()
        self.accept()

    def accept(self) -> None:
        """Accept the present hooks as proved."""
        self._proved = forward_hooks(self.model)
        self.settled = True

    def unproved(self) -> str | None:
        """Text of a hook that changes numbers and that the proof does not cover, or None."""
        found = sorted((forward_hooks(self.model) & self.changing) - self._proved)
        self.settled = not found
        if not found:
            return None
        path, table, _ = found[0]
        kind = "forward hook" if table == "_forward_hooks" else "forward pre-hook"
        return f"a new {kind} of {repr(path) if path else 'the model itself'} changes what layers receive"

    def watch(self, network: nn.Module, found: Callable[[], object]) -> None:
        """Call `found` as soon as a hook in a copy of the model changes numbers for the first time."""
        for path, module in network.named_modules():
            for table in _TABLES:
                hooks = getattr(module, table)
                for number, hook in hooks.items():
                    if _of_user(hook):
                        hooks[number] = _Watched(hook, (path, table, number), self, found)

    def add(self, key: HookKey) -> None:
        """Take note of a hook that changes numbers."""
        self.changing.add(key)
        self.settled = self.settled and key in self._proved


class _Watched:
    """A hook whose first effect is noted; a copy of it is the hook alone."""

    def __init__(self, hook: Callable[..., Any], key: HookKey, effects: HookEffects, found: Callable[[], Any]) -> None:
        self.hook, self._key, self._effects, self._found = hook, key, effects, found

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        if torch.compiler.is_compiling() or self._key in self._effects.changing:
            return self.hook(module, *given)
        # A pre-hook gets arguments alone, any other hook gets the output last.
        passed = pytree.tree_leaves(given if self._key[1] == "_forward_pre_hooks" else given[-1])
        before = _state(given)
        result = self.hook(module, *given)
        returned = passed if result is None else pytree.tree_leaves(result)
        same = len(returned) == len(passed) and all(a is b for a, b in zip(returned, passed, strict=True))
        if not same or _state(given) != before:
            self._effects.add(self._key)
            self._found()
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return _alone, (self.hook,)


def _alone(hook: Callable[..., Any]) -> Callable[..., Any]:
    return hook


def _state(given: Any) -> list[Any]:
    """Values that change when a tensor is written; inference tensors do not count writes, so their sums have to do."""
    return [
        str(leaf.sum().item()) if leaf.is_inference() else leaf._version
        for leaf in pytree.tree_leaves(given)
        if isinstance(leaf, Tensor)
    ]


def _of_user(hook: Any) -> bool:
    """Whether a hook belongs to the user: hooks of torch compute weights, such as those of weight norm."""
    return not isinstance(hook, (SubnetHook, _Watched)) and not (type(hook).__module__ or "").startswith("torch.")
