"""Post-statistics: exact, side-effect free, and asked for where they are missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import DataError, UncalibratedError


def two_layers() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(512, 3),
    ).double()  # fmt: skip


@pytest.fixture
def net() -> aw.Supernet:
    return aw.Supernet(two_layers(), torch.randn(2, 2, 8, 8).double())


def sorted_batches() -> tuple[Tensor, list[Tensor]]:
    data = torch.randn(60, 2, 8, 8).double()
    data = data[data.mean((1, 2, 3)).argsort()] * torch.linspace(0.2, 3, 60).double().reshape(-1, 1, 1, 1)
    return data, list(data.split([1, 7, 30, 2, 19, 1]))


def test_a_single_pass_pools_all_that_entered_each_layer(net: aw.Supernet) -> None:
    _, batches = sorted_batches()
    aw.calibrate(net, batches, [0.5])
    dense = net.extract(0.5).train()
    seen: dict[str, list[Tensor]] = {"1": [], "4": []}
    for name, values in seen.items():
        dense.get_submodule(name).register_forward_hook(lambda _m, args, _o, values=values: values.append(args[0]))
    stored = net.statistics[net.config(0.5)]
    with torch.no_grad():  # batches of one join the next, so that they have a variance
        for batch in [torch.cat(batches[:2]), batches[2], batches[3], torch.cat(batches[4:])]:
            dense(batch)
    for name, values in seen.items():
        flat = torch.cat([v.transpose(0, 1).flatten(1) for v in values], 1)
        torch.testing.assert_close(stored[f"{name}.running_mean"], flat.mean(1), rtol=0, atol=1e-10)
        torch.testing.assert_close(stored[f"{name}.running_var"], flat.var(1), rtol=1e-10, atol=1e-10)


def test_sequential_equals_the_whole_set_at_once(net: aw.Supernet) -> None:
    data, batches = sorted_batches()
    aw.calibrate(net, batches, [0.5], sequential=True)
    stored = dict(net.statistics[net.config(0.5)])
    whole = {name: value.clone() for name, value in stored.items()}
    aw.calibrate(net, [data], [0.5])
    at_once = net.statistics[net.config(0.5)]
    for name, value in whole.items():
        torch.testing.assert_close(value, at_once[name], rtol=1e-5, atol=1e-5)


def test_batches_in_any_order_give_the_same_first_layer(net: aw.Supernet) -> None:
    _, batches = sorted_batches()
    aw.calibrate(net, batches, [0.5])
    first = net.statistics[net.config(0.5)]["1.running_var"].clone()
    aw.calibrate(net, batches[::-1], [0.5])
    torch.testing.assert_close(first, net.statistics[net.config(0.5)]["1.running_var"], rtol=1e-12, atol=1e-12)


def test_only_the_asked_number_of_images_counts(net: aw.Supernet) -> None:
    data, batches = sorted_batches()
    aw.calibrate(net, batches, [0.5], images=20)
    first = net.statistics[net.config(0.5)]["1.running_mean"].clone()
    aw.calibrate(net, [data[:20]], [0.5])
    torch.testing.assert_close(first, net.statistics[net.config(0.5)]["1.running_mean"], rtol=1e-12, atol=1e-12)


def test_nothing_else_changes_even_when_the_loader_fails(net: aw.Supernet) -> None:
    def failing() -> Iterator[Tensor]:
        yield torch.randn(4, 2, 8, 8).double()
        raise RuntimeError("disk on fire")

    for width in (0.5, 1.0):
        subnet = net.subnet(width)
        subnet.train()
        subnet.get_submodule("0").eval()
        before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
        modes = [module.training for module in subnet.modules()]
        random = torch.get_rng_state()
        with pytest.raises(RuntimeError, match="on fire"):
            aw.calibrate(net, failing(), [width])
        random_after = torch.get_rng_state()
        assert [module.training for module in subnet.modules()] == modes
        assert not any(module._forward_hooks for module in subnet.modules())
        for name, tensor in net.model.state_dict().items():
            assert torch.equal(tensor, before[name])
        if width == 1.0:
            continue
        with pytest.raises(UncalibratedError):
            subnet.eval()(torch.randn(1, 2, 8, 8).double())
        del random, random_after


def test_an_uncalibrated_width_names_the_calibrated_ones(net: aw.Supernet) -> None:
    x = torch.randn(8, 2, 8, 8).double()
    with pytest.raises(UncalibratedError, match=r"width 0\.5 has no batch-norm statistics; calibrated: none"):
        net.subnet(0.5).eval()(x)
    aw.calibrate(net, [x], [0.25, 0.5])
    net.subnet(0.5).eval()(x)
    with pytest.raises(UncalibratedError, match=r"width 0\.75 has no .* calibrated: 0\.25, 0\.5"):
        aw.evaluate(net, [(x, torch.zeros(8).long())], 0.75)
    with pytest.raises(UncalibratedError, match=r"0\.75"):
        net.extract(0.75)


def test_statistics_are_stale_once_a_weight_has_changed(net: aw.Supernet) -> None:
    x = torch.randn(8, 2, 8, 8).double()
    aw.calibrate(net, [x], [0.5])
    with torch.no_grad():
        net.model.get_parameter("7.bias").add_(1)
    with pytest.raises(UncalibratedError, match="from before the weights changed"):
        net.subnet(0.5).eval()(x)


def test_widths_keep_their_statistics_apart(net: aw.Supernet) -> None:
    x = torch.randn(8, 2, 8, 8).double()
    own = {name: buffer.clone() for name, buffer in net.model.named_buffers()}
    aw.calibrate(net, [x], [0.25, 0.5])
    quarter = {name: value.clone() for name, value in net.statistics[net.config(0.25)].items()}
    for _ in range(3):
        net.subnet(0.5).train()(x * 100).sum().backward()
    aw.calibrate(net, [x * 7], [0.5])
    for name, value in net.statistics[net.config(0.25)].items():
        assert torch.equal(value, quarter[name])
    for name, buffer in net.model.named_buffers():
        assert torch.equal(buffer, own[name])


@pytest.mark.parametrize("loader", [[], [torch.randn(1, 2, 8, 8).double()[:0]]])
def test_no_data_is_an_error(net: aw.Supernet, loader: list[Tensor]) -> None:
    with pytest.raises(DataError, match="no data"):
        aw.calibrate(net, loader, [0.5])
