"""Cache of module outputs, reused instead of computed again.

A module whose weights match those of an earlier network, and whose inputs are exactly the same, returns the same
output. The networks of a search differ from one another in a single group, so they share everything before the first
layer that differs. This works for any forward, because only calls of modules are skipped. If a convolution only lost
output channels, its output is the first part of the earlier one (`narrowed.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anywidth.search.affected import paths_above
from anywidth.search.narrowed import NarrowedOutputs, sliced

__all__ = ["ActivationCache"]

_PLAIN = (int, float, bool, str, type(None))


class _Call:
    """One call of a module: its inputs and output, and the versions of these tensors at that moment."""

    __slots__ = ("leaves", "output", "spec", "versions")

    def __init__(self, leaves: list[Any], spec: Any, output: Any) -> None:
        self.leaves, self.spec, self.output = leaves, spec, output
        self.versions = _versions(self.tensors())

    def tensors(self) -> list[Tensor]:
        return [t for t in (*self.leaves, *pytree.tree_leaves(self.output)) if isinstance(t, Tensor)]

    def is_intact(self) -> bool:
        """Whether no later operator has written to an input or the output."""
        return _versions(self.tensors()) == self.versions

    def fits(self, leaves: list[Any], spec: Any) -> bool:
        """Whether other arguments contain the same values."""
        return spec == self.spec and all(map(_same, leaves, self.leaves))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return isinstance(a, _PLAIN) and type(a) is type(b) and a == b


class ActivationCache:
    """Outputs of the modules of one network, the base, for the batches of a search.

    Args:
        memory: Largest number of bytes of tensors to keep for one base; during its replacement, two bases may be kept.
            Calls of inner modules are dropped first, because outer modules save more work.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.reused = 0
        self._calls: dict[tuple[int, str], _Call] = {}
        self._new: dict[tuple[int, str], _Call] = {}
        self._storages: Counter[int] = Counter()
        self._bytes = 0
        self._repeated: set[tuple[int, str]] = set()
        self._barred: set[str] = set()
        self._modules: dict[str, nn.Module] = {}
        self._new_modules: dict[str, nn.Module] = {}
        self._narrowed = NarrowedOutputs()

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def bytes(self) -> int:
        """Bytes of the cached tensors."""
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for c in self._calls.values()
                    for t in c.tensors()}.values())  # fmt: skip

    def clear(self) -> None:
        """Drop all cached tensors."""
        self._calls, self._new, self._modules, self._new_modules = {}, {}, {}, {}

    def start_base(self) -> None:
        """Start a new base: `running(..., record=True)` records its calls from now on."""
        self._new, self._storages, self._bytes = {}, Counter(), 0

    def finish_base(self) -> None:
        """Make the recorded calls the current base."""
        self._calls, self._new = self._new, {}
        self._modules = self._new_modules

    @contextmanager
    def running(self, network: nn.Module, batch: int, changed: Set[str], *, record: bool) -> Iterator[None]:
        """Context manager in which modules of `network` (a dense copy, by the supernet's paths) reuse cached outputs.

        Args:
            network: What is going to run, without gradients and not in inference mode.
            batch: Number of the batch that it is going to run on.
            changed: Paths of modules that differ from the base.
            record: Whether to record the calls for the next base.
        """
        if not self.memory:
            yield
            return
        modules = [(path, module) for path, module in network.named_modules() if path]
        if record:
            # Only convolutions, because only their weights are compared.
            self._new_modules = {path: module for path, module in modules if type(module) is nn.Conv2d}
        kept = [(module, module.__dict__.get("forward")) for _, module in modules]
        seen: set[tuple[int, str]] = set()
        try:
            for path, module in modules:
                module.forward = self._wrap(module, (batch, path), path not in changed, record, seen)
            yield
            repeated = {path for number, path in self._repeated if number == batch} - self._barred
            if any(isinstance(module, _NormBase) for path, module in modules if path in repeated):
                self._bar(network, repeated)
            if record:
                for key in [key for key, call in self._new.items() if key[0] == batch and not call.is_intact()]:
                    self._drop(key)
        finally:
            for module, forward in kept:
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.forward = forward

    def _wrap(
        self,
        module: nn.Module,
        key: tuple[int, str],
        unchanged: bool,
        record: bool,
        seen: set[tuple[int, str]],
    ) -> Callable[..., Any]:
        forward = module.forward

        def call(*args: Any, **kwargs: Any) -> Any:
            if key in self._repeated or key[1] in self._barred:
                return forward(*args, **kwargs)
            if key in seen:  # several calls of one module cannot be distinguished
                self._repeated.add(key)
                self._drop(key)
                self._calls.pop(key, None)
                return forward(*args, **kwargs)
            seen.add(key)
            leaves, spec = pytree.tree_flatten((args, kwargs))
            known = self._calls.get(key)
            if known is not None and not known.fits(leaves, spec):
                known = None
            if known is not None and unchanged:
                self.reused += 1
                if record:
                    self._keep_inner(key)
                    self._keep(key, known)
                return known.output
            before = _versions(leaves)
            output = forward(*args, **kwargs) if known is None else self._cut(module, key, forward, args, kwargs, known)
            # A module that writes to its inputs has side effects, so its output cannot be reused.
            if record and key not in self._repeated and before == _versions(leaves):
                results = pytree.tree_leaves(output)
                if results and all(isinstance(t, Tensor) for t in results) and all(map(_is_known, leaves)):
                    self._keep(key, _Call(leaves, spec, output))
            return output

        return call

    def _cut(
        self,
        module: nn.Module,
        key: tuple[int, str],
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: _Call,
    ) -> Any:
        """Output of a narrowed module for the inputs of the base: part of the base's output, if known to be exact."""
        cut = None if kwargs or len(args) != 1 else sliced(module, self._modules.get(key[1]), known.output)
        if cut is None:
            return forward(*args, **kwargs)
        assert isinstance(module, nn.Conv2d)
        if self._narrowed.verdict(module, args[0]):
            self.reused += 1
            return cut
        output = forward(*args, **kwargs)
        self._narrowed.learn(module, args[0], output, cut)
        return output

    def _bar(self, network: nn.Module, repeated: Set[str]) -> None:
        """Bar reuse of modules around a norm that is called twice, because its moments need all calls."""
        norms = {m for path, m in network.named_modules() if path in repeated and isinstance(m, _NormBase)}
        for path, module in network.named_modules(remove_duplicate=False):
            if module in norms:
                self._barred.update(paths_above(f"{path}."))
        for calls in (self._calls, self._new):
            for key in [key for key in calls if key[1] in self._barred]:
                self._drop(key)
                self._calls.pop(key, None)

    def _keep_inner(self, key: tuple[int, str]) -> None:
        """Keep the base's calls inside a reused module, which do not run."""
        prefix = f"{key[1]}."
        for other, call in list(self._calls.items()):
            if other[0] == key[0] and other[1].startswith(prefix):
                self._keep(other, call)

    def _keep(self, key: tuple[int, str], call: _Call) -> None:
        self._new[key] = call
        for tensor in call.tensors():
            storage = tensor.untyped_storage()
            self._bytes += 0 if self._storages[storage.data_ptr()] else storage.nbytes()
            self._storages[storage.data_ptr()] += 1
        while self._bytes > self.memory and self._new:
            self._drop(max(self._new, key=lambda k: k[1].count(".")))

    def _drop(self, key: tuple[int, str]) -> None:
        call = self._new.pop(key, None)
        for tensor in call.tensors() if call else ():
            storage = tensor.untyped_storage()
            self._storages[storage.data_ptr()] -= 1
            if not self._storages[storage.data_ptr()]:
                self._bytes -= storage.nbytes()


def _versions(leaves: list[Any] | list[Tensor]) -> list[int]:
    """Version counter of each tensor, which increases with every write."""
    return [leaf._version for leaf in leaves if isinstance(leaf, Tensor)]


def _is_known(leaf: Any) -> bool:
    return isinstance(leaf, (Tensor, *_PLAIN))
