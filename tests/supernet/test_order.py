"""The order of channels: important ones first, and the same function as before."""

import copy
import warnings
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import NoEffectWarning, WidthError
from anywidth.groups import ChannelGroup
from anywidth.supernet.order import l1_importance
from proofs import assert_close, call
from zoo import Case, cases


def random_order(group: ChannelGroup, parts: Mapping[str, Tensor]) -> Tensor:
    return torch.rand(group.blocks, generator=torch.Generator().manual_seed(len(group.name)))


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
@pytest.mark.parametrize("order", ["l1", random_order], ids=["l1", "random"])
def test_the_function_stays_the_same(case: Case, order: object) -> None:
    model, x = case.model(), case.example(1)
    with torch.no_grad():
        before = call(model, x)
    keys = list(model.state_dict())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(model, case.example(), divisor=1, order=order)
    with torch.no_grad():
        assert_close(call(net.model, x), before, 1e-10)
    assert list(net.model.state_dict()) == keys


def test_the_first_channels_are_the_important_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 4, 1))
    plain = copy.deepcopy(model)
    model(torch.randn(8, 3, 5, 5))
    net = aw.Supernet(model, torch.randn(1, 3, 5, 5), order="l1")
    (group,) = net.analysis.elastic
    made, read = model[0].weight.flatten(1), model[3].weight.movedim(1, 0).flatten(1)
    parts = {"0.weight[0]": made, "1.weight[0]": model[1].weight[:, None], "3.weight[1]": read}
    scores = l1_importance(group, parts)
    assert bool((scores[:-1] >= scores[1:]).all())
    assert not torch.equal(plain[0].weight, model[0].weight)
    assert torch.equal(plain[0].weight.sum((1, 2, 3)).sort()[0], model[0].weight.sum((1, 2, 3)).sort()[0])


def test_a_function_gets_every_parameter_by_unit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1))
    seen = {}

    def largest_bias_first(group: ChannelGroup, parts: Mapping[str, Tensor]) -> Tensor:
        seen.update({name: tuple(part.shape) for name, part in parts.items()})
        return parts["0.bias[0]"][:, 0]

    aw.Supernet(model, torch.randn(1, 3, 8, 8), order=largest_bias_first)
    assert seen == {
        "0.weight[0]": (16, 27), "0.bias[0]": (16, 1), "1.weight[0]": (16, 9), "1.bias[0]": (16, 1),
        "2.weight[1]": (16, 4),
    }  # fmt: skip
    assert bool((model[0].bias[:-1] >= model[0].bias[1:]).all())


class ByPosition(nn.Module):
    """Two convolutions, and a table by channel number between them that no parameter knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x * torch.arange(x.shape[1]).view(-1, 1, 1))


def test_channels_that_cannot_change_places_keep_their_order() -> None:
    torch.manual_seed(0)
    model = ByPosition()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(NoEffectWarning, match="first cannot be permuted"):
        net = aw.Supernet(model, torch.randn(2, 3, 4, 4), order="l1")
    assert net.analysis.elastic
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


class InTraining(ByPosition):
    """Uses the table in training only, or for large batches only."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.training if self.when == "training" else len(x) > 2:
            h = h * torch.arange(h.shape[1]).view(-1, 1, 1)
        return self.second(h)


class OneStorage(nn.Module):
    """Two parameters in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.c.weight.data = self.b.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.a(x).relu()).relu()).relu())


@pytest.mark.parametrize(
    ("kind", "x"),
    [
        (lambda: InTraining("training"), torch.randn(2, 3, 4, 4)),
        (lambda: InTraining("large"), torch.randn(2, 3, 4, 4)),
        (OneStorage, torch.randn(3, 6)),
    ],
    ids=["training", "large", "storage"],
)
def test_a_model_that_an_order_would_change_stays_as_it_was(kind, x) -> None:
    torch.manual_seed(0)
    model = kind().train()
    inputs = [x, torch.cat([x, x])]
    before = [model(each) for each in inputs]
    with pytest.warns(NoEffectWarning, match="cannot be permuted"):
        aw.Supernet(model, x, divisor=1, order="l1")
    torch.testing.assert_close([model(each) for each in inputs], before)


def test_gradients_change_places_with_their_parameters() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 5)), torch.randn(3, 6)
    model.eval()(x).square().sum().backward()
    aw.Supernet(model.train(), x, divisor=1, order="l1")
    found = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    model.eval()(x).square().sum().backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("l2", "order is 'l2'; give 'l1'"),
        (lambda group, parts: torch.ones(3), r"order gave \(3,\) numbers for the 16 blocks of group '0'"),
        (lambda group, parts: torch.full((16,), torch.nan), "not finite"),
    ],
)
def test_refuses(order: object, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1))
    with pytest.raises(WidthError, match=message):
        aw.Supernet(model, torch.randn(1, 3, 8, 8), order=order)
