"""Accumulation, clipping, mixing, averages, scores of widths: what a training can be asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, EMAWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchvision.transforms import v2

import anywidth as aw
from anywidth.core.errors import CheckpointError, TrainingError
from anywidth.data import BatchOrder, TensorImages, TensorLoader
from anywidth.evaluation import evaluate, measure
from anywidth.tasks import Classification
from anywidth.training.epoch_checkpoint import BestCheckpoint, EpochCheckpoint, load_weights
from anywidth.training.lightning import PlainModule, SandwichModule
from anywidth.training.schedule import SCHEDULES
from anywidth.training.validation import WidthValidation
from built_once import built_once

METRICS = {"accuracy": MulticlassAccuracy(3, average="micro"), "f1": MulticlassF1Score(3)}


def network(*, norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


@built_once
def supernet(**options: bool) -> aw.Supernet:
    return aw.Supernet(network(**options), torch.randn(1, 1, 6, 6))


def loader(batch_size: int = 16, *, length: int = 40) -> TensorLoader:
    images = torch.randn(length, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    images[:, :, :3] += (torch.arange(length) % 3)[:, None, None, None]
    return TensorLoader(TensorImages(images, torch.arange(length) % 3), BatchOrder(length, batch_size=batch_size))


def trainer(*callbacks: Callback, epochs: int = 2, **details: object) -> Trainer:
    return Trainer(
        max_epochs=epochs, callbacks=list(callbacks), logger=False, enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", log_every_n_steps=1, **details,
    )  # fmt: skip


class Watch(Callback):
    """Keeps what is logged and the norm of the gradients."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def assert_close(left: nn.Module, right: nn.Module, tolerance: float) -> None:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    assert max(float((a.detach().double() - b.detach().double()).abs().max()) for a, b in pairs) <= tolerance


@pytest.mark.parametrize("kind", [SandwichModule, PlainModule])
def test_small_batches_add_up_to_a_large_one(kind) -> None:
    def train(batch_size: int, accumulate: int) -> tuple[nn.Module, int]:
        made = supernet(norm=False) if kind is SandwichModule else network(norm=False)
        module = kind(made, lr=0.1, warmup_epochs=1, accumulate=accumulate)
        run = trainer()
        run.fit(module, loader(batch_size))
        return module.model, run.global_step

    (large, steps), (small, same) = train(16, 1), train(8, 2)
    assert steps == same == 6  # the last step of an epoch has half a batch
    assert_close(large, small, 1e-6)


def test_gradients_are_clipped_together() -> None:
    free, bound = Watch(), Watch()
    trainer(free, epochs=1).fit(SandwichModule(supernet(), lr=0.01), loader())
    limit = min(free.norms) / 2
    trainer(bound, epochs=1, precision="bf16-mixed").fit(SandwichModule(supernet(), lr=0.01, clip=limit), loader())
    assert max(bound.norms) == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"accumulate": 0}, "accumulate is 0"), ({"clip": -1.0}, "clip is -1"), ({"clip": float("inf")}, "clip is inf")],
)
def test_settings_that_make_no_sense_are_refused(settings, text) -> None:
    with pytest.raises(TrainingError, match=text):
        SandwichModule(supernet(), **settings)


def test_a_strategy_that_would_lose_gradients_is_refused() -> None:
    run = trainer()
    module = SandwichModule(supernet())
    module.trainer = run
    run.strategy._accelerator = None
    run._accelerator_connector.strategy = DDPStrategy()
    with pytest.raises(TrainingError, match="SandwichStrategy"):
        module.configure_optimizers()


def test_mixed_images_train_on_mixed_labels() -> None:
    seen: list[Tensor] = []

    class Mix(v2.MixUp):
        def forward(self, *inputs: Any) -> Any:
            images, labels = super().forward(*inputs)
            seen.append(labels)
            return images, labels

    trainer(epochs=1).fit(SandwichModule(supernet(), transform=Mix(num_classes=3)), loader())
    assert all(labels.shape[1] == 3 for labels in seen)
    torch.testing.assert_close(torch.cat(seen).sum(1), torch.ones(40))


class Rates(Callback):
    """Keeps the learning rate of every batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_number_of_steps_schedules_as_the_epochs_that_have_as_many(accumulate) -> None:
    def rates(**length: int | None) -> list[float]:
        seen = Rates()
        module = SandwichModule(supernet(), lr=0.1, warmup_epochs=1, accumulate=accumulate)
        trainer(seen, **length).fit(module, loader(10))  # type: ignore[arg-type]
        return seen.seen

    wanted = rates(epochs=3)  # of 4 batches each
    assert rates(epochs=-1, max_steps=12 // accumulate) == pytest.approx(wanted)
    assert len(wanted) == 12
    assert max(wanted) == 0.1
    assert wanted[-1] < 0.05


class Endless(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):
    """Has no length."""

    def __iter__(self) -> Any:
        return iter([(images[0], labels[0]) for images, labels in loader(1)])


def test_a_loader_without_length_trains_for_a_number_of_steps() -> None:
    seen, batches = Rates(), torch.utils.data.DataLoader(Endless(), batch_size=8)
    trainer(seen, epochs=-1, max_steps=4).fit(SandwichModule(supernet(), lr=0.1), batches)
    assert seen.seen == pytest.approx([0.1 * SCHEDULES["cosine"](step, warmup=0, total=4) for step in range(4)])
    with pytest.raises(TrainingError, match="max_steps"):
        trainer(epochs=2).fit(SandwichModule(supernet()), batches)
    with pytest.raises(TrainingError, match="warmup_epochs=0"):
        trainer(epochs=-1, max_steps=4).fit(SandwichModule(supernet(), warmup_epochs=1), batches)


@pytest.mark.parametrize("switches", [None, (0.5, 1.0)])
def test_a_step_that_is_left_out_leaves_no_trace(switches) -> None:
    class Broken(SandwichModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            before = [tensor.clone() for tensor in self._statistics()]
            images, labels = batch
            found = super().training_step((images * torch.nan if batch_idx == 1 else images, labels), batch_idx)
            if batch_idx == 1:
                assert all(torch.equal(a, b) for a, b in zip(before, self._statistics(), strict=True))
            return found

    net = aw.Supernet(network(), torch.randn(1, 1, 6, 6), switches=switches)
    module = Broken(net, skip=True, distillation=None)
    trainer().fit(module, loader())
    assert module.skipped == 2
    images, _ = next(iter(loader()))
    for width in switches or (1.0,):
        assert net.subnet(width).eval()(images).isfinite().all()


def test_an_optimizer_that_unscales_by_itself_is_not_clipped() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)  # pyright: ignore[reportPrivateImportUsage]
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    fused = SandwichModule(supernet(), clip=0.5, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, fused=True))
    with pytest.raises(TrainingError, match="leave out fused=True, clip, or precision 16"):
        trainer(plugins=[plugin]).fit(fused, loader())


def test_a_loss_with_weights_of_its_own_is_averaged_and_resumed(tmp_path) -> None:
    def module() -> SandwichModule:
        return SandwichModule(supernet(), loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])))

    def averaging() -> Trainer:
        return trainer(EMAWeightAveraging(decay=0.8), EpochCheckpoint(tmp_path / "last.ckpt"))

    averaging().fit(module(), loader())
    run = trainer(EMAWeightAveraging(decay=0.8), EpochCheckpoint(tmp_path / "last.ckpt"), epochs=3)
    run.fit(module(), loader(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert run.current_epoch == 3


def test_random_numbers_go_on_when_the_module_is_where_it_is_trained(tmp_path, monkeypatch) -> None:
    trainer(EpochCheckpoint(tmp_path / "last.ckpt"), epochs=1).fit(PlainModule(network()), loader())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["anywidth_random"][0]
    calls: list[str] = []

    class Look(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.rand(5)

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            calls.append("same" if torch.equal(torch.get_rng_state(), saved["cpu"]) else "another")

    run = trainer(Look(), EpochCheckpoint(tmp_path / "next.ckpt"))
    run.fit(PlainModule(network()), loader(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert calls[0] == "same"


def test_accumulated_batches_train_the_same_widths_also_after_a_checkpoint_amid_them(tmp_path, monkeypatch) -> None:
    class Amid(Checkpoint):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.fit_loop.total_batch_idx == 0:
                trainer.save_checkpoint(tmp_path / "amid.ckpt")

    given = {"widths": [1.0, 0.5], "accumulate": 2}
    trainer(Amid(), epochs=1).fit(SandwichModule(supernet(), **given), loader())
    seen: list[Any] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(options["widths"])
        return aw.sandwich_step(*arguments, **options)

    monkeypatch.setattr("anywidth.training.lightning.sandwich_step", watched)
    run = trainer(epochs=1)
    run.fit(SandwichModule(supernet(), **given), loader(), ckpt_path=str(tmp_path / "amid.ckpt"), weights_only=True)
    assert seen
    assert all(widths == [1.0, 0.5] for widths in seen)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(0, 20), st.integers(1, 200))
def test_every_schedule_climbs_and_then_never_does(name, warmup, total) -> None:
    factors = [SCHEDULES[name](step, warmup=warmup, total=warmup + total) for step in range(warmup + total)]
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[warmup] <= 1


def test_widths_are_scored_after_every_epoch() -> None:
    net, watch = supernet(), Watch()
    score = WidthValidation(net, loader(), loader(), [0.25, 1.0], METRICS, images=None)
    trainer(score, watch).fit(SandwichModule(net, lr=0.05), loader())
    last = watch.logged[-1]
    assert {"accuracy", "accuracy@0.25", "accuracy@1", "f1", "f1@0.25", "f1@1"} <= last.keys()
    aw.calibrate(net, loader(), [0.25, 1.0])
    for width in (0.25, 1.0):
        assert last[f"accuracy@{width:g}"] * 100 == pytest.approx(evaluate(net, loader(), width))
    assert last["accuracy"] == pytest.approx((last["accuracy@0.25"] + last["accuracy@1"]) / 2)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.25, 1.0))
def test_accuracy_by_torchmetrics_is_that_of_evaluate(width) -> None:
    net = supernet()
    aw.calibrate(net, loader(), [width])
    found = measure(net, loader(batch_size=7), width, task=Classification(3))
    assert found["accuracy"] == pytest.approx(evaluate(net, loader(), width), abs=1e-4)


def test_training_stops_when_the_score_of_all_widths_does_not_rise() -> None:
    net = supernet()
    score = WidthValidation(net, loader(), loader(), [0.25, 1.0], METRICS)
    stop = EarlyStopping(monitor="accuracy", mode="max", patience=2, min_delta=2.0, check_on_train_epoch_end=True)
    run = trainer(score, stop, epochs=20)
    run.fit(SandwichModule(net), loader())
    assert run.current_epoch == 3


def test_the_best_epoch_is_kept(tmp_path) -> None:
    class Scores(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("score", [0.2, 0.9, 0.5][trainer.current_epoch])
            if trainer.current_epoch == 1:
                self.weights = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}

    scores, best = Scores(), BestCheckpoint(tmp_path / "best.ckpt", "score")
    module = SandwichModule(supernet())
    trainer(scores, best, epochs=3).fit(module, loader())
    assert best.best == pytest.approx(0.9)
    load_weights(module, tmp_path / "best.ckpt")
    assert all(torch.equal(tensor, scores.weights[name]) for name, tensor in module.state_dict().items())
    (tmp_path / "best.ckpt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"best\.ckpt"):
        load_weights(module, tmp_path / "best.ckpt")


def test_the_best_epoch_of_switches_is_kept_whole(tmp_path) -> None:
    class Scores(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: SandwichModule) -> None:  # type: ignore[override]
            pl_module.log("score", [0.9, 0.2][trainer.current_epoch])
            if trainer.current_epoch == 0:
                self.switches = {name: tensor.clone() for name, tensor in pl_module.net.switch_state().items()}

    scores, best = Scores(), tmp_path / "best.ckpt"
    net = aw.Supernet(network(), torch.randn(1, 1, 6, 6), switches=(0.5, 1.0))
    module = SandwichModule(net, distillation=None)
    trainer(scores, BestCheckpoint(best, "score"), epochs=2).fit(module, loader())
    assert any(not torch.equal(tensor, scores.switches[name]) for name, tensor in net.switch_state().items())
    load_weights(module, best)
    assert all(torch.equal(tensor, scores.switches[name]) for name, tensor in net.switch_state().items())


def test_what_depends_on_weights_is_out_of_date_when_their_average_comes_and_goes() -> None:
    class Look(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            current.append(net.statistics.is_current(net.config(0.5)))

    current: list[bool] = []
    net = supernet()
    score = WidthValidation(net, loader(), loader(), [0.5], METRICS, images=None)
    trainer(EMAWeightAveraging(decay=0.8), score, Look(), epochs=2).fit(SandwichModule(net, lr=0.05), loader())
    assert not any(current)
    # At the end the model holds the average, with which the statistics were computed; any other weights outdate them.
    assert net.statistics.is_current(net.config(0.5))
    next(net.model.parameters()).data.mul_(2)
    assert not net.statistics.is_current(net.config(0.5))


def test_an_average_of_the_weights_is_scored_kept_and_resumed(tmp_path) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    def train(*more: Callback, resumed: bool = False) -> tuple[nn.Module, list[dict[str, float]]]:
        net, watch = supernet(), Watch()
        score = WidthValidation(net, loader(), loader(), [1.0], METRICS, images=None)
        run = trainer(
            EMAWeightAveraging(decay=0.8), score, watch, EpochCheckpoint(tmp_path / "last.ckpt"), *more, epochs=4
        )
        path = str(tmp_path / "last.ckpt") if resumed else None
        run.fit(SandwichModule(net, lr=0.05), loader(), ckpt_path=path, weights_only=True)
        return net.model, watch.logged

    unbroken, logged = train()
    first, early = train(Stop())
    again, late = train(resumed=True)
    assert_close(again, unbroken, 1e-6)
    assert [row["accuracy"] for row in early + late] == [row["accuracy"] for row in logged]
    plain = supernet()
    trainer(epochs=4).fit(SandwichModule(plain, lr=0.05), loader())
    for other in (first, plain.model):
        with pytest.raises(AssertionError):
            assert_close(unbroken, other, 1e-6)
