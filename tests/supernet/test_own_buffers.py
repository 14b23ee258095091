"""Buffers that forwards write: every width has its own values, and all share counters."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnywidthError, UncalibratedError, WidthError

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)) + 1


class Centre(nn.Module):
    """Subtracts a running mean, which it updates in place or by assignment."""

    def __init__(self, how: str = "in place") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.a, self.a2, self.b = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(32, 5)
        self.register_buffer("mean", torch.ones(32))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.a(x), self.a2(x)], 1)
        if self.training:
            new = 0.5 * self.mean + 0.5 * h.detach().mean(0)
            if self.how == "in place":
                self.mean.copy_(new)
                self.steps += 1
            else:
                self.mean = new
                self.steps = self.steps + 1
        return self.b((h - self.mean).relu())


class Annealed(nn.Module):
    """Lowers a factor and counts steps in plain attributes, and keeps a size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 5)
        self.factor, self.steps, self.size = 1.5, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        if self.training:
            self.factor *= 0.9
            self.steps += 1
        self.size = h.shape[1]
        return self.b(h * self.factor) + self.steps


@pytest.mark.parametrize("widths", [[1.0, 0.5, 0.25], [0.5, 0.25], [0.25]])
def test_numbers_that_a_forward_changes_are_shared_and_count_steps(widths: list[float]) -> None:
    model, y = Annealed().train(), torch.zeros(8, dtype=torch.long)
    net = aw.Supernet(model, X, divisor=1)
    assert net.effects.numbers == ("factor", "steps")
    for step in range(1, 4):
        wanted = nn.functional.cross_entropy(_at(model, widths[-1], step), y).detach()
        result = aw.sandwich_step(net, X, y, widths=widths, distillation=None)
        torch.testing.assert_close(result.losses[-1], wanted)
        assert (model.steps, model.factor) == (step, pytest.approx(1.5 * 0.9**step))
    subnet = net.subnet(0.25)
    subnet(X)
    assert (model.steps, subnet.steps) == (4, 4)
    assert model.factor == subnet.factor
    assert subnet.size == 4
    torch.testing.assert_close(net.subnet(0.5).eval()(X), net.extract(0.5).eval()(X))


def _at(model: Annealed, width: float, step: int) -> Tensor:
    """The output of a width after so many steps, computed by hand."""
    channels = int(16 * width)
    h = model.a(X)[:, :channels].tanh() * 1.5 * 0.9**step
    return h @ model.b.weight[:, :channels].T + model.b.bias + step


POSITIONS = [*range(8), *range(16, 24)]
HOW = pytest.mark.parametrize("how", ["in place", "assigned"])


def mean_of(model: Centre, times: int = 1) -> Tensor:
    """The running mean of width 0.5 after so many passes with the same weights."""
    h = torch.cat([model.a(X)[:, :8], model.a2(X)[:, :8]], 1).detach().mean(0)
    return 0.5**times + (1 - 0.5**times) * h


@HOW
def test_a_width_moves_its_own_value(how) -> None:
    model = Centre(how)
    net = aw.Supernet(model, X, divisor=1)
    subnet = net.subnet(0.5).train()
    for times in (1, 2):
        subnet(X)
        torch.testing.assert_close(subnet.mean, mean_of(model, times))
        assert subnet.steps == times
    assert torch.equal(model.mean, torch.ones(32))  # type: ignore[arg-type]
    assert model.steps == 2
    subnet.eval()(X)
    dense = net.extract(0.5)
    torch.testing.assert_close(dense.mean, mean_of(model, 2))
    assert dense.steps == 2
    torch.testing.assert_close(dense.eval()(X), subnet(X))


@HOW
def test_a_width_that_has_not_trained_follows_the_full_network(how) -> None:
    model = Centre(how)
    net = aw.Supernet(model, X, divisor=1)
    subnet = net.subnet(0.5).eval()
    with torch.no_grad():
        subnet(X)
        model.train()(X)
        subnet(X)
    torch.testing.assert_close(subnet.mean, model.mean[POSITIONS])  # type: ignore[index]
    torch.testing.assert_close(net.extract(0.5).mean, model.mean[POSITIONS])  # type: ignore[index]


@HOW
def test_a_step_moves_the_full_network_as_training_alone(how) -> None:
    model = Centre(how).train()
    alone = copy.deepcopy(model)
    net = aw.Supernet(model, X, divisor=1)
    for _ in range(3):
        alone(X)
        # The second full width behaves like every other of the narrower ones, and stores nothing.
        aw.sandwich_step(net, X, torch.zeros(8, dtype=torch.long), widths=[1.0, 0.5, 1.0])
    torch.testing.assert_close(model.mean, alone.mean)
    assert model.steps == 3


class WarmUp(nn.Module):
    """Scales its output by the share of a warm-up that is over."""

    def __init__(self, how: str = "in place") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.how == "in place":
            self.steps += 1
        elif self.training:
            self.steps = self.steps + 1
        return self.c(self.b(self.a(x).relu()).relu()) * (self.steps / 10).clamp(max=1)


@HOW
@pytest.mark.parametrize("nested", [(), (0.25, 0.5, 1.0)])
def test_a_step_counts_once_for_all_widths(how, nested) -> None:
    model = WarmUp(how).train()
    net = aw.Supernet(model, X, divisor=1, nested=nested) if nested else aw.Supernet(model, X, divisor=1)
    targets = torch.arange(8) % 5
    for step in range(1, 4):
        if nested:
            losses = aw.nested_step(net, X, targets, distillation=None).losses
            widths = list(reversed(nested))
        else:
            widths = [1.0, 0.5, 1.0, 0.25]
            losses = aw.sandwich_step(net, X, targets, widths=widths, distillation=None).losses
        assert model.steps == step
        for width, loss in zip(widths, losses, strict=True):
            dense = net.extract(width)
            wanted = F.cross_entropy(dense.eval()(X), targets)
            torch.testing.assert_close(loss, wanted.detach())
    for width in (0.25, 0.75 if not nested else 0.5):
        assert net.extract(width).steps == 3
        torch.testing.assert_close(net.subnet(width).eval()(X), net.extract(width).eval()(X))


@HOW
def test_the_same_subnet_serves_all_steps(how) -> None:
    model = Centre(how).train()
    net = aw.Supernet(model, X, divisor=1)
    subnet = net.subnet(0.5)
    for _ in range(2):
        model(X)
        subnet.train()(X)
    assert net.subnet(0.5) is subnet


def test_own_values_survive_a_move_and_another_subnet() -> None:
    model = Centre()
    net = aw.Supernet(model, X, divisor=1)
    net.subnet(0.5).train()(X)
    model.double()
    subnet = net.subnet(0.5)
    assert subnet.mean.dtype == torch.float64
    torch.testing.assert_close(subnet.mean, mean_of(model.float()).double())  # type: ignore[arg-type]


def test_own_values_are_saved(tmp_path) -> None:
    model = Centre()
    net = aw.Supernet(model, X, divisor=1)
    net.subnet(0.5).train()(X)
    again = aw.load(net.save(tmp_path), Centre())
    torch.testing.assert_close(again.extract(0.5).mean, mean_of(model))
    torch.testing.assert_close(again.extract(0.25).mean, torch.ones(8))


class Memory(nn.Module):
    """Keeps what it saw last, in evaluation mode as well."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 5)
        self.register_buffer("state", torch.zeros(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        y = self.b(h - self.state)
        new = self.state + 0.5 * h.detach()
        if self.how == "in place":
            self.state.copy_(new)
        else:
            self.state = new
        return y


@HOW
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_width_keeps_what_it_writes_in_evaluation_mode(how, grad) -> None:
    net = aw.Supernet(Memory(how).eval(), X, divisor=1)
    subnet, dense = net.subnet(0.5), net.extract(0.5)
    with grad():
        for _ in range(3):
            torch.testing.assert_close(subnet(X), dense(X))
            net.model(X + 1)
    torch.testing.assert_close(net.extract(0.5).state, dense.state)


class Handmade(nn.Module):
    """A batch norm that is not a module of torch."""

    def __init__(self, channels: int, call: str = "functional") -> None:
        super().__init__()
        self.call = call
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        moments = self.running_mean, self.running_var
        if self.call == "functional":
            return F.batch_norm(
                x, *moments, weight=self.weight, bias=self.bias, training=self.training, momentum=0.1, eps=1e-5
            )
        return torch.batch_norm(x, self.weight, self.bias, *moments, self.training, 0.1, 1e-5, False)


class Stubborn(nn.BatchNorm1d):
    """Stores statistics whatever `track_running_stats` says."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )


def normed(norm) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), norm(32), nn.ReLU(), nn.Linear(32, 32), norm(32), nn.Linear(32, 5))


NORMS = pytest.mark.parametrize(
    "norm", [Handmade, lambda c: Handmade(c, "torch"), Stubborn], ids=["functional", "torch", "stubborn"]
)


@NORMS
def test_batch_norms_by_hand_are_like_those_of_torch(norm) -> None:
    models = [normed(norm), normed(nn.BatchNorm1d)]
    nets = [aw.Supernet(model.train(), X) for model in models]
    targets = torch.arange(8) % 5
    losses = []
    for net in nets:
        optimizer = torch.optim.SGD(net.model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            losses.append(aw.sandwich_step(net, X, targets, widths=[1.0, 0.25, 0.5, 1.0]).losses)
            optimizer.step()
    torch.testing.assert_close(torch.stack(losses[:3]), torch.stack(losses[3:]))
    for name in ("1.running_mean", "4.running_var"):
        torch.testing.assert_close(models[0].state_dict()[name], models[1].state_dict()[name])
    for net in nets:
        with pytest.raises(UncalibratedError):
            net.subnet(0.25).eval()(X)
        aw.calibrate(net, [X[:3], X[3:]], [0.25, 1.0])
    for width in (0.25, 1.0):
        ours, theirs = (net.subnet(width).eval()(X) for net in nets)
        torch.testing.assert_close(ours, theirs)
        ours, theirs = (net.extract(width).eval()(X) for net in nets)
        torch.testing.assert_close(ours, theirs)


@NORMS
def test_training_leaves_calibrated_statistics_alone(norm) -> None:
    net = aw.Supernet(normed(norm), X)
    aw.calibrate(net, [X], [0.5])
    before = net.subnet(0.5).eval()(X)
    net.subnet(0.5).train()(X)
    torch.testing.assert_close(net.subnet(0.5).eval()(X), before, rtol=0, atol=0)


def test_batch_norms_by_hand_are_fresh_in_an_uncalibrated_extraction() -> None:
    net = aw.Supernet(normed(Handmade).train(), X)
    net.model(X)
    dense = net.extract(0.5, calibrated=False)
    assert torch.equal(dense[1].running_mean, torch.zeros(16))  # type: ignore[index]
    assert torch.equal(dense[1].running_var, torch.ones(16))  # type: ignore[index]


def test_calibrated_statistics_of_batch_norms_by_hand_are_saved(tmp_path) -> None:
    net = aw.Supernet(normed(Handmade), X)
    aw.calibrate(net, [X], [0.5])
    again = aw.load(net.save(tmp_path), normed(Handmade))
    torch.testing.assert_close(again.subnet(0.5).eval()(X), net.subnet(0.5).eval()(X))


def test_what_batch_norms_by_hand_cannot_do_is_refused() -> None:
    with pytest.raises(WidthError, match="1.running_mean"):
        aw.Supernet(normed(Handmade), X, switches=(0.5, 1.0))
    net = aw.Supernet(normed(Handmade), X)
    with pytest.raises(AnywidthError, match="sequential=False"):
        aw.calibrate(net, [X], [0.5], sequential=True)


class Blind(Handmade):
    """Normalises by hand in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        return (x - self.running_mean) / (self.running_var + 1e-5).sqrt() * self.weight + self.bias


def test_statistics_that_calibration_cannot_see_are_refused() -> None:
    net = aw.Supernet(normed(Blind), X)
    with pytest.raises(AnywidthError, match="1.running_mean"):
        aw.calibrate(net, [X], [0.5])
