"""Distilled widths drop nothing, whatever function drops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.training import Execution, soft_cross_entropy
from anywidth.training.compiled import CompiledSubnets

X = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 3


def beit_drop_path(x: Tensor, probability: float, training: bool) -> Tensor:
    """As in transformers."""
    if not training:
        return x
    keep = 1 - probability
    mask = keep + torch.rand((x.shape[0], 1, 1), dtype=x.dtype, device=x.device)
    mask.floor_()
    return x.div(keep) * mask


def row_stochastic_depth(x: Tensor, probability: float, training: bool) -> Tensor:
    """As in torchvision."""
    if not training:
        return x
    noise = torch.empty((x.shape[0], 1, 1)).bernoulli_(1 - probability)
    return x * noise.div_(1 - probability)


FUNCTIONS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "dropout": lambda h, training: F.dropout(h, 0.5, training),
    "dropout in place": lambda h, training: F.dropout(h.clone(), 0.5, training, inplace=True),
    "by keywords": lambda h, training: F.dropout(input=h, p=0.5, training=training),
    "torch": lambda h, training: torch.dropout(h, 0.5, training),
    "alpha": lambda h, training: F.alpha_dropout(h, 0.5, training),
    "feature": lambda h, training: F.dropout1d(h, 0.5, training),
    "feature alpha": lambda h, training: F.feature_alpha_dropout(h, 0.5, training),
    "attention": lambda h, training: F.scaled_dot_product_attention(h, h, h, dropout_p=0.5 if training else 0.0),
    "drop path": lambda h, training: h + beit_drop_path(h, 0.5, training),
    "stochastic depth": lambda h, training: h + row_stochastic_depth(h, 0.5, training),
}


class Net(nn.Module):
    def __init__(self, middle: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.middle = middle
        self.e, self.o = nn.Linear(4, 32), nn.Linear(32, 3)
        if middle == "MultiheadAttention":
            self.inner = nn.MultiheadAttention(32, 4, dropout=0.5, batch_first=True)
        elif middle == "TransformerEncoderLayer":
            self.inner = nn.TransformerEncoderLayer(32, 4, 32, dropout=0.5, batch_first=True)
        elif middle in ("LSTM", "GRU", "RNN"):
            self.inner = getattr(nn, middle)(32, 32, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.e(x)
        if self.middle in FUNCTIONS:
            h = FUNCTIONS[self.middle](h, self.training)
        elif self.middle == "MultiheadAttention":
            h = self.inner(h, h, h, need_weights=False)[0]
        else:
            h = self.inner(h)
            h = h if isinstance(h, Tensor) else h[0]
        return self.o(h.mean(1))


def student_loss(net: aw.Supernet, **options: object) -> float:
    teacher = torch.zeros(8, 3)
    step = aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], teacher=lambda _: teacher, **options)  # type: ignore[arg-type]
    return step.losses[1].item()


@pytest.mark.parametrize("middle", [*FUNCTIONS, "MultiheadAttention", "TransformerEncoderLayer", "LSTM", "GRU", "RNN"])
def test_distilled_widths_drop_nothing(middle) -> None:
    net = aw.Supernet(Net(middle).train(), X)
    assert net.elastic_share > 0
    expected = soft_cross_entropy(net.subnet(0.5).eval()(X), torch.zeros(8, 3)).item()
    assert student_loss(net) == pytest.approx(expected, abs=1e-6)
    assert student_loss(net) == pytest.approx(expected, abs=1e-6)
    # Widths that learn from the labels drop, as the widest does.
    alone = {aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], distillation=None).losses[1].item() for _ in range(3)}
    widest = {aw.sandwich_step(net, X, Y, widths=[1.0, 0.5]).losses[0].item() for _ in range(3)}
    assert len(alone) > 1
    assert len(widest) > 1


def test_compiled_widths_drop_nothing() -> None:
    net = aw.Supernet(Net("dropout").train(), X)
    expected = soft_cross_entropy(net.subnet(0.5).eval()(X), torch.zeros(8, 3)).item()
    compiled = CompiledSubnets(backend="eager")
    for _ in range(2):
        assert student_loss(net, execution=Execution(wrap=compiled)) == pytest.approx(expected, abs=1e-6)
    alone = {
        aw.sandwich_step(net, X, Y, widths=[1.0, 0.5], distillation=None, execution=Execution(wrap=compiled))
        .losses[1]
        .item()
        for _ in range(3)
    }
    assert len(alone) > 1


def test_networks_with_dropout_modules_alone_need_no_watching() -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    assert not aw.Supernet(model, torch.randn(2, 4)).effects.drops


def test_other_random_numbers_stay() -> None:
    from anywidth.training.quiet_dropout import QuietDropout

    with QuietDropout():
        assert torch.rand(8).sum() > 0
        assert set(torch.empty(64).bernoulli_(0.5).tolist()) == {0.0, 1.0}
        assert torch.tensor(1.5).floor() == 1.0
