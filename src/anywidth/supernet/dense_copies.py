"""Dense copies of the parts of tensors that are not leading blocks; they follow the weights of the supernet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Kept
from anywidth.groups.narrow import Place, take

__all__ = ["DenseCopies", "SubnetHook", "on_device", "synced"]

_copies: WeakKeyDictionary[nn.Module, DenseCopies] = WeakKeyDictionary()


def on_device(kept: Sequence[Kept], device: torch.device) -> tuple[Place, ...]:
    """The same positions with indices on a device, once and not at every use."""
    return tuple(k if k is None or isinstance(k, int) else torch.from_numpy(k).to(device) for k in kept)


class DenseCopies:
    """The copies of one subnet.

    They are made again before every forward, and whenever one is read outside of a forward, so that nobody sees old
    weights, whatever wrote to the supernet's: writes through `.data` do not count in version counters.
    """

    def __init__(self) -> None:
        self._copies: list[_Copy] = []
        self._by_tensor: dict[int, _Copy] = {}
        self._held = 0
        self._calls = threading.local()
        self.lock = threading.RLock()

    def of(self, parent: Tensor, kept: Sequence[Kept]) -> Tensor:
        """A dense copy of a part, which is kept up to date."""
        copy = take(parent.detach(), kept).contiguous(memory_format=_layout(parent))
        self._copies.append(_Copy(copy, parent, on_device(kept, parent.device)))
        return copy

    def stand_for(self, tensor: Tensor) -> None:
        """Note what the subnet has in place of the last copy: a parameter in the same memory, or the copy itself."""
        self._by_tensor[id(tensor)] = self._copies[-1]

    def belong_to(self, subnet: nn.Module) -> None:
        """Refresh at every call of a subnet, also of a compiled one, and at every look at what it holds."""
        if not self._copies:
            return
        _copies[subnet] = self
        for module in subnet.modules():
            for name in ("_parameters", "_buffers"):
                if any(id(tensor) in self._by_tensor for tensor in module.__dict__[name].values()):
                    module.__dict__[name] = _Register(module.__dict__[name], self)
        subnet.register_forward_pre_hook(SubnetHook(self._before_forward))
        subnet.register_forward_hook(SubnetHook(self._after_forward), always_call=True)

    def refresh(self) -> None:
        """Copy again what an optimizer, a load or the full network's forward has changed."""
        for copy in self._copies:
            copy.refresh()

    def look(self, tensor: Any) -> Any:
        """The same tensor, up to date."""
        if torch.compiler.is_compiling() or self._held:
            return tensor
        copy = self._by_tensor.get(id(tensor))
        if copy is not None:
            copy.refresh()
        return tensor

    @property
    def is_held(self) -> bool:
        """Whether the copies stay as they are for now."""
        return self._held > 0

    def hold(self, number: int) -> None:
        """Keep the copies (1), or no longer (-1)."""
        with self.lock:
            self._held += number

    def _before_forward(self, _: nn.Module) -> None:
        if torch.compiler.is_exporting():
            return
        if torch.compiler.is_dynamo_compiling():
            if not self._held:  # a step holds them; a call of disabled code would break the graph in pieces
                _refresh_outside(self)
            return
        with self.lock:
            if not self._held:
                self.refresh()
            self._held += 1
        self._calls.number = getattr(self._calls, "number", 0) + 1

    def _after_forward(self, _: nn.Module) -> None:
        captured = torch.compiler.is_exporting() or torch.compiler.is_dynamo_compiling()
        # A hook of the user may have raised before the copies were held.
        if not captured and getattr(self._calls, "number", 0):
            self._calls.number -= 1
            self.hold(-1)


class SubnetHook:
    """A hook of a subnet, called with the subnet; copies of the subnet do without it."""

    def __init__(self, function: Callable[[nn.Module], None]) -> None:
        self.function = function

    def __call__(self, subnet: nn.Module, *_: Any) -> None:
        """Run it."""
        self.function(subnet)

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_hook, ()


def _nothing(*_: Any) -> None:
    """What a copied subnet calls in place of a hook of the original."""


def _no_hook() -> Callable[..., None]:
    return _nothing


class _Register(dict[str, Any]):
    """Parameters or buffers of a module, some of which are copies; a copy of the module has an ordinary dict."""

    def __init__(self, content: dict[str, Any], copies: DenseCopies) -> None:
        super().__init__(content)
        self._copies = copies

    def __getitem__(self, name: str) -> Any:
        return self._copies.look(super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return self._copies.look(super().get(name, default))

    def values(self) -> Any:
        self._look_at_all()
        return super().values()

    def items(self) -> Any:
        self._look_at_all()
        return super().items()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (list(self.items()),)

    def _look_at_all(self) -> None:
        for tensor in super().values():
            self._copies.look(tensor)


# As torch.compiler.disable, which would import the compiler with this package.
@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
def _refresh_outside(copies: DenseCopies) -> None:
    """Not within compiled code, which would keep the values that it was compiled with."""
    copies.refresh()


@contextmanager
def synced(subnet: nn.Module) -> Iterator[None]:
    """Context manager that refreshes the copies of a subnet at its start and keeps them until its end."""
    copies = _copies.get(subnet)
    if copies is None:
        yield
        return
    with copies.lock:
        if not copies.is_held:
            copies.refresh()
        copies.hold(1)
    try:
        yield
    finally:
        copies.hold(-1)


def _layout(tensor: Tensor) -> torch.memory_format:
    """That of a tensor, which convolutions go by."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    apart = last is not None and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=last)
    return last if last is not None and apart else torch.contiguous_format


class _Copy:
    def __init__(self, copy: Tensor, parent: Tensor, kept: Sequence[Place]) -> None:
        self.copy, self.parent, self.kept = copy, parent, kept
        self._version = parent._version

    def refresh(self) -> None:
        # What a CUDA graph records is done again whenever it is replayed, whatever the weights are then.
        recording = self.parent.is_cuda and torch.cuda.is_current_stream_capturing()
        version = self.parent._version
        with torch.no_grad():
            # Without a change that autograd knows of, a backward pass in between must not be told of one.
            target = self.copy if recording or version != self._version else self.copy.data
            target.copy_(take(self.parent, self.kept))
        self._version = version
