"""Restore global state and the user's model after an analysis."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from anywidth.core.generators import generators_kept, seed_generators
from anywidth.groups.code_globals import CodeGlobals

__all__ = ["untouched"]

_PLAIN = (dict, list, set, deque)
_DEPTH = 6


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Context manager that restores everything that a forward of a copy of the model may change.

    In it, random numbers start from the same seed, so that results do not depend on them. It restores the random states
    (Python's, NumPy's, torch's), the grad mode and the default dtype, attributes of the modules' classes, attributes of
    the modules (which code may reach by a global variable), and the global variables and caches that the code of the
    modules uses, so that they do not keep tensors of another precision.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    modules = list(model.modules())
    own = [(module, dict(module.__dict__)) for module in modules]
    kinds = {kind for module in modules for kind in type(module).__mro__ if not kind.__module__.startswith("torch.")}
    kinds -= {object}
    shared = [(kind, {name: v for name, v in vars(kind).items() if _is_data(name, v)}) for kind in kinds]
    contents: dict[int, tuple[Any, Any]] = {}
    code_globals = CodeGlobals(model)
    for container in code_globals.containers:
        _note(container, contents, 0)
    for values in [state for _, state in own] + [state for _, state in shared]:
        for value in values.values():
            _note(value, contents, 0)
    try:
        with generators_kept():
            seed_generators(0)
            yield
    finally:
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        for module, state in own:
            module.__dict__.clear()
            module.__dict__.update(state)
        for kind, state in shared:
            now = {name: value for name, value in vars(kind).items() if _is_data(name, value)}
            for name in now.keys() - state.keys():
                delattr(kind, name)
            for name, value in state.items():
                if now.get(name) is not value:
                    setattr(kind, name, value)
        code_globals.restore()
        for container, content in contents.values():
            _restore(container, content)


def _is_data(name: str, value: Any) -> bool:
    return not (name.startswith("__") or callable(value) or hasattr(value, "__get__"))


def _note(value: Any, contents: dict[int, tuple[Any, Any]], depth: int) -> None:
    if not isinstance(value, _PLAIN) or id(value) in contents or depth == _DEPTH:
        return
    contents[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
    for item in value.values() if isinstance(value, dict) else value:
        _note(item, contents, depth + 1)


def _restore(container: Any, content: Any) -> None:
    if isinstance(container, set):
        if container != set(content):
            container.clear()
            container.update(content)
        return
    now = list(container.items()) if isinstance(container, dict) else list(container)
    before = list(content.items()) if isinstance(container, dict) else content
    if len(now) == len(before) and all(_same(a, b) for a, b in zip(now, before, strict=True)):
        return
    container.clear()
    container.update(content) if isinstance(container, dict) else container.extend(content)


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and all(map(_is, a, b)))


def _is(a: Any, b: Any) -> bool:
    return a is b
