"""One sandwich step: what it adds to the gradients, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import TrainingError, WidthError
from anywidth.training import parameter_groups, soft_cross_entropy
from anywidth.widths import WidthSampler


def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(16, 16, 3), nn.Flatten(),
        nn.Linear(256, 5),
    ).double()  # fmt: skip


@pytest.fixture
def net() -> aw.Supernet:
    return aw.Supernet(model(), torch.randn(2, 1, 8, 8).double())


X, Y = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double(), torch.tensor([0, 1, 2, 3, 4, 0])


def gradients(net: aw.Supernet) -> list[Tensor]:
    return [p.grad.clone() for p in net.model.parameters() if p.grad is not None]


def test_gradients_are_the_sum_of_each_width_alone(net: aw.Supernet) -> None:
    net.model.get_submodule("3").p = 0.0  # type: ignore[assignment]
    net.model.train()
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.25, 0.6])
    together = gradients(net)
    net.model.zero_grad()
    teacher = net.model(X)
    F.cross_entropy(teacher, Y).backward()
    for width in (0.25, 0.6):
        dense = net.extract(width, calibrated=False).train()
        soft_cross_entropy(dense(X), teacher).backward()
        for whole, part in zip(net.model.parameters(), dense.parameters(), strict=True):
            index = tuple(slice(size) for size in part.shape)
            if whole.dim() == 2:  # the flattened features of the first channels
                index = (slice(None), slice(part.shape[1]))
            assert whole.grad is not None
            assert part.grad is not None
            whole.grad[index] += part.grad
    for a, b in zip(together, gradients(net), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_students_do_not_see_the_labels(net: aw.Supernet) -> None:
    net.model.train()
    torch.manual_seed(0)
    first = aw.sandwich_step(net, X, Y, widths=[1.0, 0.25, 0.5])
    torch.manual_seed(0)
    other = aw.sandwich_step(net, X, (Y + 1) % 5, widths=[1.0, 0.25, 0.5])
    assert first.losses[0] != other.losses[0]
    assert torch.equal(first.losses[1:], other.losses[1:])
    torch.manual_seed(0)
    labels = aw.sandwich_step(net, X, (Y + 1) % 5, widths=[1.0, 0.25, 0.5], distillation=None)
    assert (labels.losses[1:] != other.losses[1:]).all()


def test_the_teacher_gets_no_gradient_from_its_students(net: aw.Supernet) -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    loss = soft_cross_entropy(student, teacher)
    loss.backward()
    assert teacher.grad is None
    wanted = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, wanted)


def test_dropout_rests_in_students_only(net: aw.Supernet) -> None:
    net.model.train()
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.25])
    assert net.model.get_submodule("3").training
    assert not net.subnet(0.25).get_submodule("3").training
    assert net.subnet(0.25).get_submodule("1").training


def test_scale_accumulates_like_a_larger_batch_of_losses(net: aw.Supernet) -> None:
    net.model.train().get_submodule("3").p = 0.0  # type: ignore[assignment]
    aw.sandwich_step(net, X, Y, widths=[1.0, 0.25])
    whole = gradients(net)
    net.model.zero_grad()
    for _ in range(4):
        aw.sandwich_step(net, X, Y, widths=[1.0, 0.25], scale=0.25)
    for a, b in zip(whole, gradients(net), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_narrow_training_leaves_the_rest_alone(net: aw.Supernet) -> None:
    net.model.train()
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
    F.cross_entropy(net.subnet(0.25).train()(X), Y).backward()
    optimizer.step()
    after = net.model.state_dict()
    assert not torch.equal(after["0.weight"][:8], before["0.weight"][:8])
    assert torch.equal(after["0.weight"][8:], before["0.weight"][8:])
    assert torch.equal(after["4.weight"][8:], before["4.weight"][8:])
    assert torch.equal(after["4.weight"][:, 8:], before["4.weight"][:, 8:])
    assert torch.equal(after["6.weight"][:, 128:], before["6.weight"][:, 128:])
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert torch.equal(after["1.num_batches_tracked"], before["1.num_batches_tracked"])


def test_a_loss_that_is_not_finite_names_the_width(net: aw.Supernet) -> None:
    def broken(student: Tensor, teacher: Tensor) -> Tensor:
        return soft_cross_entropy(student, teacher) * float("nan")

    with pytest.raises(TrainingError, match=r"not finite at width .*; the weights have not been updated"):
        aw.sandwich_step(net, X, Y, widths=[1.0, 0.25], distillation=broken)


def test_autocast_and_a_backward_of_ones_own(net: aw.Supernet) -> None:
    net = aw.Supernet(model().float(), torch.randn(2, 1, 8, 8))
    scales = []

    def backward(loss: Tensor) -> None:
        scales.append(loss.dtype)
        (loss * 128).backward()

    with torch.autocast("cpu", torch.bfloat16):
        aw.sandwich_step(net, X.float(), Y, backward=backward)
    assert len(scales) == 4
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.model.parameters())


@pytest.mark.parametrize("widths", [0, 1, True, [], "0.5", [2.0]])
def test_bad_widths_are_refused(net: aw.Supernet, widths: object) -> None:
    with pytest.raises(WidthError):
        aw.sandwich_step(net, X, Y, widths=widths)  # type: ignore[arg-type]


def test_random_widths_come_from_their_own_generator(net: aw.Supernet) -> None:
    first = aw.sandwich_step(net, X, Y, sampler=WidthSampler(0.25, seed=5)).configs
    torch.manual_seed(99)
    second = aw.sandwich_step(net, X, Y, sampler=WidthSampler(0.25, seed=5)).configs
    assert first == second
    assert first[0] == net.config(1.0)
    assert first[1] == net.config(0.25)


def test_any_optimizer_trains_every_width(net: aw.Supernet) -> None:
    net.model.train()
    optimizer = torch.optim.AdamW(parameter_groups(net.model, 1e-2), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(aw.sandwich_step(net, X, Y).losses.mean())
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_decay_spares_depthwise_convolutions_norms_and_biases() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), shared, shared)
    decayed, rest = parameter_groups(net, 0.1)
    assert {id(p) for p in decayed["params"]} == {id(net[1].weight), id(shared.weight)}
    assert len(decayed["params"]) + len(rest["params"]) == len(list(net.parameters()))
