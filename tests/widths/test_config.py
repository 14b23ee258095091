"""Width configs: what they are, and what is refused."""

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import anywidth as aw
from anywidth.core.errors import WidthError
from anywidth.groups import ChannelGroup
from anywidth.widths import Ends, WidthConfig, WidthSampler, check_width, resolve, round_channels
from zoo import Case, cases, find

SupernetOf = Callable[[Case], aw.Supernet]


@pytest.fixture
def net(supernet_of: SupernetOf) -> aw.Supernet:
    return supernet_of(find("residual"))


# -- the value ---------------------------------------------------------------------------------------------


def test_equal_configs_have_equal_hashes_and_keys_whatever_their_order() -> None:
    a, b = WidthConfig({"x": 8, "y": 16}), WidthConfig({"y": 16, "x": 8})
    assert a == b
    assert hash(a) == hash(b)
    assert a.key == b.key
    assert len({a, b}) == 1
    assert a != WidthConfig({"x": 8, "y": 8})
    assert a != {"x": 8, "y": 16}
    assert a.key != WidthConfig({"x": 8, "y": 8}).key


def test_config_is_a_mapping_of_its_own() -> None:
    channels = {"x": 8}
    config = WidthConfig(channels)
    channels["x"] = 4
    assert dict(config) == {"x": 8}
    assert config["x"] == 8
    assert list(config) == ["x"]
    with pytest.raises(TypeError):
        config["x"] = 4  # type: ignore[index]
    with pytest.raises(AttributeError):
        config.new = 1  # type: ignore[attr-defined]


def test_whole_numbers_of_any_type_are_one_number() -> None:
    plain, numpy = WidthConfig({"x": 8}), WidthConfig({"x": np.int64(8)})  # type: ignore[dict-item]
    assert numpy == plain
    assert numpy.key == plain.key
    assert type(numpy["x"]) is int


@pytest.mark.parametrize("channels", [8.0, 7.5, float("nan"), True, "8", None])
def test_config_refuses_what_is_no_whole_number(channels: Any) -> None:
    with pytest.raises(WidthError, match="'conv'.*whole number"):
        WidthConfig({"conv": channels})


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_config_can_be_copied_and_pickled(clone: Callable[[WidthConfig], WidthConfig]) -> None:
    config = WidthConfig({"x": 8, "y": 16})
    other = clone(config)
    assert other == config
    assert hash(other) == hash(config)
    assert {config: 1}[other] == 1


def test_pickled_config_is_found_in_the_dictionaries_of_another_process(tmp_path: Path) -> None:
    config = WidthConfig({"x": 8, "y": 16})
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    code = (
        "import pickle, sys, anywidth as aw\n"
        "config = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print({aw.WidthConfig({'x': 8, 'y': 16}): 'found'}.get(config), config.key)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config")],
        env={**os.environ, "PYTHONHASHSEED": "12345"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.split() == ["found", config.key]


# -- widths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [float("nan"), float("inf"), -float("inf"), 0.0, -0.5, 1.01, 0.24, 2])
def test_width_out_of_range_names_the_range(net: aw.Supernet, width: float) -> None:
    with pytest.raises(WidthError, match=r"\[0.25, 1\]"):
        net.config(width)
    with pytest.raises(WidthError, match=r"width of 'a.*'.*\[0.25, 1\]"):
        net.config({"a*": width})


@pytest.mark.parametrize("width", [True, False, "0.5", None, [0.5], 0.5j, torch.tensor([0.5, 0.5])])
def test_width_of_a_wrong_type_is_refused(net: aw.Supernet, width: Any) -> None:
    with pytest.raises(WidthError, match="must be a number"):
        net.config(width)


@pytest.mark.parametrize("min_width", [0, -1, 1.5, float("nan"), True, "0.25"])
def test_smallest_width_is_checked(min_width: Any) -> None:
    case = find("residual")
    with pytest.raises(WidthError, match="min_width"):
        aw.Supernet(case.model(), case.example(), min_width=min_width)


@pytest.mark.parametrize("divisor", [0, -8, 1.5, True, "8"])
def test_divisor_is_checked(divisor: Any) -> None:
    case = find("residual")
    with pytest.raises(WidthError, match="divisor"):
        aw.Supernet(case.model(), case.example(), divisor=divisor)


def test_ends_of_the_range_are_widths_in_spite_of_rounding_errors(net: aw.Supernet) -> None:
    assert net.config(0.1 + 0.15) == net.config(0.25)
    assert net.config(1.0 + 1e-12) == net.config(1) == net.config(1.0)
    assert check_width(0.3, 0.1 + 0.2) == 0.1 + 0.2


def test_full_width_is_full_even_where_rounding_would_not_be() -> None:
    groups = [ChannelGroup(name="odd", channels=13), ChannelGroup(name="blocks", channels=18, block_size=6)]
    assert resolve(groups, 1.0, divisor=8, min_width=0.1) == WidthConfig({"odd": 13, "blocks": 18})


# -- patterns ----------------------------------------------------------------------------------------------


def test_first_pattern_that_matches_counts_and_the_rest_stays_whole(net: aw.Supernet) -> None:
    stem, inner = (group.name for group in net.analysis.elastic)
    assert net.config({inner: 0.5, "*": 0.25}) == WidthConfig({stem: 4, inner: 12})
    assert net.config({"*": 0.25, inner: 0.5}) == WidthConfig({stem: 4, inner: 6})
    assert net.config({inner: 0.5}) == WidthConfig({stem: 16, inner: 12})
    assert net.config({}) == net.config(1.0)


def test_pattern_means_the_modules_that_make_the_channels_too(net: aw.Supernet) -> None:
    assert net.config({"b.0": 0.5}) == net.config({"stem*": 0.5})


def test_unknown_pattern_and_pattern_on_frozen_channels_are_told_apart(net: aw.Supernet) -> None:
    with pytest.raises(WidthError, match="'layer9.*' matches no channel group; groups include stem"):
        net.config({"layer9.*": 0.5})
    with pytest.raises(WidthError, match="'head' matches only frozen channels"):
        net.config({"head": 0.5})


def test_names_with_brackets_mean_themselves() -> None:
    groups = [ChannelGroup(name=f"conv[{i}:{i + 8}]", channels=8, producers=("conv",)) for i in (0, 8)]
    config = resolve(groups, {"conv[8:16]": 0.5}, divisor=1, min_width=0.1)
    assert config == WidthConfig({"conv[0:8]": 8, "conv[8:16]": 4})
    assert resolve(groups, {"conv": 0.5}, divisor=1, min_width=0.1) == WidthConfig({"conv[0:8]": 4, "conv[8:16]": 4})


def test_config_of_another_network_is_refused(net: aw.Supernet, supernet_of: SupernetOf) -> None:
    other = supernet_of(find("concat"))
    with pytest.raises(WidthError, match="another network"):
        net.config(other.config(0.5))
    with pytest.raises(WidthError, match="1 missing"):
        net.config(WidthConfig({"stem.0": 8}))


@pytest.mark.parametrize("channels", [0, -1, 17])
def test_config_with_impossible_channels_is_refused(net: aw.Supernet, channels: int) -> None:
    first, second = (group.name for group in net.analysis.elastic)
    with pytest.raises(WidthError, match=rf"'{first}' cannot have {channels} channels.*\[1, 16\]"):
        net.config(WidthConfig({first: channels, second: 8}))


def test_config_that_breaks_units_is_refused(supernet_of: SupernetOf) -> None:
    net = supernet_of(find("glu"))
    (group,) = net.analysis.elastic
    assert group.block_size == 2
    with pytest.raises(WidthError, match="multiple of 2"):
        net.config(WidthConfig({group.name: 7}))


# -- sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
def test_nonuniform_samples_give_every_group_a_width_of_its_own(case: Case, supernet_of: SupernetOf) -> None:
    net = supernet_of(case)
    names = [group.name for group in net.analysis.elastic]
    config = net.config(WidthSampler(net.min_width, seed=3).nonuniform(names))
    twin = WidthSampler(net.min_width, seed=3)
    for group in net.analysis.elastic:
        assert config[group.name] == round_channels(group, twin.uniform(), net.divisor)


def test_sandwich_has_both_ends_and_random_widths_between() -> None:
    widths = WidthSampler(0.3, seed=1).sandwich(50)
    assert widths[:2] == [1.0, 0.3]
    assert len(widths) == 50
    assert all(0.3 <= width <= 1.0 for width in widths)
    assert len(set(widths)) == 50


@pytest.mark.parametrize(
    ("ends", "fixed"), [("both", [1.0, 0.3]), ("widest", [1.0]), ("narrowest", [0.3]), ("none", [])]
)
def test_sandwich_has_the_ends_that_are_asked_for(ends: Ends, fixed: list[float]) -> None:
    widths = WidthSampler(0.3, seed=1, always_include=ends).sandwich(6)
    assert widths[: len(fixed)] == fixed
    assert len(widths) == 6
    assert widths[len(fixed) :] == WidthSampler(0.3, seed=1).sandwich(8)[2 : 8 - len(fixed)]


def test_random_widths_are_uneven_where_groups_are_named() -> None:
    widths = WidthSampler(0.3, seed=1, groups=["a", "b"]).sandwich(4)
    assert widths[:2] == [1.0, 0.3]
    for width in widths[2:]:
        assert isinstance(width, dict)
        assert set(width) == {"a", "b"}
        assert width["a"] != width["b"]


def test_samplers_are_alike_by_seed_and_deaf_to_other_generators() -> None:
    a, b, c = WidthSampler(0.25, seed=7), WidthSampler(0.25, seed=7), WidthSampler(0.25, seed=8)
    drawn = a.sandwich(6)
    torch.rand(3)
    np.random.rand(3)
    assert b.sandwich(6) == drawn
    assert c.sandwich(6) != drawn


def test_sampler_goes_on_from_a_saved_state() -> None:
    sampler = WidthSampler(0.25, seed=7)
    sampler.sandwich(5)
    state = json.loads(json.dumps(sampler.state_dict()))
    wanted = [sampler.uniform() for _ in range(4)]
    other = WidthSampler(0.25, seed=0)
    other.load_state_dict(state)
    assert [other.uniform() for _ in range(4)] == wanted
