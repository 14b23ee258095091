"""Width configs from lists of channels, such as those of networks that others have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from anywidth.core.errors import WidthError
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["config_from_channels", "layers"]


def config_from_channels(net: Supernet, channels: Sequence[int] | Mapping[str, int]) -> WidthConfig:
    """The config with these numbers of channels.

    Args:
        net: The supernet. Where a number is larger than its layer, build the model wider, such as
            `build_model("mobilenet_v2", ..., width=1.5)`.
        channels: By group or by layer: a map with names of groups or of the modules that make their channels (what is
            left out stays whole), or a list with one number for every elastic group in the order of `net.config(1.0)`,
            or one for every convolution and linear layer in their order (`layers`), frozen and depthwise ones included.

    Raises:
        WidthError: a number does not fit, layers that belong together differ, or a list has another length.

    >>> import torch
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 32), nn.Linear(32, 2)), torch.randn(1, 4))
    >>> config_from_channels(net, [8, 24]), config_from_channels(net, [8, 24, 2])
    (WidthConfig({'0': 8, '1': 24}), WidthConfig({'0': 8, '1': 24}))
    """
    full = net.config(1.0)
    if isinstance(channels, Mapping):
        return net.config(WidthConfig(_by_group(net, channels)))
    if len(channels) == len(full):
        return net.config(WidthConfig(dict(zip(full, channels, strict=True))))
    names = layers(net)
    if len(channels) == len(names):
        return net.config(WidthConfig(_by_group(net, dict(zip(names, channels, strict=True)))))
    raise WidthError(
        f"{len(channels)} numbers of channels fit neither the {len(full)} elastic groups nor the {len(names)} "
        "convolutions and linear layers of the network; see net.summary()"
    )


def layers(net: Supernet) -> list[str]:
    """The convolutions and linear layers of a network, in the order of its modules."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return [name for name, module in net.model.named_modules() if isinstance(module, kinds)]


def _by_group(net: Supernet, channels: Mapping[str, int]) -> dict[str, int]:
    found = dict(net.config(1.0))
    said: dict[str, str] = {}
    known = {name: group for group in net.groups for name in (*group.producers, group.name)}
    following = {
        member.partition("[")[0].rpartition(".")[0]: group
        for group in net.groups for member in group.members if member.endswith("[0]")
    }  # fmt: skip
    for name, number in channels.items():
        group = known.get(name) or following.get(name)
        if group is None:
            module = dict(net.model.named_modules()).get(name)
            outputs = getattr(module, "out_channels", getattr(module, "out_features", None))
            if outputs != number:
                raise WidthError(
                    f"{name!r} is neither a channel group nor a layer that makes its channels; see net.summary()"
                )
            continue
        if group.frozen is not None:
            if number != group.channels:
                raise WidthError(
                    f"{name!r} has {group.channels} channels that cannot be narrowed to {number}: {group.frozen}"
                )
            continue
        if group.name in said and found[group.name] != number:
            raise WidthError(
                f"{said[group.name]!r} and {name!r} belong together (group {group.name!r}) and cannot have "
                f"{found[group.name]} and {number} channels"
            )
        found[group.name], said[group.name] = number, name
    return found
