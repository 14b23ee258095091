"""The sandwich step: what every width learns from, and what comes of its gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import anywidth as aw
from anywidth.core.errors import TrainingError, WidthError
from anywidth.core.inputs import normalise_inputs
from anywidth.models import channels_last_
from anywidth.supernet import gradients_together
from anywidth.supernet.subnet_parameter import own_gradient
from anywidth.tasks import logits_of
from anywidth.training import Execution, SandwichResult, follow_mode, soft_cross_entropy
from anywidth.widths import WidthSampler
from proofs import assert_close
from zoo import Case, cases, find

SupernetOf = Callable[[Case], aw.Supernet]
Gradients = dict[str, Tensor]


@pytest.fixture
def net(supernet_of: SupernetOf) -> aw.Supernet:
    net = supernet_of(find("concat"))
    net.model.train()
    return net


@pytest.fixture
def x() -> Tensor:
    return find("concat").example(1)


@pytest.fixture
def y() -> Tensor:
    return torch.tensor([2, 0])


def gradients(net: aw.Supernet) -> Gradients:
    """The gradients of a supernet, which is left without."""
    found = {name: p.grad.clone() for name, p in net.model.named_parameters() if p.grad is not None}
    net.model.zero_grad(set_to_none=True)
    return found


def assert_same(got: Gradients, wanted: Gradients, tolerance: float = 1e-12) -> None:
    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        assert_close(gradient, wanted[name], tolerance)


def added(*parts: Gradients) -> Gradients:
    total: Gradients = {}
    for part in parts:
        for name, gradient in part.items():
            total[name] = total.get(name, torch.zeros_like(gradient)) + gradient
    return total


# -- what is learnt ----------------------------------------------------------------------------------------


def test_gradients_are_the_sum_of_those_of_every_width(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    net.sampler = WidthSampler(0.25, seed=3)
    result = aw.sandwich_step(net, x, y, widths=5)
    together = gradients(net)
    widths = WidthSampler(0.25, seed=3).sandwich(5)
    assert result.configs == tuple(net.config(width) for width in widths)

    logits = net.model(x)
    losses = [F.cross_entropy(logits, y)]
    losses[0].backward()
    apart = [gradients(net)]
    for width in widths[1:]:
        loss = soft_cross_entropy(net.subnet(width).train()(x), logits.detach())
        loss.backward()
        apart.append(gradients(net))
        losses.append(loss)
    assert_same(together, added(*apart))
    assert_close(result.losses, torch.stack(losses), 1e-12)
    assert_close(result.output, logits, 1e-12)
    assert not result.losses.requires_grad
    assert not result.output.requires_grad


def test_students_see_no_labels(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    """Other labels change the gradient by what they change it at the widest alone."""
    results = []
    for labels in (y, y.flip(0)):
        aw.sandwich_step(net, x, labels, widths=[1.0, 0.25, 0.5])
        all_widths = gradients(net)
        aw.sandwich_step(net, x, labels, widths=[1.0])
        results.append(added(all_widths, {n: -g for n, g in gradients(net).items()}))
    assert_same(*results)
    assert any(gradient.abs().max() > 1e-6 for gradient in results[0].values())


def test_without_distillation_all_learn_from_labels(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    result = aw.sandwich_step(net, x, y, widths=[1.0, 0.25, 0.5], distillation=None)
    together = gradients(net)
    apart = []
    for width in (1.0, 0.25, 0.5):
        F.cross_entropy(net.subnet(width).train()(x), y).backward()
        apart.append(gradients(net))
    assert_same(together, added(*apart))
    assert len(result.losses) == 3


def test_no_gradient_reaches_the_teacher(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    """Even with a distillation that would let it."""

    def careless(student: Tensor, teacher: Tensor) -> Tensor:
        assert not teacher.requires_grad
        return (student - teacher).square().sum()

    aw.sandwich_step(net, x, y, widths=[1.0, 0.5], distillation=careless)
    together = gradients(net)
    logits = net.model(x)
    F.cross_entropy(logits, y).backward()
    (net.subnet(0.5).train()(x) - logits.detach()).square().sum().backward()
    assert_same(together, gradients(net))


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
def test_every_model_can_be_trained(case: Case, supernet_of: SupernetOf) -> None:
    net, x = supernet_of(case), case.example(1)
    net.model.train()
    optimizer = torch.optim.SGD(net.model.parameters(), lr=1e-3, momentum=0.9)
    before = copy.deepcopy(net.model.state_dict())
    for _ in range(2):
        optimizer.zero_grad()
        result = aw.sandwich_step(
            net, x, None, widths=3, loss=lambda out, _: _mean_square(out), distillation=F.mse_loss
        )
        optimizer.step()
        assert torch.isfinite(result.losses).all()
    assert any(not torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def _mean_square(output: Any) -> Tensor:
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    return torch.stack([leaf.square().mean() for leaf in leaves]).sum()


# -- which widths ------------------------------------------------------------------------------------------


def test_labels_are_added_to_the_distillation_of_narrow_widths(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    both = aw.sandwich_step(net, x, y, widths=[1.0, 0.5], label_loss_weight=0.3).losses
    soft = aw.sandwich_step(net, x, y, widths=[1.0, 0.5]).losses
    hard = aw.sandwich_step(net, x, y, widths=[1.0, 0.5], distillation=None).losses
    assert_close(both[0], soft[0])
    assert_close(both[1], soft[1] + 0.3 * hard[1])


def test_the_next_wider_teaches(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    """Whatever the order that the widths are given in."""
    result = aw.sandwich_step(net, x, y, widths=[0.25, 1.0, 0.75, 0.5], teacher="wider")
    together = gradients(net)
    assert result.configs == tuple(net.config(width) for width in (1.0, 0.75, 0.5, 0.25))
    logits = net.model(x)
    F.cross_entropy(logits, y).backward()
    for width in (0.75, 0.5, 0.25):
        teacher, logits = logits.detach(), net.subnet(width).train()(x)
        soft_cross_entropy(logits, teacher).backward()
    assert_same(together, gradients(net))


def test_a_teacher_of_ones_own(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    other = copy.deepcopy(net.model).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    aw.sandwich_step(net, x, y, widths=[1.0, 0.5], teacher=other)
    together = gradients(net)
    assert all(parameter.grad is None for parameter in other.parameters())
    F.cross_entropy(net.model(x), y).backward()
    soft_cross_entropy(net.subnet(0.5).train()(x), other(x)).backward()
    assert_same(together, gradients(net))


def test_losses_are_weighted_by_config(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    weights = {net.config(1.0): 1.0, net.config(0.5): 0.25}
    plain = aw.sandwich_step(net, x, y, widths=[1.0])
    widest = gradients(net)
    both = aw.sandwich_step(net, x, y, widths=[1.0, 0.5])
    narrow = added(gradients(net), {name: -gradient for name, gradient in widest.items()})
    weighted = aw.sandwich_step(net, x, y, widths=[1.0, 0.5], scale=lambda config: 2.0 * weights[config])
    quarter = {name: gradient * 0.5 for name, gradient in narrow.items()}
    assert_same(gradients(net), added({name: 2 * gradient for name, gradient in widest.items()}, quarter), 1e-10)
    assert_close(weighted.losses, both.losses, 1e-10)  # told as they are, not as they count
    assert_close(plain.losses[0], both.losses[0], 1e-10)


def test_samplers_of_one_seed_choose_alike(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    first, second = WidthSampler(0.25, seed=5), WidthSampler(0.25, seed=5)
    for _ in range(3):
        net.sampler = first
        a = aw.sandwich_step(net, x, y)
        torch.rand(5)
        net.sampler = second
        b = aw.sandwich_step(net, x, y)
        assert a.configs == b.configs
        assert len(a.configs) == 4
        assert a.configs[:2] == (net.config(1.0), net.config(0.25))


def test_supernet_has_a_sampler_of_its_own(supernet_of: SupernetOf, x: Tensor, y: Tensor) -> None:
    case = find("concat")
    nets = [aw.Supernet(case.model().train(), case.example(), divisor=2) for _ in range(2)]
    steps = [[aw.sandwich_step(net, x, y).configs for _ in range(3)] for net in nets]
    assert steps[0] == steps[1]
    assert len(set(steps[0])) > 1


def test_exact_widths_of_every_kind_and_in_any_order(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    nonuniform = net.config({"left": 0.5, "*": 0.8})
    result = aw.sandwich_step(net, x, y, widths=[0.25, nonuniform, {"right": 0.3}, 1.0])
    wanted = [net.config(1.0), net.config(0.25), nonuniform, net.config({"right": 0.3})]
    assert list(result.configs) == wanted
    assert_close(result.losses[0], F.cross_entropy(net.model(x), y), 1e-12)


@pytest.mark.parametrize("widths", [1, 0, -3, [], 0.5, True])
def test_wrong_numbers_of_widths(net: aw.Supernet, x: Tensor, y: Tensor, widths: Any) -> None:
    with pytest.raises(WidthError, match="widths"):
        aw.sandwich_step(net, x, y, widths=widths)


def test_widths_are_checked_before_anything_is_learnt(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    with pytest.raises(WidthError, match="0.1 is outside"):
        aw.sandwich_step(net, x, y, widths=[1.0, 0.1])
    assert not gradients(net)


# -- gradient accumulation, precision, other losses --------------------------------------------------------


def test_accumulated_gradients_are_those_of_the_whole_batch(supernet_of: SupernetOf) -> None:
    case = find("chain")  # without batch norm, so that halves of a batch are independent
    net, x, y = supernet_of(case), torch.cat([case.example(1), case.example(2)]), torch.tensor([0, 1, 2, 3])
    net.model.eval()
    widths = [1.0, 0.25, 0.6]
    aw.sandwich_step(net, x, y, widths=widths)
    whole = gradients(net)
    for part in (slice(2), slice(2, None)):
        result = aw.sandwich_step(net, x[part], y[part], widths=widths, scale=0.5)
    assert_same(gradients(net), whole)
    assert_close(result.losses[0], F.cross_entropy(net.model(x[2:]), y[2:]), 1e-12)  # losses are not scaled


def test_own_backward_gets_the_scaled_loss(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    seen = []

    def backward(loss: Tensor) -> None:
        seen.append(float(loss.detach()))
        (loss * 8).backward()

    result = aw.sandwich_step(net, x, y, widths=[1.0, 0.5], backward=backward, scale=0.25)
    assert_close(torch.tensor(seen, dtype=torch.float64), result.losses * 0.25)
    scaled = gradients(net)
    aw.sandwich_step(net, x, y, widths=[1.0, 0.5])
    assert_same(scaled, {name: 2 * gradient for name, gradient in gradients(net).items()})


def test_autocast_to_bfloat16(x: Tensor, y: Tensor) -> None:
    case = find("mobilenet_v3")
    net = aw.Supernet(case.model().float().train(), case.example().float(), divisor=2)
    inputs, labels = torch.randn(8, 3, 32, 32), torch.randint(5, (8,))
    aw.sandwich_step(net, inputs, labels, widths=[1.0, 0.5])
    exact = gradients(net)
    with torch.autocast("cpu", torch.bfloat16):
        result = aw.sandwich_step(net, inputs, labels, widths=[1.0, 0.5])
    assert result.output.dtype == torch.bfloat16
    got = gradients(net)
    assert all(gradient.dtype == torch.float32 for gradient in got.values())
    ours, theirs = (torch.cat([part[name].flatten() for name in exact]) for part in (got, exact))
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.98


def test_own_loss_and_logits_for_own_outputs(supernet_of: SupernetOf) -> None:
    case = find("auxiliary")
    net, x, y = supernet_of(case), case.example(), torch.tensor([1, 3])
    net.model.train()

    def loss(output: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return F.cross_entropy(output[0], labels) + 0.3 * F.cross_entropy(output[1], labels)

    aw.sandwich_step(
        net, x, y, widths=[1.0, 0.5], loss=loss, distillation=soft_cross_entropy, logits=lambda output: output[1]
    )
    together = gradients(net)
    output = net.model(x)
    loss(output, y).backward()
    soft_cross_entropy(net.subnet(0.5).train()(x)[1], output[1]).backward()
    assert_same(together, gradients(net))


def test_teacher_is_detached_from_what_makes_its_logits_too(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    seen = []

    def distillation(student: Tensor, teacher: Tensor) -> Tensor:
        seen.append((student.requires_grad, teacher.requires_grad))
        return (student - teacher).square().sum()

    aw.sandwich_step(net, x, y, widths=[1.0, 0.5], distillation=distillation, logits=lambda out: out / temperature)
    assert seen == [(True, False)]


def test_inputs_of_every_form(supernet_of: SupernetOf) -> None:
    y = torch.tensor([1, 3])
    for name in ("two inputs", "keyword inputs"):
        case = find(name)
        net = supernet_of(case)
        net.model.train()
        result = aw.sandwich_step(net, case.example(), y, widths=[1.0, 0.5])
        assert torch.isfinite(result.losses).all()
        assert net.model.image.weight.grad is not None


# -- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_names_the_width(net: aw.Supernet, x: Tensor, y: Tensor, bad: float) -> None:
    calls = []

    def distillation(student: Tensor, teacher: Tensor) -> Tensor:
        calls.append(student)
        return soft_cross_entropy(student, teacher) * (bad if len(calls) == 2 else 1.0)

    with pytest.raises(TrainingError, match=r"not finite at width 0.6;.*Lower the learning rate"):
        aw.sandwich_step(net, x, y, widths=[1.0, 0.25, 0.6], distillation=distillation)
    with pytest.raises(TrainingError, match=r"at width 1, 0.25;"):
        aw.sandwich_step(net, x * float("nan"), y, widths=[1.0, 0.25])
    result = aw.sandwich_step(net, x * float("nan"), y, widths=[1.0, 0.25], execution=Execution(check_finite=False))
    assert result.losses.isnan().all()


# -- modes -------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Every kind of dropout, each recording whether it was on."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels)
        self.noise = nn.ModuleList(
            [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), StochasticDepth(0.5, "row"), DropPath()]
        )
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        for layer in self.noise:
            x = layer(x)
        return self.head(x.mean((2, 3)))


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1, 1, 1) < 0.5) * 2 if self.training else x


def watch_noise(model: nn.Module, seen: list[list[bool]]) -> None:
    """Records whether the noisy layers of a model are on whenever it runs, its subnets included."""
    model.register_forward_pre_hook(lambda module, _: seen.append([layer.training for layer in module.noise]))


def test_students_have_no_dropout() -> None:
    net = aw.Supernet(Noisy().train(), torch.randn(2, 3, 8, 8), divisor=2)
    seen: list[list[bool]] = []
    watch_noise(net.model, seen)
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    aw.sandwich_step(net, x, y, widths=[1.0, 0.25, 0.5, 1.0])
    assert seen == [[True] * 5, [False] * 5, [False] * 5, [False] * 5]
    assert all(module.training for module in net.model.modules())
    seen.clear()
    aw.sandwich_step(net, x, y, widths=[1.0, 0.25, 1.0], distillation=None)
    assert seen == [[True] * 5] * 3


def test_running_statistics_of_the_widest_move_once_per_step() -> None:
    """Also where every random width rounds to the widest, as in a network of few channels."""
    net = aw.Supernet(Noisy(8).train(), torch.randn(2, 3, 8, 8))
    assert net.subnet(0.25) is net.model
    twin = copy.deepcopy(net.model)
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    for distillation in (soft_cross_entropy, None):
        aw.sandwich_step(net, x, y, widths=4, distillation=distillation)
        twin(x)
        assert_close(net.model.norm.running_mean, twin.norm.running_mean, 1e-6)
        assert_close(net.model.norm.running_var, twin.norm.running_var, 1e-6)
        assert net.model.norm.num_batches_tracked == twin.norm.num_batches_tracked
        assert net.model.norm.momentum == 0.1


def test_error_in_a_forward_leaves_the_modes_of_the_widest() -> None:
    net = aw.Supernet(Noisy(8).train(), torch.randn(2, 3, 8, 8))
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("in the middle")

    net.model.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        aw.sandwich_step(net, x, y, widths=3)
    assert all(module.training for module in net.model.modules())
    assert net.model.norm.momentum == 0.1
    assert net.model.norm.num_batches_tracked is not None


def test_subnets_follow_the_modes_of_the_model() -> None:
    net = aw.Supernet(Noisy().train(), torch.randn(2, 3, 8, 8), divisor=2)
    net.model.head.eval()
    sub = net.subnet(0.5)
    follow_mode(net.model, sub, dropout=True)
    assert [m.training for m in sub.modules()] == [m.training for m in net.model.modules()]
    follow_mode(net.model.eval(), sub, dropout=True)
    assert not any(module.training for module in sub.modules())


def test_result_is_frozen(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    result = aw.sandwich_step(net, x, y, widths=2)
    assert isinstance(result, SandwichResult)
    with pytest.raises(AttributeError):
        result.losses = torch.zeros(2)  # type: ignore[misc]


def own(net: aw.Supernet, width: float) -> list[nn.Parameter]:
    """The parameters of a subnet that are no whole ones of the supernet."""
    whole = {id(parameter) for parameter in net.model.parameters()}
    return [parameter for parameter in net.subnet(width).parameters() if id(parameter) not in whole]


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
def test_gradients_that_move_together_are_the_same(supernet_of: SupernetOf, case: Case) -> None:
    net = supernet_of(case)
    net.model.train()
    call = normalise_inputs(case.example(1))

    def backward(subnet: nn.Module) -> None:
        torch.manual_seed(0)
        logits_of(call.call(subnet)).square().sum().backward()

    subnet = net.subnet(0.5)
    follow_mode(net.model, subnet, dropout=False)
    for _ in range(2):
        backward(subnet)
    wanted = gradients(net)
    for _ in range(2):
        with gradients_together(subnet):
            backward(subnet)
    assert all(own_gradient(parameter) is None for parameter in own(net, 0.5))
    assert_same(gradients(net), wanted)


def test_a_backward_that_fails_leaves_nothing_of_its_width(net: aw.Supernet, x: Tensor) -> None:
    subnet = net.subnet(0.5)
    follow_mode(net.model, subnet, dropout=False)

    def fail() -> None:
        with gradients_together(subnet):
            subnet(x).sum().backward()
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert own(net, 0.5)
    assert all(own_gradient(parameter) is None for parameter in own(net, 0.5))
    # Once more, outside: what failed is not added, and gradients move at once again.
    net.model.zero_grad()
    subnet(x).sum().backward()
    once = gradients(net)
    with gradients_together(subnet):
        subnet(x).sum().backward()
    assert_same(gradients(net), once)


def test_channels_last_changes_nothing_but_the_layout(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    aw.sandwich_step(net, x, y, widths=[1.0, 0.25, 0.5])
    wanted = gradients(net)
    channels_last_(net.model)
    try:
        aw.sandwich_step(net, x, y, widths=[1.0, 0.25, 0.5])
        assert_same(gradients(net), wanted)
        convolution = next(m for m in net.subnet(0.5).modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1)
        assert convolution.weight.stride(1) == 1
    finally:
        net.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def test_options_that_do_not_exist_are_named(net: aw.Supernet, x: Tensor, y: Tensor) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'distil'"):
        aw.sandwich_step(net, x, y, distil=None)  # type: ignore[call-arg]
