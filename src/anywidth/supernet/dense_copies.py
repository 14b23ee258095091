"""Dense copies of parts of tensors that are not leading blocks, kept up to date with the supernet's weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.core.errors import ModelChangedError
from anywidth.groups.analysis import KeptIndices
from anywidth.groups.narrow import TensorIndices, put_, take
from anywidth.supernet.hook import SubnetHook
from anywidth.supernet.record import record_of

__all__ = ["DenseCopies", "held", "layout_of", "on_device", "synced"]


def on_device(kept: Sequence[KeptIndices], device: torch.device) -> tuple[TensorIndices, ...]:
    """The same positions with indices on a device, so that they are moved only once."""
    return tuple(k if k is None or isinstance(k, int) else torch.from_numpy(k).to(device) for k in kept)


class DenseCopies:
    """The copies of one subnet.

    They are refreshed before every forward, and whenever one is read outside of a forward. So they are never outdated,
    even if weights were written through `.data`, which does not change version counters.
    """

    def __init__(self) -> None:
        self._copies: list[_Copy] = []
        self._by_tensor: dict[int, _Copy] = {}
        self._held = 0
        self._calls = threading.local()
        self.lock = threading.RLock()

    def of(self, parent: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
        """A dense copy of a part that is kept up to date."""
        copy = take(parent.detach(), kept).contiguous(memory_format=layout_of(parent))
        self._copies.append(_Copy(copy, parent, on_device(kept, parent.device)))
        return copy

    def stand_for(self, tensor: Tensor) -> None:
        """Record what the subnet has in place of the last copy: a parameter in the same memory, or the copy itself."""
        self._by_tensor[id(tensor)] = self._copies[-1]

    def belong_to(self, subnet: nn.Module) -> None:
        """Refresh at every call of a subnet, even a compiled one, and at every access to its tensors."""
        for module in subnet.modules():
            for name in ("_parameters", "_buffers"):
                if any(id(tensor) in self._by_tensor for tensor in module.__dict__[name].values()):
                    module.__dict__[name] = _Register(module.__dict__[name], self)
        subnet.register_forward_pre_hook(SubnetHook(self._before_forward))
        subnet.register_forward_hook(SubnetHook(self._after_forward), always_call=True)
        subnet.register_load_state_dict_post_hook(SubnetHook(lambda _: self.write_back()))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._copies)

    def refresh(self) -> None:
        """Update parts that an optimizer, a load or the full network's forward has changed."""
        for copy in self._copies:
            copy.refresh()

    def write_back(self) -> None:
        """Write to the supernet what the user wrote to the copies."""
        for copy in self._copies:
            copy.write_back()

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
        """Whether the copies are currently held, without refreshes."""
        return self._held > 0

    def hold(self, number: int) -> None:
        """Hold the copies (1), or release them (-1)."""
        with self.lock:
            self._held += number

    def _before_forward(self, _: nn.Module) -> None:
        if torch.compiler.is_exporting():
            return
        if torch.compiler.is_dynamo_compiling():
            if not self._held:  # a step holds the copies; a call of disabled code would break the graph
                _refresh_outside(self)
            return
        with self.lock:
            if not self._held:
                self.refresh()
            self._held += 1
        self._calls.number = getattr(self._calls, "number", 0) + 1

    def _after_forward(self, _: nn.Module) -> None:
        captured = torch.compiler.is_exporting() or torch.compiler.is_dynamo_compiling()
        # A user's hook may have raised before the copies were held.
        if not captured and getattr(self._calls, "number", 0):
            self._calls.number -= 1
            self.hold(-1)


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
    """Refresh outside of compiled code, which would keep the values that it was compiled with."""
    copies.refresh()


@contextmanager
def synced(subnet: nn.Module) -> Iterator[None]:
    """Context manager that refreshes the copies of a subnet at its start and holds them until its end."""
    with held(subnet, refreshed=True):
        yield


@contextmanager
def held(subnet: nn.Module, *, refreshed: bool = False) -> Iterator[None]:
    """Context manager that keeps the copies of a subnet as they are, or as they are after a refresh at its start."""
    record = record_of(subnet)
    copies = None if record is None else record.copies
    if copies is None:
        yield
        return
    with copies.lock:
        if refreshed and not copies.is_held:
            copies.refresh()
        copies.hold(1)
    try:
        yield
    finally:
        copies.hold(-1)


def _outside_transforms() -> AbstractContextManager[Any]:
    """Context manager that leaves `torch.func.grad` and `vmap`, which refuse writes to tensors of others."""
    inside = torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
    return torch._C._DisableFuncTorch() if inside else nullcontext()


def layout_of(tensor: Tensor) -> torch.memory_format:
    """The memory layout of a tensor, on which convolutions depend."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    apart = last is not None and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=last)
    return last if last is not None and apart else torch.contiguous_format


class _Copy:
    def __init__(self, copy: Tensor, parent: Tensor, kept: Sequence[TensorIndices]) -> None:
        self.copy, self.parent, self.kept = copy, parent, kept
        self._version, self._own_version = parent._version, copy._version

    def refresh(self) -> None:
        self.write_back()
        # A CUDA graph repeats its recorded copies at every replay, with the weights at that time.
        recording = self.parent.is_cuda and torch.cuda.is_current_stream_capturing()
        version = self.parent._version
        with torch.no_grad(), _outside_transforms():
            # If autograd does not know of a change, a pending backward pass must not detect one either.
            target = self.copy if recording or version != self._version else self.copy.data
            target.copy_(take(self.parent, self.kept))
        self._version, self._own_version = version, self.copy._version

    def write_back(self) -> None:
        """Write to the supernet what the user wrote to the copy, as a write to a leading block does by itself."""
        if self.copy._version == self._own_version:
            return
        if self.parent._version != self._version:
            raise ModelChangedError(
                "a weight was changed in a subnet and in the supernet, so one of the changes would be lost. Change it "
                "in one of them, or call the subnet in between"
            )
        put_(self.parent.detach(), self.kept, self.copy.detach())
        self._version, self._own_version = self.parent._version, self.copy._version
