"""Slimmable networks: batch norms of their own for every switch, against one written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import CheckpointError, WidthError
from anywidth.training import soft_cross_entropy
from built_once import built_once
from proofs import assert_close

WIDTHS = (0.25, 0.5, 1.0)
CHANNELS = (8, 12)
ACTIVE = {0.25: (2, 3), 0.5: (4, 6), 0.75: (6, 9), 1.0: (8, 12)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(8), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.a(x)))
        return self.head(F.relu(self.norm_b(self.b(x))).mean((2, 3)))


class ByHand(nn.Module):
    """The same network with one list of batch norms per layer, which cuts its weights itself."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.norms = nn.ModuleDict()
        for width in WIDTHS[:-1]:
            for layer, channels in zip("ab", ACTIVE[width], strict=True):
                norm = nn.BatchNorm2d(channels).double()
                full = getattr(net, f"norm_{layer}")
                with torch.no_grad():
                    norm.weight.copy_(full.weight[:channels])
                    norm.bias.copy_(full.bias[:channels])
                self.norms[self.key(width, layer)] = norm
        for layer in "ab":
            self.norms[self.key(1.0, layer)] = getattr(net, f"norm_{layer}")

    @staticmethod
    def key(width: float, layer: str) -> str:
        return f"{layer}{width}".replace(".", "_")

    def at(self, width: float, x: Tensor) -> Tensor:
        a, b = ACTIVE[width]
        x = F.conv2d(x, self.net.a.weight[:a], self.net.a.bias[:a], padding=1)
        x = F.relu(self.norms[self.key(width, "a")](x))
        x = F.conv2d(x, self.net.b.weight[:b, :a], self.net.b.bias[:b], padding=1)
        x = F.relu(self.norms[self.key(width, "b")](x)).mean((2, 3))
        return F.linear(x, self.net.head.weight[:, :b], self.net.head.bias)


def model(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net().double()
        for norm in (net.norm_a, net.norm_b):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    return net


@built_once
def supernet(widths: tuple[float, ...] = WIDTHS, **settings: bool) -> aw.Supernet:
    example = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    return aw.Supernet(model(), example, divisor=1, switches=widths, **settings)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(6) % 5


def train(net: aw.Supernet, steps: int = 4, first: int = 0, **settings: object) -> None:
    net.model.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        aw.sandwich_step(net, *batch(step), **settings)
        optimizer.step()


@pytest.mark.parametrize("distillation", [None, soft_cross_entropy], ids=["labels", "distillation"])
def test_training_is_that_of_a_network_with_a_list_of_batch_norms(distillation: aw.training.Loss | None) -> None:
    net = supernet()
    train(net, distillation=distillation)

    hand = ByHand(model()).train()
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        x, y = batch(step)
        optimizer.zero_grad()
        widest = hand.at(1.0, x)
        loss = F.cross_entropy(widest, y)
        for width in WIDTHS[:-1]:
            logits = hand.at(width, x)
            loss = loss + (F.cross_entropy(logits, y) if distillation is None else distillation(logits, widest))
        loss.backward()
        optimizer.step()

    hand.eval()
    x, _ = batch(99)
    for width in WIDTHS:
        with torch.no_grad():
            assert_close(net.subnet(width).eval()(x), hand.at(width, x))
        for layer in "ab":
            ours, theirs = getattr(net.subnet(width), f"norm_{layer}"), hand.norms[hand.key(width, layer)]
            assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert_close(net.model.a.weight, hand.net.a.weight)


def test_only_switches_can_be_asked_for() -> None:
    net = supernet()
    assert net.switches == WIDTHS
    assert net.min_width == 0.25
    message = r"not a switch of this network, whose switches are 0\.25, 0\.5, 1"
    for width in (0.3, 0.75, {"a": 0.5}, aw.WidthConfig({"a": 5, "b": 6})):
        with pytest.raises(WidthError, match=message):
            net.subnet(width)
    with pytest.raises(WidthError, match=message):
        aw.macs(net, 0.3)
    with pytest.raises(WidthError, match="no random widths"):
        aw.sandwich_step(net, *batch(0), widths=4)
    train(net, steps=1, widths=(1.0, 0.25))


def test_switches_that_make_no_sense_are_refused() -> None:
    for widths, message in (
        ((0.25, 0.5), "must be width 1.0 and at least one narrower"),
        ((1.0,), "at least one narrower"),
        ((0.0, 1.0), "switch 0 is outside"),
        ((0.25, 0.26, 1.0), "0.25 and 0.26 are the same network"),
    ):
        with pytest.raises(WidthError, match=message):
            supernet(widths)
    plain = aw.Supernet(model(), torch.randn(2, 3, 8, 8, dtype=torch.float64), divisor=1)
    assert plain.switches == ()
    with pytest.raises(WidthError, match="has no switches"):
        plain.add_switch(0.5)


def test_batch_norms_belong_to_the_width_and_not_to_the_number_of_channels() -> None:
    """At divisor 8, the first layer has 8 channels at every switch."""
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 5, 1))
    net = aw.Supernet(nn.Sequential(*layers).double(), x, switches=(0.25, 0.5, 1.0))
    a, b, c = (net.subnet(width)[1] for width in (0.25, 0.5, 1.0))
    assert a.weight.shape == b.weight.shape == c.weight.shape
    assert len({id(norm.weight) for norm in (a, b, c)}) == 3
    assert len({norm.running_mean.data_ptr() for norm in (a, b, c)}) == 3


def test_shared_parameters_with_statistics_of_their_own() -> None:
    net = supernet(switch_affine=False)
    assert len(list(net.parameters())) == len(list(net.model.parameters()))
    train(net)
    narrow = net.subnet(0.5).norm_b
    assert_close(narrow.weight, net.model.norm_b.weight[:6])
    assert float((narrow.running_mean - net.model.norm_b.running_mean[:6]).abs().max()) > 1e-3
    assert int(narrow.num_batches_tracked) == int(net.model.norm_b.num_batches_tracked) == 4


def outputs(net: aw.Supernet) -> Mapping[float, Tensor]:
    x, _ = batch(7)
    with torch.no_grad():
        return {width: net.subnet(width).eval()(x).clone() for width in net.switches}


@pytest.mark.parametrize("affine", [True, False])
def test_saved_loaded_and_extracted_alike(tmp_path: Path, affine: bool) -> None:
    net = supernet(switch_affine=affine)
    train(net)
    wanted = outputs(net)
    again = aw.load(net.save(tmp_path), model(seed=1))
    assert (again.switches, again.switch_affine) == (WIDTHS, affine)
    x, _ = batch(7)
    for width, output in outputs(again).items():
        assert_close(output, wanted[width])
        dense = net.extract(width).eval()
        assert sum(parameter.numel() for parameter in dense.parameters()) == aw.params(net, width)
        with torch.no_grad():
            assert_close(dense(x), output)
            for norm in (dense.norm_a, dense.norm_b):
                norm.weight.zero_()  # its own, not that of the switch
        assert_close(outputs(net)[width], output)
    train(net, first=4)
    train(again, first=4)
    for width, output in outputs(again).items():
        assert_close(output, outputs(net)[width])


def test_a_state_of_other_switches_is_refused() -> None:
    net = supernet()
    with pytest.raises(CheckpointError, match="not those of this network"):
        net.load_switch_state(supernet((0.5, 1.0)).switch_state())


def test_a_new_switch_starts_as_the_next_wider_one_and_learns() -> None:
    net = supernet((0.5, 1.0))
    train(net)
    before = outputs(net)
    net.add_switch(0.25)
    net.add_switch(0.75)
    assert net.switches == (0.25, 0.5, 0.75, 1.0)
    assert net.min_width == 0.25
    for new, wider in ((0.25, 0.5), (0.75, 1.0)):
        ours, theirs = net.subnet(new).norm_b, net.subnet(wider).norm_b
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert_close(getattr(ours, name), getattr(theirs, name)[: len(getattr(ours, name))])
    for width in (0.5, 1.0):
        assert_close(outputs(net)[width], before[width])
    kept = net.subnet(0.5).norm_b.weight.detach().clone()
    start = net.subnet(0.25).norm_b.weight.detach().clone()
    train(net, widths=(1.0, 0.25))
    assert_close(net.subnet(0.5).norm_b.weight, kept)
    assert float((net.subnet(0.25).norm_b.weight - start).detach().abs().max()) > 0
    with pytest.raises(WidthError, match="are the same network"):
        net.add_switch(0.5)


def test_a_switch_can_be_calibrated_instead_of_its_running_average() -> None:
    net = supernet()
    train(net)
    x, _ = batch(3)
    aw.calibrate(net, [x], widths=net.switches)
    with torch.no_grad():
        mean = F.conv2d(x, net.model.a.weight[:2], net.model.a.bias[:2], padding=1).mean((0, 2, 3))
    assert_close(net.subnet(0.25).norm_a.running_mean, mean)


def test_switches_of_a_layer_whose_channels_are_several_blocks() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 12, 3)
            self.norm, self.head = nn.BatchNorm2d(20), nn.Conv2d(20, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(torch.cat([self.a(x), self.b(x)], 1)))

    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    joined = Joined().double()
    nn.init.normal_(joined.norm.weight)
    net = aw.Supernet(joined, x, divisor=1, switches=(0.5, 1.0))
    positions = torch.tensor([*range(4), *range(8, 14)])
    assert_close(net.subnet(0.5).norm.weight, joined.norm.weight[positions])
    net.subnet(0.5).train()(x)
    net.add_switch(0.25)
    kept = [0, 1, 4, 5, 6]
    assert_close(net.subnet(0.25).norm.running_mean, net.subnet(0.5).norm.running_mean[kept])
    assert_close(net.subnet(0.25).norm.weight, joined.norm.weight[positions[kept]])
