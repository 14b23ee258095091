"""The Lightning modules are thin: they do what the plain functions do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import CheckpointError, TrainingError
from anywidth.data import BatchOrder, TensorImages, TensorLoader
from anywidth.training import parameter_groups
from anywidth.training.lightning import PlainModule, SandwichModule
from anywidth.training.schedule import warmup_cosine
from built_once import built_once

EPOCHS, LR, DECAY, WARMUP = 3, 0.05, 1e-3, 1.0


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 3),
    )  # fmt: skip


@built_once
def supernet(**details: float) -> aw.Supernet:
    return aw.Supernet(network(**details), torch.randn(1, 1, 6, 6))


def loader() -> TensorLoader:
    images = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return TensorLoader(TensorImages(images, torch.arange(40) % 3), BatchOrder(40, batch_size=16))


def trainer(*, epochs: int = EPOCHS, **details: object) -> Trainer:
    quiet: dict[str, object] = {
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "accelerator": "cpu", "log_every_n_steps": 1,
    }  # fmt: skip
    return Trainer(max_epochs=epochs, **{**quiet, **details})  # type: ignore[arg-type]


class SaveFirstEpoch(Checkpoint):
    """Keeps the state after the first epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def plain_loop(model: nn.Module, fill_gradients: object) -> list[list[float]]:
    """The recipe without Lightning; the losses of every step."""
    batches = loader()
    optimizer = torch.optim.SGD(parameter_groups(model, DECAY), lr=LR, momentum=0.9, nesterov=True)
    total, step, losses = EPOCHS * len(batches), 0, []
    for epoch in range(EPOCHS):
        batches.sampler.set_epoch(epoch)
        for inputs, targets in batches:
            for group in optimizer.param_groups:
                group["lr"] = LR * warmup_cosine(step, warmup=round(WARMUP * len(batches)), total=total)
            optimizer.zero_grad()
            losses.append(fill_gradients(inputs, targets))  # type: ignore[operator]
            optimizer.step()
            step += 1
    return losses


def record(monkeypatch: pytest.MonkeyPatch, kind: type[SandwichModule | PlainModule]) -> list[list[float]]:
    """The losses that a module returns, step by step."""
    seen: list[list[float]] = []
    whole = kind.training_step

    def training_step(self: Any, *arguments: Any) -> dict[str, Tensor]:
        losses = whole(self, *arguments)
        seen.append([float(value) for value in losses.values()])
        return losses

    monkeypatch.setattr(kind, "training_step", training_step)
    return seen


def assert_same_weights(left: nn.Module, right: nn.Module, tolerance: float = 0.0) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours) <= tolerance


def test_a_sandwich_module_does_what_a_plain_loop_does(monkeypatch):
    by_hand = supernet()
    expected = plain_loop(by_hand.model, lambda x, y: aw.sandwich_step(by_hand, x, y, widths=3).losses[:2].tolist())
    seen = record(monkeypatch, SandwichModule)
    net = supernet()
    module = SandwichModule(net, lr=LR, weight_decay=DECAY, warmup_epochs=WARMUP, widths=3)
    trainer().fit(module, loader())
    assert seen == expected
    assert_same_weights(net.model, by_hand.model)


def test_a_plain_module_does_what_a_plain_loop_does(monkeypatch):
    by_hand = network()

    def fill_gradients(inputs: Tensor, targets: Tensor) -> list[float]:
        loss = F.cross_entropy(by_hand(inputs), targets)
        loss.backward()
        return [loss.item()]

    expected = plain_loop(by_hand, fill_gradients)
    seen = record(monkeypatch, PlainModule)
    model = network()
    trainer().fit(PlainModule(model, lr=LR, weight_decay=DECAY, warmup_epochs=WARMUP), loader())
    assert seen == expected
    assert_same_weights(model, by_hand)


def test_losses_and_learning_rate_are_logged():
    run = trainer(epochs=1)
    run.fit(SandwichModule(supernet(), lr=LR), loader())
    assert {"loss_widest", "loss_narrowest", "lr"} <= run.callback_metrics.keys()


@pytest.mark.parametrize("kind", [SandwichModule, PlainModule])
def test_a_resumed_training_ends_like_an_unbroken_one(kind, tmp_path):
    def module() -> LightningModule:
        return kind(supernet(dropout=0.3) if kind is SandwichModule else network(dropout=0.3), lr=LR)

    unbroken = module()
    trainer(callbacks=[SaveFirstEpoch(tmp_path / "first.ckpt")], enable_checkpointing=True).fit(unbroken, loader())
    resumed = module()
    torch.manual_seed(4)  # what dropout draws comes from the checkpoint
    trainer().fit(resumed, loader(), ckpt_path=str(tmp_path / "first.ckpt"), weights_only=True)
    assert_same_weights(resumed, unbroken, 1e-6)


def test_a_resumed_training_of_switches_ends_like_an_unbroken_one(tmp_path):
    def module() -> SandwichModule:
        net = aw.Supernet(network(), torch.randn(1, 1, 6, 6), switches=(0.5, 1.0))
        return SandwichModule(net, lr=LR, distillation=None)

    start, unbroken, resumed = module(), module(), module()
    trainer(callbacks=[SaveFirstEpoch(tmp_path / "first.ckpt")], enable_checkpointing=True).fit(unbroken, loader())
    trainer().fit(resumed, loader(), ckpt_path=str(tmp_path / "first.ckpt"), weights_only=True)
    assert_same_weights(resumed, unbroken, 1e-6)
    ours, theirs, before = (each.net.switch_state() for each in (resumed, unbroken, start))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name])
        assert not torch.equal(tensor, before[name])


def test_a_checkpoint_holds_the_width_sampler(tmp_path):
    net = supernet()
    run = trainer(epochs=1)
    run.fit(SandwichModule(net, lr=LR, widths=4), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    expected = copy.deepcopy(net.sampler).sandwich(6)
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    fresh = SandwichModule(supernet(), lr=LR)
    fresh.on_load_checkpoint(saved)
    assert fresh.net.sampler.sandwich(6) == expected


def test_a_foreign_checkpoint_is_refused():
    with pytest.raises(CheckpointError, match="not written by SandwichModule"):
        SandwichModule(supernet()).on_load_checkpoint({"state_dict": {}})


@pytest.mark.parametrize("kind", [SandwichModule, PlainModule])
def test_a_loss_that_is_not_finite_names_the_step(kind):
    module = kind(supernet() if kind is SandwichModule else network(), lr=1e30)
    with pytest.raises(TrainingError, match=r"step 2, epoch 1: the loss is not finite"):
        trainer().fit(module, loader())


def test_half_precision_trains_too():
    net = supernet()
    before = copy.deepcopy(net.model)
    trainer(epochs=1, precision="bf16-mixed").fit(SandwichModule(net, lr=LR), loader())
    assert any(not torch.equal(a, b) for a, b in zip(net.model.parameters(), before.parameters(), strict=True))
    assert all(parameter.dtype == torch.float32 for parameter in net.model.parameters())


@pytest.mark.parametrize("clip", [None, 0.05])
def test_sixteen_bits_with_a_scaler_train_alike(clip):
    trained = []
    for exact in (True, False):
        net = supernet()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)  # pyright: ignore[reportPrivateImportUsage]
        more = {} if exact else {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
        module = SandwichModule(net, lr=LR, clip=clip, accumulate=2)
        start = torch.cat([parameter.detach().flatten() for parameter in supernet().model.parameters()])
        trainer(**more).fit(module, loader())
        trained.append(torch.cat([parameter.detach().flatten() for parameter in net.model.parameters()]) - start)
    exact_change, change = trained
    assert float(exact_change.norm()) > 1e-3
    assert float((change - exact_change).norm()) < 0.05 * float(exact_change.norm())


def test_another_optimizer_and_explicit_widths():
    module = SandwichModule(
        supernet(), widths=[1.0, 0.75, 0.25], distillation=None, optimizer=lambda groups: torch.optim.AdamW(groups)
    )
    run = trainer(epochs=1)
    run.fit(module, loader())
    assert isinstance(run.optimizers[0], torch.optim.AdamW)


def test_the_forward_pass_is_that_of_the_full_width():
    net, inputs = supernet(), torch.randn(4, 1, 6, 6)
    net.model.eval()
    torch.testing.assert_close(SandwichModule(net)(inputs), net.model(inputs), rtol=0, atol=0)


def test_the_schedule_climbs_and_falls():
    factors = [warmup_cosine(step, warmup=4, total=20) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.02
    assert warmup_cosine(0, warmup=0, total=1) == 1.0


def test_no_files_are_left_behind(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer(epochs=1).fit(SandwichModule(supernet(), lr=LR), loader())
    assert list(tmp_path.iterdir()) == []
