"""Training with batch norms in evaluation mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.errors import UncalibratedError

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1)) * 2 + 1
Y = torch.arange(16) % 4


class Handmade(nn.Module):
    """A batch norm that is not a module of torch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1)


def network(norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), norm(32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model[1].running_mean.copy_(torch.randn(32))  # type: ignore[union-attr,operator]
        model[1].running_var.copy_(torch.rand(32) + 0.5)  # type: ignore[union-attr,operator]
    return model


def frozen(model: nn.Sequential) -> aw.Supernet:
    net = aw.Supernet(model, X)
    model.train()
    model[1].eval()
    return net


def by_hand(model: nn.Sequential, k: int, mean: Tensor, variance: Tensor) -> Tensor:
    """Logits of the first `k` channels, normalised by fixed statistics."""
    first, norm, _, last = model
    hidden = F.linear(X, first.weight[:k], first.bias[:k])  # type: ignore[index]
    hidden = (hidden - mean) / (variance + 1e-5).sqrt() * norm.weight[:k] + norm.bias[:k]  # type: ignore[index]
    return F.linear(hidden.relu(), last.weight[:, :k], last.bias)  # type: ignore[index,arg-type]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm, Handmade])
def test_a_width_that_was_not_calibrated_takes_its_part_of_the_running_statistics(norm) -> None:
    model = network(norm)
    net = frozen(model)
    mean, variance = model[1].running_mean[:16].clone(), model[1].running_var[:16].clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        expected = F.cross_entropy(by_hand(model, 16, mean, variance), Y)
        result = aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], distillation=None)
        assert result.losses[1].item() == pytest.approx(expected.item(), abs=1e-6)
        optimizer.step()
    assert torch.equal(model[1].running_mean[:16], mean)  # type: ignore[index]


def test_a_calibrated_width_keeps_its_statistics_while_weights_move() -> None:
    model = network()
    net = frozen(model)
    aw.calibrate(net, [X], [0.5])
    hidden = F.linear(X, model[0].weight[:16], model[0].bias[:16]).detach()  # type: ignore[index]
    mean, variance = hidden.mean(0), hidden.var(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        expected = F.cross_entropy(by_hand(model, 16, mean, variance), Y)
        result = aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], distillation=None)
        assert result.losses[1].item() == pytest.approx(expected.item(), abs=1e-5)
        optimizer.step()
    # The weights have learned to go with these statistics, which evaluation uses too.
    torch.testing.assert_close(net.subnet(0.5).eval()(X), by_hand(model, 16, mean, variance), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.extract(0.5).eval()(X), by_hand(model, 16, mean, variance), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("foreign", ["load", "write", "unfreeze", "never trained"])
def test_fixed_statistics_are_stale_after_any_other_change(foreign) -> None:
    model = network()
    net = frozen(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.5])
    optimizer.step()
    net.subnet(0.5).eval()(X)
    width = 0.5
    if foreign == "load":
        model.load_state_dict(network().state_dict())
    elif foreign == "write":
        with torch.no_grad():
            model[0].weight.mul_(2)  # type: ignore[operator,union-attr]
    elif foreign == "unfreeze":
        model.train()
        aw.sandwich_step(net, X, Y, widths=[1.0, 0.5])
        optimizer.step()
    else:
        width = 0.25
    with pytest.raises(UncalibratedError):
        net.subnet(width).eval()(X)
    aw.calibrate(net, [X], [width])
    net.subnet(width).eval()(X)


def test_a_norm_that_is_frozen_again_takes_the_statistics_of_then() -> None:
    model = network()
    net = frozen(model)
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.5])
    model.train()
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.5])
    model[1].eval()
    expected = by_hand(model, 16, model[1].running_mean[:16], model[1].running_var[:16])  # type: ignore[index]
    result = aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], distillation=None)
    assert result.losses[1].item() == pytest.approx(F.cross_entropy(expected, Y).item(), abs=1e-6)


def test_one_frozen_norm_among_others_needs_calibration() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    net = aw.Supernet(model, X)
    model.train()
    model[1].eval()
    for _ in range(2):
        aw.sandwich_step(net, X, Y, widths=[1.0, 0.5])
    with pytest.raises(UncalibratedError):
        net.subnet(0.5).eval()(X)


def test_only_the_head_trains() -> None:
    # Everything in evaluation mode but the last layer, as for a linear probe.
    model = network()
    net = aw.Supernet(model, X)
    model.eval()
    model[3].train()
    expected = by_hand(model, 16, model[1].running_mean[:16], model[1].running_var[:16])  # type: ignore[index]
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], distillation=None)
    result = aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], distillation=None)
    assert result.losses[1].item() == pytest.approx(F.cross_entropy(expected, Y).item(), abs=1e-6)


def test_a_network_in_evaluation_mode_is_refused() -> None:
    net = aw.Supernet(network().eval(), X)
    with pytest.raises(UncalibratedError, match=r"net\.model\.train\(\)"):
        aw.sandwich_step(net, X, Y, widths=[1.0, 0.5])


def test_dropout_alone_in_training_mode_is_no_training() -> None:
    model = nn.Sequential(*network(), nn.Dropout(0.5))
    net = aw.Supernet(model, X)
    model.eval()
    net.subnet(0.5).eval()[4].train()  # type: ignore[index]
    with pytest.raises(UncalibratedError):
        net.subnet(0.5)(X)


def test_trained_parts_of_the_running_statistics_are_those_of_share_statistics() -> None:
    model = network()
    net = frozen(model)
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.5])
    trained = net.subnet(0.5).eval()(X)
    share_statistics(net, [0.5])
    torch.testing.assert_close(net.subnet(0.5).eval()(X), trained)


def test_frozen_batch_norm_of_torchvision_takes_its_part() -> None:
    torchvision = pytest.importorskip("torchvision")
    plain = network()
    fixed = torchvision.ops.FrozenBatchNorm2d(32)
    fixed.load_state_dict(plain[1].state_dict())
    first = nn.Conv2d(6, 32, 1)
    with torch.no_grad():
        first.weight.copy_(plain[0].weight[:, :, None, None])  # type: ignore[index]
        first.bias.copy_(plain[0].bias)  # type: ignore[arg-type,union-attr]
    images = X[:, :, None, None]
    net = aw.Supernet(nn.Sequential(first, fixed, nn.ReLU(), nn.Flatten(), plain[3]).train(), images)
    assert net.elastic_share == 1.0
    expected = by_hand(plain, 16, fixed.running_mean[:16], fixed.running_var[:16])
    result = aw.sandwich_step(net, images, Y, widths=[1.0, 0.5], distillation=None)
    assert result.losses[1].item() == pytest.approx(F.cross_entropy(expected, Y).item(), abs=1e-6)
