"""Batch norms fold where the graph allows it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.export.check import outputs_of
from anywidth.export.fold import fold_batch_norms_
from anywidth.export.functional import make_activations_functional_
from anywidth.export.program import dense_program
from proofs import assert_close, configs
from zoo import Case, find


def trained(model: nn.Module) -> nn.Module:
    """Batch norms as after training, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
    return model.double().eval()


def folded(model: nn.Module, x: Tensor) -> tuple[torch.fx.GraphModule, dict[str, Tensor]]:
    graph = torch.export.export(model, (x,), strict=False).module(check_guards=False)
    return graph, fold_batch_norms_(graph)


def left(graph: torch.fx.GraphModule) -> int:
    return sum("batch_norm" in str(node.target) for node in graph.graph.nodes)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)), (4, 9)),
    "2d": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), (4, 7, 7)),
    "same padding": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)), (4, 7, 7)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6)), (2, 4, 4, 4)),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 7, 7)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (4, 7, 7)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)), (4, 5, 5)),
    "transposed groups": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 5, 5)),
    "transposed 1d": (lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)), (4, 5)),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (4,)),
    "without affine": (lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False)), (4, 3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_behind_a_layer_folds_into_it(name):
    build, shape = LAYERS[name]
    model, x = trained(build()), torch.randn(3, *shape, dtype=torch.float64)
    graph, scales = folded(model, x)
    assert_close(graph(x), model(x), 1e-12)
    assert left(graph) == 0
    own = getattr(model[0], "bias", None) is not None
    names = [name for name, _ in graph.named_parameters()]
    assert names == ["0.weight", "0.weight_folded_bias" if own else "0.bias"]
    assert not list(graph.named_buffers())
    assert_close(graph.get_parameter("0.weight"), model[0].weight * scales["0.weight"], 1e-12)


class Branching(nn.Module):
    """The convolution's output is read by the norm and by the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Twice(nn.Module):
    """One convolution with two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.conv(self.a(self.conv(x))))


class Sequence(nn.Module):
    """A linear layer whose features are last, and a norm over what is second."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class Before(nn.Module):
    """The norm comes first, as in a dense net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class OtherOrder(nn.Module):
    """Listed in another order than called, which is what a pass over modules gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize(
    ("model", "shape", "stay"),
    [(Branching, (4, 3, 3), 1), (Twice, (4, 3, 3), 2), (Sequence, (4, 4), 1), (Before, (4, 3, 3), 1),
     (OtherOrder, (4, 3, 3), 0)],
)  # fmt: skip
def test_a_norm_stays_where_folding_would_be_wrong(model, shape, stay):
    model, x = trained(model()), torch.randn(3, *shape, dtype=torch.float64)
    graph, _ = folded(model, x)
    assert_close(graph(x), model(x), 1e-12)
    assert left(graph) == stay


def test_in_place_activations_stay_where_others_read_what_they_overwrite():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            flat = x.view(-1)
            torch.relu_(flat)  # x is changed through its view
            return x + torch.relu_(x * 1.0)

    model, x = Model().eval(), torch.randn(3, 4)
    graph = torch.export.export(model, (x,)).module(check_guards=False)
    make_activations_functional_(graph)
    targets = [str(node.target) for node in graph.graph.nodes if "relu" in str(node.target)]
    assert targets == ["aten.relu_.default", "aten.relu.default"]
    assert_close(graph(x), model(x), 1e-12)


@pytest.mark.parametrize(
    ("name", "stay"),
    [("residual", 0), ("concat", 1), ("grouped conv", 0), ("flatten into linear", 1), ("shared by two", 2),
     ("transposed", 0), ("1d", 0), ("auxiliary", 0)],
)  # fmt: skip
def test_programs_of_the_zoo_take_any_batch_and_equal_the_subnet(name, stay, supernet_of):
    case: Case = find(name)
    net: aw.Supernet = supernet_of(case)
    config = configs(net)[-1]
    share_statistics(net, [config])
    dense = dense_program(net, config)
    assert left(dense.program.graph_module) == stay
    for batch in (1, 5):
        inputs = dense.inputs.map(lambda t: torch.randn(batch, *t.shape[1:]))  # noqa: B023 - called at once
        for ours, wanted in zip(
            outputs_of(dense.program.module())(inputs), outputs_of(dense.reference)(inputs), strict=True
        ):
            assert_close(ours, wanted, 1e-5)
