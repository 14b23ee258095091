"""The sizes that a search tries."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import anywidth as aw
from anywidth.core.errors import SearchError, WidthError
from anywidth.groups import ChannelGroup
from anywidth.models import build_model
from anywidth.search import config_from_channels, layers, sizes
from anywidth.search.plan import narrower, space
from anywidth.widths import round_channels


@given(
    blocks=st.integers(1, 300), block_size=st.sampled_from([1, 1, 2, 6]), divisor=st.sampled_from([1, 2, 8]),
    step_fraction=st.floats(0.02, 1), min_width=st.floats(0.05, 1),
)  # fmt: skip
def test_sizes_fall_from_all_channels_to_the_fewest(blocks, block_size, divisor, step_fraction, min_width) -> None:
    group = ChannelGroup(name="g", channels=blocks * block_size, block_size=block_size)
    found = sizes(group, step_fraction=step_fraction, divisor=divisor, min_width=min_width)
    assert found[0] == group.channels
    assert found[-1] == round_channels(group, min_width, divisor)
    assert all(a > b for a, b in itertools.pairwise(found))
    assert all(size % block_size == 0 for size in found)


def test_ten_pieces_as_in_the_paper() -> None:
    assert sizes(ChannelGroup(name="g", channels=320), step_fraction=0.1, divisor=8, min_width=0.1) == tuple(
        range(320, 0, -32)
    )


@pytest.fixture(scope="module")
def mobilenet() -> aw.Supernet:
    """With a head that keeps its channels; do not change it."""
    model = build_model("mobilenet_v2", num_classes=5, input_shape=(3, 16, 16))
    return aw.Supernet(model, torch.randn(1, 3, 16, 16), frozen=("head.conv",))


@pytest.mark.slow
def test_every_config_of_the_space_is_one_of_the_network(mobilenet) -> None:
    net = mobilenet
    options = space(net, step_fraction=0.1)
    config = net.config(1.0)
    for name, one_less in narrower(config, options).items():
        assert net.config(one_less)[name] == options[name][1]
        assert {n for n in config if config[n] != one_less[n]} == {name}


def test_nothing_to_choose_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(SearchError, match="no group of the network can be narrowed at divisor 8 and min_width 0.9"):
        space(aw.Supernet(model, torch.randn(1, 4), min_width=0.9), step_fraction=0.1)
    switches = aw.Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4), switches=(0.5, 1.0))
    with pytest.raises(SearchError, match="switches has no other widths"):
        space(switches, step_fraction=0.1)


def test_a_found_mobilenet_from_its_list_of_channels() -> None:
    """Wider than 1.0 in some layers and narrower in others, as the nets of the paper are; the numbers are ours."""
    wide = build_model("mobilenet_v2", num_classes=5, input_shape=(3, 16, 16), width=1.5)
    net = aw.Supernet(wide, torch.randn(1, 3, 16, 16), frozen=("head.conv",))
    names = layers(net)
    full = {name: tensor.shape[0] for name, tensor in net.model.named_parameters() if tensor.ndim > 1}
    numbers = {name: full[f"{name}.weight"] for name in names}
    numbers |= {
        "stem.conv": 16,
        "features.0.depthwise": 16,
        "features.1.expand": 40,
        "features.1.depthwise": 40,
        "features.1.project": 40,
    }
    numbers["features.2.project"] = 40
    config = config_from_channels(net, list(numbers.values()))
    assert config == config_from_channels(
        net, {"stem.conv": 16, "features.0.depthwise": 16, "features.1.expand": 40, "features.1.project": 40}
    )
    dense = net.extract(config, calibrated=False)
    found = {name: tensor.shape[0] for name, tensor in dense.named_parameters() if tensor.ndim > 1}
    assert {name: found[f"{name}.weight"] for name in names} == numbers
    assert found["features.1.expand.weight"] > 24
    assert dense(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    assert aw.macs(net, config) == aw.macs(aw.Supernet(dense, torch.randn(1, 3, 16, 16), min_width=1.0))
    assert config_from_channels(net, list(config.values())) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mmacs", "channels"),
    [
        (207, "8 8 96 16 96 16 96 24 144 24 144 24 144 48 288 48 288 48 288 48 288 64 432 64 432 64 648 176 720 176 720 "
              "176 1440 280 1920"),
        (305, "8 8 96 16 96 16 96 24 144 24 144 24 144 56 288 56 288 56 288 56 288 96 432 96 432 96 864 240 1440 240 960 "
              "240 1440 480 1920"),
        (505, "32 16 144 24 176 24 192 48 240 48 144 48 264 88 288 88 336 88 432 88 576 144 576 144 648 144 864 240 1440 "
              "240 1440 240 1440 480 1920"),
    ],
)  # fmt: skip
def test_the_networks_that_the_paper_found_have_its_macs(mmacs, channels) -> None:
    """AutoSlim-MobileNetV2 as published: the stem, the first block, (expansion, output) of every other, the head."""
    stem, first, *blocks, head = map(int, channels.split())
    numbers = [stem, stem, first]
    for expansion, outputs in zip(blocks[::2], blocks[1::2], strict=True):
        numbers += [expansion, expansion, outputs]
    wide = build_model("mobilenet_v2", num_classes=1000, input_shape=(3, 224, 224), width=1.5)
    net = aw.Supernet(wide, torch.zeros(1, 3, 224, 224), min_width=0.1)
    config = config_from_channels(net, [*numbers, head, 1000])
    assert round(aw.macs(net, config) / 1e6) == mmacs
    dense = net.extract(config, calibrated=False)
    assert sum(p.numel() for p in dense.parameters()) == aw.params(net, config)
    assert [m.out_channels for m in dense.modules() if isinstance(m, nn.Conv2d)] == [*numbers, head]


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([1, 2, 3], "3 numbers of channels fit neither the"),
        ({"nonsense": 8}, "'nonsense' is neither a channel group nor a layer"),
        ({"features.1.project": 24, "features.2.project": 16}, "belong together"),
        ({"stem.conv": 1000}, "cannot have 1000 channels"),
        ({"head.conv": 8}, "cannot be narrowed to 8: asked for"),
    ],
)
def test_lists_that_do_not_fit_are_told(channels, message, mobilenet) -> None:
    with pytest.raises(WidthError, match=message):
        config_from_channels(mobilenet, channels)
