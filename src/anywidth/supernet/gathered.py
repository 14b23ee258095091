"""Parts of tensors whose kept positions are no leading block: dense copies, which follow the supernet's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Kept
from anywidth.groups.narrow import Place, take

__all__ = ["Copies", "current", "on_device"]

_copies: WeakKeyDictionary[nn.Module, Copies] = WeakKeyDictionary()


def on_device(kept: Sequence[Kept], device: torch.device) -> tuple[Place, ...]:
    """The same positions with indices on a device, once and not at every use."""
    return tuple(k if k is None or isinstance(k, int) else torch.from_numpy(k).to(device) for k in kept)


class Copies:
    """The copies of one subnet."""

    def __init__(self) -> None:
        self._copies: list[_Copy] = []
        self.held = False

    def of(self, parent: Tensor, kept: Sequence[Kept]) -> Tensor:
        """A dense copy of a part, which is kept up to date."""
        copy = take(parent.detach(), kept).contiguous(memory_format=_layout(parent))
        self._copies.append(_Copy(copy, parent, on_device(kept, parent.device)))
        return copy

    def belong_to(self, subnet: nn.Module) -> None:
        """Refresh at every call of a subnet, also of a compiled one."""
        if not self._copies:
            return
        _copies[subnet] = self
        subnet.register_forward_pre_hook(lambda *_: self._before_forward())

    def refresh(self) -> None:
        """Copy again what an optimizer, a load or the full network's forward has changed."""
        for copy in self._copies:
            copy.refresh()

    def _before_forward(self) -> None:
        if self.held or torch.compiler.is_exporting():
            return
        if torch.compiler.is_dynamo_compiling():
            _refresh_outside(self)
        else:
            self.refresh()


# As torch.compiler.disable, which would import the compiler with this package.
@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
def _refresh_outside(copies: Copies) -> None:
    """Not within compiled code, which would keep the values that it was compiled with."""
    copies.refresh()


@contextmanager
def current(subnet: nn.Module) -> Iterator[None]:
    """Within it, the copies of a subnet are those of the weights as they are at its start."""
    copies = _copies.get(subnet)
    if copies is None:
        yield
        return
    copies.refresh()
    before, copies.held = copies.held, True
    try:
        yield
    finally:
        copies.held = before


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
        if recording or self.parent._version != self._version:
            with torch.no_grad():
                self.copy.copy_(take(self.parent, self.kept))
            self._version = self.parent._version
