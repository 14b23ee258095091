"""MACs are per sample, wherever the batch is, and products of weights do not depend on it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import normalise_inputs
from anywidth.cost import activation_memory
from zoo import find

pytestmark = pytest.mark.filterwarnings("ignore:only .* of the MACs")


def supernet(model: nn.Module, inputs: Any, **settings: Any) -> aw.Supernet:
    return aw.Supernet(model.eval(), inputs, divisor=1, **settings)


def counted(model: nn.Module, inputs: Any) -> int:
    """MACs of all inputs together by torch's own counter."""
    fast = torch.backends.mha.get_fastpath_enabled()  # fused layers, whose products the counter does not see
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            normalise_inputs(inputs).call(copy.deepcopy(model).requires_grad_(False))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


class Last(nn.Module):
    """A recurrent layer and what its last step is worth."""

    def __init__(self, kind: type[nn.RNNBase], batch_first: bool) -> None:
        super().__init__()
        self.layer, self.out = kind(4, 32, batch_first=batch_first), nn.Linear(32, 5)
        self.steps = 1 if batch_first else 0

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0].select(self.steps if x.ndim == 3 else 0, -1))


class Steps(nn.Module):
    """A causal recurrent layer that returns every step, so that a longer input begins with the same results."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.GRU(4, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0])


class Encoder(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.enter(x)))


class Attended(nn.Module):
    """Queries of one length look at keys of another, both with the steps first."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(16, 4), nn.Linear(16, 3)

    def forward(self, query: Tensor, keys: Tensor, hidden: Tensor) -> Tensor:
        return self.out(self.attention(query, keys, keys, key_padding_mask=hidden, need_weights=False)[0])


class Tokens(nn.Module):
    """Attention over (tokens, channels) without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.q(x) @ self.k(x).T).softmax(-1) @ self.v(x))


class Nodes(nn.Module):
    """A graph: edges (2, number) and nodes (number, features) have no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 5)

    def forward(self, edges: Tensor, x: Tensor) -> Tensor:
        adjacent = F.one_hot(edges[0], x.shape[0]).to(x.dtype).T @ F.one_hot(edges[1], x.shape[0]).to(x.dtype)
        return self.b(adjacent @ self.a(x).relu())


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1))


def rows() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 5))


@pytest.mark.parametrize(
    ("build", "shapes", "samples"),
    [
        (images, [(3, 16, 16)], 1),
        (lambda: nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 8, 1)), [(3, 6, 6)], 1),
        (images, [(2, 3, 8, 8)], 2),
        (lambda: nn.Sequential(nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Conv1d(16, 8, 3)), [(4, 12)], 1),
        (lambda: nn.Sequential(nn.Conv3d(2, 16, 3), nn.ReLU(), nn.Conv3d(16, 8, 1)), [(2, 5, 5, 5)], 1),
        (rows, [(7, 4)], 7),
        (rows, [(2, 7, 4)], 2),
        (rows, [(4,)], 1),
        (Tokens, [(10, 4)], 1),
        (lambda: Encoder(batch_first=False), [(7, 2, 4)], 2),
        (lambda: Encoder(batch_first=False), [(1, 6, 4)], 6),
        (lambda: Encoder(batch_first=True), [(3, 7, 4)], 3),
        (lambda: Encoder(batch_first=True), [(1, 7, 4)], 1),
        (lambda: Encoder(batch_first=False), [(7, 4)], 1),
        (Attended, [(7, 2, 16), (9, 2, 16), (2, 9)], 2),
        (Nodes, [(2, 20), (8, 4)], 1),
    ],
)
def test_macs_are_those_of_all_inputs_over_the_samples(
    build: Callable[[], nn.Module], shapes: list[tuple[int, ...]], samples: int
) -> None:
    inputs = tuple(torch.randn(shape) for shape in shapes)
    if build is Attended:
        inputs = (*inputs[:2], torch.zeros(2, 9, dtype=torch.bool))
    if build is Nodes:
        inputs = (torch.randint(0, 8, (2, 20)), inputs[1])
    net = supernet(build(), inputs)
    assert net.samples == samples
    for width in (0.5, 1.0):
        assert aw.macs(net, width) * samples == counted(net.extract(width), inputs)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("batch_first", "shape", "samples"), [(False, (7, 2, 4), 2), (True, (2, 7, 4), 2)])
def test_recurrent_layers_have_the_steps_first_unless_told(
    kind: type[nn.RNNBase], batch_first: bool, shape: tuple[int, ...], samples: int
) -> None:
    net = supernet(Last(kind, batch_first), torch.randn(shape))
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    assert net.samples == samples
    for width, state in ((1.0, 32), (0.5, 16)):
        assert aw.macs(net, width) == 7 * gates * state * (4 + state) + state * 5


def test_steps_of_a_causal_layer_are_not_samples() -> None:
    net = supernet(Steps(), torch.randn(7, 3, 4))
    assert (net.samples, aw.macs(net)) == (3, 7 * (3 * 32 * (4 + 32) + 32 * 5))
    net = supernet(Steps(), torch.randn(7, 4))
    assert (net.samples, aw.macs(net)) == (1, 7 * (3 * 32 * (4 + 32) + 32 * 5))


class LowRank(nn.Module):
    """A weight that is a product of two: computed once for any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(24, 3)), nn.Parameter(torch.randn(3, 4))
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(x, self.left @ self.right).relu())


class Hypernetwork(nn.Module):
    """Weights that a layer computes from a table, the same for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.make, self.out = nn.Parameter(torch.randn(24, 6)), nn.Linear(6, 4), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(x, self.make(self.table)).relu())


class Queries(nn.Module):
    """Learned queries that are repeated for every sample: their products are made for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.q, self.k, self.out = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.q(self.queries.expand(x.shape[0], 5, 8))
        return self.out((queries @ self.k(x).transpose(1, 2)).softmax(-1) @ x)


class Bank(nn.Module):
    """A second input that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.bank, self.out = nn.Linear(4, 16), nn.Linear(6, 16), nn.Linear(10, 3)

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        return self.out(self.x(x) @ self.bank(bank).T)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize(
    ("build", "once", "each"),
    [
        (LowRank, lambda w: w * 3 * 4, lambda w: w * 4 + w * 5),
        (Hypernetwork, lambda w: 24 * 6 * 4, lambda w: 24 * 4 + 24 * 5),
    ],
)
def test_products_of_weights_count_once(
    batch: int, build: Callable[[], nn.Module], once: Callable[[int], int], each: Callable[[int], int]
) -> None:
    net = supernet(build(), torch.randn(batch, 4))
    assert net.samples == batch
    assert aw.macs(net) == once(24) + each(24)
    if build is LowRank:
        assert aw.macs(net, 0.5) == counted(net.extract(0.5), torch.randn(1, 4)) < aw.macs(net)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_what_is_made_for_every_sample_is_divided_and_what_they_share_is_not(batch: int) -> None:
    net = supernet(Queries(), torch.randn(batch, 9, 4))
    assert aw.macs(net) == counted(net.model, torch.randn(1, 9, 4))
    net = supernet(Bank(), (torch.randn(batch, 4), torch.randn(10, 6)))
    assert net.samples == batch
    assert aw.macs(net) == 4 * 16 + 16 * 10 + 10 * 3 + 10 * 6 * 16


@pytest.mark.parametrize("name", ["residual", "two inputs", "keyword inputs", "tied weights", "rotary attention", "1d"])
def test_other_batch_sizes_give_the_same_count(name: str) -> None:
    found = set()
    for batch in (1, 2, 5):
        model, inputs = find(name).build().double(), normalise_inputs(find(name).example())
        several = inputs.map(lambda t, batch=batch: t[:1].repeat(batch, *[1] * (t.ndim - 1)).double())
        net = supernet(model, several)
        assert net.samples == batch
        found.add((aw.macs(net), aw.macs(net, 0.5)))
        assert aw.macs(net, 0.5) * batch == counted(net.extract(0.5, calibrated=False).eval(), several)
    assert len(found) == 1


class Noise(nn.Module):
    """Draws random numbers in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        return self.out(hidden + 0.1 * torch.randn(hidden.shape))


class BatchStatistics(nn.Module):
    """Normalises with what all samples have in common, so that none of them is independent."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.batch_norm(self.a(x), None, None, training=True))


def test_noise_and_batch_statistics_do_not_hide_the_batch() -> None:
    assert supernet(Noise(), torch.randn(6, 4)).samples == 6
    assert supernet(BatchStatistics(), torch.randn(6, 3, 8, 8)).samples == 6


def test_the_user_can_say_how_many_samples_there_are(tmp_path: Any) -> None:
    net = supernet(rows(), torch.randn(10, 4), samples=1)
    assert (net.samples, aw.macs(net), aw.macs(net, 0.5)) == (1, 2880, 1440)
    assert activation_memory(net) == 10 * activation_memory(supernet(rows(), torch.randn(10, 4)))
    net.save(tmp_path / "run")
    again = aw.load(tmp_path / "run", rows())
    assert (again.samples, aw.macs(again, 0.5)) == (1, 1440)
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(AnalysisError, match="samples=.*samples=1"):
            supernet(rows(), torch.randn(10, 4), samples=wrong)
