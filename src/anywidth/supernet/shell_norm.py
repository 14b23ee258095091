"""Layer, RMS and group norms of nested networks, with cumulative statistics per shell."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NormKind", "ShellNorm"]

NormKind = Literal["layer", "rms", "group"]


class ShellNorm(nn.Module):
    """A norm over channels that never looks at channels of later shells.

    The statistics of a channel of shell s come from all channels of the shells up to s, so that a channel is normalised
    alike at every width that has it. A norm of a single shell is the usual one. The keys of the state dict are those of
    the norm that it stands for; which channel is of which shell is not in the state dict.

    Args:
        kind: "layer" subtracts the mean and divides by the standard deviation, "rms" divides by the root of the mean
            square, "group" is a layer norm over channels and positions (a group norm with one group).
        shells: The shell of every channel, from 0, of shape (channels,).
        dim: The dimension of the channels: -1 or 1.
        eps: Added to the variance.
        weight: Factors of shape (channels,), or None.
        bias: Summands of shape (channels,), or None.

    >>> norm = ShellNorm("layer", torch.tensor([0, 0, 1, 1]), dim=-1, eps=1e-5)
    >>> x = torch.tensor([[1.0, 3.0, 2.0, 6.0]])
    >>> norm(x)[:, :2].tolist() == norm(torch.tensor([[1.0, 3.0, 9.0, 9.0]]))[:, :2].tolist()
    True
    >>> bool(torch.isclose(norm(x)[0, 2], nn.functional.layer_norm(x, (4,))[0, 2]))
    True
    """

    shells: Tensor
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    keeps_shells = True
    """Channels depend on their own and earlier shells alone, although statistics of all shells are computed."""

    def __init__(
        self,
        kind: NormKind,
        shells: Tensor,
        *,
        dim: int,
        eps: float,
        weight: nn.Parameter | None = None,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.kind: NormKind = kind
        self.dim, self.eps = dim, eps
        self.count = int(shells.max()) + 1
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)
        self.register_buffer("shells", shells, persistent=False)

    def extra_repr(self) -> str:
        """Kind, channels and shells."""
        return f"{self.kind}, channels={self.shells.numel()}, shells={self.count}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, of the same shape and dtype."""
        if torch.is_autocast_enabled(x.device.type):  # as norms of torch, in single precision
            with torch.autocast(x.device.type, enabled=False):
                return self._normalised(x.float())
        return self._normalised(x)

    def _normalised(self, x: Tensor) -> Tensor:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        if self.dim == 1:
            wide = wide.movedim(1, -1)
        numbers = torch.arange(self.count, device=x.device).unsqueeze(-1)
        prefix = (self.shells <= numbers).to(wide.dtype)
        own = (self.shells == numbers).to(wide.dtype)
        if self.weight is not None:
            own = own * self.weight.to(wide.dtype)
        share = prefix / prefix.sum(1, keepdim=True)  # (shells, channels): a product with it is the mean of each prefix
        if self.kind == "rms":
            normal = wide * (self._scale(F.linear(self._over_positions(wide.square()), share)) @ own)
        else:
            # Around the mean of the first shell, so that squares of large numbers do not cancel.
            wide = wide - F.linear(self._over_positions(wide), share.narrow(0, 0, 1))
            mean = F.linear(self._over_positions(wide), share)
            square = F.linear(self._over_positions(wide.square()), share)
            scale = self._scale((square - mean.square()).clamp_min(0))
            normal = wide * (scale @ own) - (mean * scale) @ own
        if self.bias is not None:
            normal = normal + self.bias
        if self.dim == 1:
            normal = normal.movedim(-1, 1)
        return normal.to(x.dtype)

    def _scale(self, variance: Tensor) -> Tensor:
        return torch.rsqrt(variance + self.eps)

    def _over_positions(self, x: Tensor) -> Tensor:
        """The mean over positions of a group norm, with dimensions of size 1 in their places."""
        return x.mean(list(range(1, x.ndim - 1)), keepdim=True) if self.kind == "group" and x.ndim > 2 else x
