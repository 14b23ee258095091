"""Layers of torch one by one between two others: elastic, or frozen with a reason, and right in every subnet."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from timm.layers.std_conv import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from fast import fast_and_slow
from proofs import assert_close, assert_like_slicing, configs
from zoo import Case

CHANNELS = 24


class Between(nn.Module):
    """A layer that makes channels, the layer in question, and two that read what comes out."""

    def __init__(self, before: nn.Module, layer: nn.Module, after: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after, self.head = before, layer, after, head

    def forward(self, x: Tensor) -> Tensor:
        result = self.layer(F.relu(self.before(x)))
        return self.head(F.relu(self.after(result[0] if isinstance(result, tuple) else result)))


class Same(nn.Module):
    """Calls a layer with the same tensor several times."""

    def __init__(self, layer: nn.Module, times: int) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Any:
        return self.layer(*[x] * self.times)


@dataclass(frozen=True)
class Layer:
    """How to build one, how many channels come out, and the kind of data that it is for."""

    build: Callable[[], nn.Module]
    out: int = CHANNELS
    data: str = "image"

    def model(self) -> nn.Module:
        """The layer between others."""
        layer = self.build()
        if self.data == "image":
            before: nn.Module = nn.Conv2d(3, CHANNELS, 3, padding=1)
            return Between(before, layer, nn.Conv2d(self.out, 20, 1), nn.Conv2d(20, 4, 1))
        before = nn.Identity() if self.data == "indices" else nn.Linear(6, CHANNELS)
        return Between(before, layer, nn.Linear(self.out, 20), nn.Linear(20, 4))

    def inputs(self) -> Tensor:
        """Two samples."""
        if self.data == "image":
            return torch.randn(2, 3, 8, 8, dtype=torch.float64)
        if self.data == "indices":
            return torch.randint(1, 50, (2, 5))
        return torch.randn(2, 5, 6, dtype=torch.float64)


def recurrent(kind: type[nn.RNNBase], **settings: Any) -> Layer:
    out = settings.get("proj_size", 16) * (2 if settings.get("bidirectional") else 1)
    return Layer(lambda: kind(CHANNELS, 16, batch_first=True, **settings), out, "tokens")


def normed(norm: Callable[..., nn.Module], **settings: Any) -> Callable[[], nn.Module]:
    return lambda: norm(nn.Conv2d(CHANNELS, 32, 3, padding=1), **settings)


ELASTIC: dict[str, Layer] = {
    "weight norm": Layer(normed(parametrizations.weight_norm), 32),
    "weight norm over outputs": Layer(normed(parametrizations.weight_norm, dim=1), 32),
    "weight norm of all": Layer(normed(parametrizations.weight_norm, dim=None), 32),
    "weight norm of linear": Layer(lambda: parametrizations.weight_norm(nn.Linear(CHANNELS, 16)), 16, "tokens"),
    "standardised weight": Layer(lambda: StdConv2d(CHANNELS, 32, 3, padding=1), 32),
    "scaled standardised weight": Layer(lambda: ScaledStdConv2d(CHANNELS, 32, 3, padding=1), 32),
    "group norm": Layer(lambda: nn.GroupNorm(4, CHANNELS)),
    "group norm of single channels": Layer(lambda: nn.GroupNorm(CHANNELS, CHANNELS)),
    "instance norm": Layer(lambda: nn.InstanceNorm2d(CHANNELS, affine=True)),
    "layer norm": Layer(lambda: nn.LayerNorm(CHANNELS), data="tokens"),
    "rms norm": Layer(lambda: nn.RMSNorm(CHANNELS), data="tokens"),
    "prelu": Layer(lambda: nn.PReLU(CHANNELS)),
    "grouped conv": Layer(lambda: nn.Conv2d(CHANNELS, 32, 3, padding=1, groups=4), 32),
    "transposed conv": Layer(lambda: nn.ConvTranspose2d(CHANNELS, 32, 2, 2), 32),
    "grouped transposed conv": Layer(lambda: nn.ConvTranspose2d(CHANNELS, 32, 2, 2, groups=4), 32),
    "depthwise transposed conv": Layer(lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2, groups=CHANNELS)),
    "pixel shuffle": Layer(lambda: nn.PixelShuffle(2), CHANNELS // 4),
    "pixel unshuffle": Layer(lambda: nn.PixelUnshuffle(2), CHANNELS * 4),
    "channel shuffle": Layer(lambda: nn.ChannelShuffle(4)),
    "unfold and fold": Layer(lambda: nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((8, 8), 2, stride=2))),
    "bilinear": Layer(lambda: Same(nn.Bilinear(CHANNELS, CHANNELS, 16), 2), 16, "tokens"),
    "lstm": recurrent(nn.LSTM),
    "lstm of two layers both ways": recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "gru": recurrent(nn.GRU, bidirectional=True),
    "gru without bias": recurrent(nn.GRU, bias=False, num_layers=2),
    "rnn": recurrent(nn.RNN),
    "relu rnn": recurrent(nn.RNN, nonlinearity="relu"),
    "embedding": Layer(lambda: nn.Embedding(50, CHANNELS, padding_idx=0), data="indices"),
    "bag of embeddings": Layer(lambda: nn.EmbeddingBag(50, CHANNELS), data="indices"),
    "attention": Layer(lambda: Same(nn.MultiheadAttention(CHANNELS, 4, batch_first=True), 3), data="tokens"),
    "encoder": Layer(lambda: nn.TransformerEncoderLayer(CHANNELS, 4, 48, 0.0, batch_first=True), data="tokens"),
    "decoder": Layer(lambda: Same(nn.TransformerDecoderLayer(CHANNELS, 4, 48, 0.0, batch_first=True), 2), data="tokens"),
    "transformer": Layer(lambda: Same(nn.Transformer(CHANNELS, 4, 1, 1, 48, 0.0, batch_first=True), 2), data="tokens"),
}  # fmt: skip
FROZEN: dict[str, tuple[Layer, str]] = {
    "projected lstm": (recurrent(nn.LSTM, proj_size=8), "projected states"),
    "response norm": (Layer(lambda: nn.LocalResponseNorm(3)), "avg_pool3d"),
}


def supernet(layer: Layer) -> tuple[Case, aw.Supernet]:
    case = Case(name="layer", build=layer.model, inputs=layer.inputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        return case, aw.Supernet(case.model(), case.example(), divisor=1, min_width=0.1)


def check_subnets(net: aw.Supernet, x: Tensor, *, training: bool = True) -> None:
    """Subnets are what slicing gives, and have the counted parameters."""
    for config in configs(net):
        share_statistics(net, [config])
        assert_like_slicing(net, config, x, training=training)
        assert sum(parameter.numel() for parameter in net.extract(config).parameters()) == aw.params(net, config)


# One of each kind.
FAST = {
    "weight norm over outputs", "scaled standardised weight", "group norm of single channels", "rms norm",
    "grouped transposed conv", "pixel unshuffle", "unfold and fold", "bilinear", "lstm of two layers both ways",
    "gru without bias", "embedding", "attention", "decoder",
}  # fmt: skip


@pytest.mark.parametrize("name", fast_and_slow(ELASTIC, FAST))
def test_layers_that_are_elastic_with_all_their_neighbours(name: str) -> None:
    case, net = supernet(ELASTIC[name])
    assert net.elastic_share == 1, net.summary()
    check_subnets(net, case.example(1))


def test_spectral_norm_divides_by_the_part_of_its_vectors_that_is_kept() -> None:
    # Not among the layers above: in training, every forward moves the vectors on.
    normed_conv = parametrizations.spectral_norm(nn.Conv2d(16, 32, 3, padding=1))
    model = nn.Sequential(nn.Conv2d(3, 16, 1), normed_conv, nn.Conv2d(32, 4, 1)).double().eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    net = aw.Supernet(model, x, divisor=1)
    assert net.elastic_share == 1
    first, second = model[0], model[2]
    norm = normed_conv.parametrizations.weight[0]
    for width in (0.25, 0.5, 0.8):
        narrow = net.subnet(width).eval()
        ins, outs = narrow[0].out_channels, narrow[2].in_channels
        weight = normed_conv.parametrizations.weight.original[:outs, :ins]
        u, v = norm._u[:outs], norm._v.view(16, 9)[:ins].flatten()
        weight = weight / (u @ weight.flatten(1) @ v)
        hidden = F.conv2d(x, first.weight[:ins], first.bias[:ins])
        hidden = F.conv2d(hidden, weight, normed_conv.bias[:outs], padding=1)
        assert_close(narrow(x), F.conv2d(hidden, second.weight[:, :outs], second.bias))
        assert_close(net.extract(width).eval()(x), narrow(x))


@pytest.mark.parametrize("name", FROZEN)
def test_layers_that_freeze_what_enters_them_say_why(name: str) -> None:
    layer, reason = FROZEN[name]
    case, net = supernet(layer)
    frozen = next(group.frozen for group in net.groups if "before" in group.producers)
    assert frozen is not None
    assert reason in frozen
    assert "after" in {group.name for group in net.analysis.elastic}
    check_subnets(net, case.example(1), training=False)  # spectral norm moves its vectors in training
