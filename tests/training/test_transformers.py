"""Training in the trainer of transformers equals a plain loop of sandwich steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import anywidth as aw
from anywidth.core.errors import LossError, TrainingError
from anywidth.training.transformers import SandwichTrainer, SandwichTrainerMixin

CONFIG = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, num_labels=3,
    max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
WIDTHS = [1.0, 0.25, 0.5]


def net_of(**options: Any) -> aw.Supernet:
    torch.manual_seed(0)
    ids = torch.randint(50, (2, 8))
    model = BertForSequenceClassification(CONFIG)
    return aw.Supernet(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, **options)


def samples(count: int = 16, labels: bool = True) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        ids = torch.randint(50, (8,), generator=generator)
        label = {"labels": torch.randint(3, (), generator=generator)} if labels else {}
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), **label})
    return found


class InOrder(SandwichTrainer):
    """Without shuffling, so that a loop can do the same."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    given = {
        "per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 0.1, "lr_scheduler_type": "constant",
        "optim": "sgd", "max_grad_norm": 0.0, "report_to": [], "use_cpu": True, "save_strategy": "no",
        "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**given, **options})


def by_hand(net: aw.Supernet, *, accumulate: int = 1, autocast: bool = False) -> list[float]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.model.train()
    data, losses = samples(), []
    for step in range(3):
        optimizer.zero_grad()
        losses.append(0.0)
        for part in range(accumulate):
            first = (4 * (step * accumulate + part)) % len(data)
            rows = data[first : first + 4]
            batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
            labels = batch.pop("labels")
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                result = aw.sandwich_step(net, batch, labels, widths=WIDTHS, scale=1 / accumulate)
            losses[-1] += float(result.losses[0]) / accumulate
        optimizer.step()
    return losses


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"bf16": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_it_trains_as_a_loop_of_sandwich_steps(options: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = net_of(), net_of()
    wanted = by_hand(
        theirs, accumulate=options.get("gradient_accumulation_steps", 1), autocast=options.get("bf16", False)
    )
    trainer = InOrder(ours, arguments(tmp_path, **options), train_dataset=samples(), widths=WIDTHS)
    trainer.train()
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert logged == pytest.approx(wanted, rel=1e-3)
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if "bf16" in options else {"rtol": 1e-4, "atol": 1e-6}
    for name, parameter in theirs.model.named_parameters():
        torch.testing.assert_close(ours.model.get_parameter(name), parameter, **tolerance)
    batch = {key: torch.stack([row[key] for row in samples()]) for key in ("input_ids", "attention_mask")}
    theirs.model.eval()
    ours.model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        got = ours.subnet(0.25)(**batch).logits
    assert counter.get_total_flops() == 2 * aw.macs(ours, 0.25) * 16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=options.get("bf16", False)):
        torch.testing.assert_close(got, theirs.subnet(0.25)(**batch).logits.float(), rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_it_evaluates_saves_and_resumes_as_any_trainer(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1}
    trainer = InOrder(net_of(), arguments(tmp_path, **options), train_dataset=samples(), widths=WIDTHS)
    trainer.train()
    assert trainer.evaluate(samples())["eval_loss"] > 0
    resumed = InOrder(net_of(), arguments(tmp_path, **options), train_dataset=samples(), widths=WIDTHS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, parameter in trainer.net.model.named_parameters():
        torch.testing.assert_close(resumed.net.model.get_parameter(name), parameter)


def test_the_mixin_goes_before_any_trainer(tmp_path: Path) -> None:
    class Counting(Trainer):
        calls = 0

        def log(self, *given: Any, **named: Any) -> None:
            self.calls += 1
            super().log(*given, **named)

    class Own(SandwichTrainerMixin, Counting):
        pass

    trainer = Own(net_of(), arguments(tmp_path, max_steps=1), train_dataset=samples())
    trainer.train()
    assert trainer.calls > 0


def test_what_it_cannot_learn_from_is_refused(tmp_path: Path) -> None:
    def own(output: Any, target: Tensor) -> Tensor:
        return output.logits.mean()

    with pytest.raises(LossError, match="does not follow from the loss own"):
        SandwichTrainer(net_of(), arguments(tmp_path), train_dataset=samples(), loss=own)
    trainer = SandwichTrainer(
        net_of(), arguments(tmp_path, remove_unused_columns=False), train_dataset=samples(labels=False)
    )
    with pytest.raises(TrainingError, match="no labels"):
        trainer.train()
    with pytest.raises(TrainingError, match="label_smoothing_factor has no effect"):
        SandwichTrainer(net_of(), arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=samples())
