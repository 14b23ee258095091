"""Zero blocks of nested networks stay exactly zero, whatever trains or writes the weights; overwriting is noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import anywidth as aw
from anywidth.core.errors import CheckpointError, ModelChangedError
from anywidth.supernet import checkpoint
from built_once import built_once

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, 5),
    )  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(16, 6), torch.randint(5, (16,))


@built_once
def nested() -> aw.Supernet:
    return aw.Supernet(network(), batch()[0], nested=WIDTHS)


def muon(model: nn.Module) -> list[Optimizer]:
    """Muon for matrices, AdamW for the rest, as its authors use it."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1), torch.optim.AdamW(others, lr=1e-3)]


OPTIMIZERS: dict[str, Callable[[nn.Module], list[Optimizer]]] = {
    "muon": muon,
    "fused adamw": lambda m: [torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.1, fused=True)],
    "looped adam": lambda m: [torch.optim.Adam(m.parameters(), lr=1e-3, weight_decay=0.1, foreach=False)],
    "nesterov": lambda m: [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, weight_decay=1e-2, nesterov=True)],
    "adafactor": lambda m: [torch.optim.Adafactor(m.parameters(), lr=1e-2)],
}


def zeros(net: aw.Supernet, weights: nn.Module | None = None) -> Tensor:
    """All entries that have to be zero, of the model or of another one with the same names."""
    model = net.model if weights is None else weights
    entries = [part for n, later in net.shells.nesting.later.items() for part in later.of(model.get_parameter(n))]
    assert sum(part.numel() for part in entries) >= 2 * 32 * 32 * 6 // 16
    return torch.cat([part.detach().flatten() for part in entries])


def train(net: aw.Supernet, optimizers: Sequence[Optimizer], steps: int, after: Callable[[], object] = int) -> None:
    x, y = batch()
    net.model.train()
    losses = []
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses.append(aw.nested_step(net, x, y).losses[0].item())
        for optimizer in optimizers:
            optimizer.step()
        after()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    net = nested()
    average = copy.deepcopy(net.model)

    def update() -> None:
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), net.model.parameters(), strict=True):
                mean.lerp_(parameter, 0.1)

    train(net, OPTIMIZERS[name](net.model), 100, update)
    assert not zeros(net).any()
    assert not zeros(net, average).any()
    net.shells.check()


def test_the_state_of_an_optimizer_that_was_trained_without_shells() -> None:
    """Momentum of entries that are zero now must not reach them."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, y = batch()
    for _ in range(3):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    net = aw.Supernet(model, x, nested=WIDTHS)
    momentum = optimizer.state[model[3].weight]["momentum_buffer"]
    assert all(bool(part.any()) for part in net.shells.nesting.later["3.weight"].of(momentum))
    train(net, [optimizer], 20)
    assert not zeros(net).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_a_scaler(dtype: torch.dtype) -> None:
    net = nested()
    optimizer = torch.optim.SGD(net.model.parameters(), 0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    x, y = batch()
    before = net.model[3].weight.detach().clone()
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            aw.nested_step(net, x, y, backward=lambda loss: scaler.scale(loss).backward())
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert not torch.equal(net.model[3].weight, before)
    assert not zeros(net).any()


def test_weights_of_a_nested_network_can_be_loaded() -> None:
    net, other = nested(), nested()
    train(net, [torch.optim.SGD(net.model.parameters(), 0.05)], 5)
    other.model.load_state_dict(net.model.state_dict())
    train(other, [torch.optim.SGD(other.model.parameters(), 0.05)], 5)
    assert not zeros(other).any()


def overwritten(how: str) -> aw.Supernet:
    net = nested()
    net.model.eval()
    net.subnet(0.5)
    weight = net.model[3].weight
    with torch.no_grad():
        if how == "one number":
            weight.data[0, -1] = 1e-3
        else:
            (weight.data if how == "data" else weight).add_(0.1)
    return net


USES: dict[str, Callable[[aw.Supernet, Path], object]] = {
    "step": lambda net, _: aw.nested_step(net, *batch()),
    "subnet": lambda net, _: net.subnet(0.5),
    "extract": lambda net, _: net.extract(0.5),
    "blocked": lambda net, _: net.blocked(1.0),
    "progressive": lambda net, _: net.progressive().start(batch()[0]),
    "export": lambda net, path: aw.export(net, 0.5, path / "half.pt2"),
    "save": lambda net, path: net.save(path),
}


SLOW_USES = ("extract", "blocked", "progressive", "export", "save")
"""Uses that read all zeros, and not a few of them."""


@pytest.mark.parametrize(
    ("use", "how"),
    [*((use, how) for use in USES for how in ("weight", "data")), *((use, "one number") for use in SLOW_USES)],
)
def test_overwritten_zeros_are_noticed_everywhere(use: str, how: str, tmp_path: Path) -> None:
    net = overwritten(how)
    with pytest.raises(ModelChangedError, match=r"3\.weight has weights that read later.*net\.zero_later_shells\(\)"):
        USES[use](net, tmp_path)
    assert not list(tmp_path.iterdir())
    net.zero_later_shells()
    USES[use](net, tmp_path)


def test_a_checkpoint_of_other_shells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = aw.Supernet(network(), batch()[0], nested=(0.75, 1.0))
    written = checkpoint._settings
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_settings", lambda *a: written(*a) | {"nested": list(WIDTHS), "min_width": 0.25})
        net.save(tmp_path)
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r"3\.weight reads later shells of nested=\(0\.25, 0\.5, 0\.75, 1\)"):
        aw.load(tmp_path, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
