"""Wrappers of the model work, or are refused by a message that says what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import anywidth as aw
import two_wrapped as two
from anywidth.core.errors import AnalysisError, TrainingError
from two_processes import run_in_two


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return run_in_two(two.program, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("built_on_ddp", ["AnalysisError", "DistributedDataParallel", "model.module"]),
        ("ddp_around", ["TrainingError", "DistributedDataParallel", "same_start"]),
        ("built_on_shards", ["AnalysisError", "FSDP"]),
        ("sharded_later", ["TrainingError", "sharded"]),
        ("sharded_inside_later", ["TrainingError", "2.weight", "sharded"]),
    ],
)
def test_networks_in_several_processes_are_refused(found, case, words) -> None:
    for process in found:
        assert all(word in process[case] for word in [*words, "sync_gradients"]), process[case]


@pytest.mark.parametrize("case", ["forgotten", "clipped", "manual"])
def test_gradients_that_nobody_synchronises_warn_once(found, case) -> None:
    for process in found:
        (message,) = process[case]
        assert "sync_gradients" in message


@pytest.mark.parametrize("case", ["synchronised", "accumulated", "by hand"])
def test_synchronised_gradients_do_not_warn(found, case) -> None:
    assert [process[case] for process in found] == [[], []]


def test_sparse_gradients_are_averaged(found) -> None:
    mean = (found[0]["sparse"][0] + found[1]["sparse"][0]) / 2
    assert found[0]["sparse"][0][0].abs().sum() > 0
    assert found[1]["sparse"][0][0].abs().sum() == 0
    for process in found:
        torch.testing.assert_close(process["sparse"][1], mean)


def test_synchronised_batch_norms_are_analysed_on_any_device(found) -> None:
    assert [process["synchronised norms"] for process in found] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (nn.DataParallel, ["DataParallel", "model.module"]),
        (lambda model: torch.compile(model, backend="eager"), ["torch.compile", "model._orig_mod", "CompiledSubnets"]),
        (lambda model: nn.Sequential(nn.DataParallel(model)), ["module '0'", "DataParallel"]),
    ],
)
def test_wrapped_networks_are_refused(wrap, words) -> None:
    with pytest.raises(AnalysisError) as error:
        aw.Supernet(wrap(two.network()), two.X)
    assert all(word in str(error.value) for word in words)


def test_engines_are_refused_by_the_name_of_their_class() -> None:
    engine = type("DeepSpeedEngine", (nn.Module,), {"__module__": "deepspeed.runtime.engine"})()
    engine.module = two.network()
    with pytest.raises(AnalysisError, match=r"DeepSpeedEngine.*model\.module.*sync_gradients"):
        aw.Supernet(engine, two.X)
    model = two.network()
    model[0].weight.ds_id = 0  # type: ignore[union-attr]
    with pytest.raises(AnalysisError, match=r"0\.weight.*ZeRO-3"):
        aw.Supernet(model, two.X)


def test_a_class_of_the_user_is_not_taken_for_a_wrapper() -> None:
    class DataParallel(nn.Sequential):
        pass

    assert aw.Supernet(DataParallel(*two.network()), two.X).elastic_share == 1.0


def test_averaged_models_work() -> None:
    model = two.network()
    net = aw.Supernet(AveragedModel(model), two.X)
    expected = model[4](model[3](model[2](model[1](model[0](two.X)))))
    torch.testing.assert_close(net.model(two.X), expected)
    assert net.elastic_share == 1.0
    plain = aw.Supernet(model, two.X)
    torch.testing.assert_close(net.subnet(0.5)(two.X), plain.subnet(0.5)(two.X))


def test_a_network_compiled_in_place_gives_the_same_step() -> None:
    models = [two.network(), two.network()]
    models[0].compile(backend="eager")
    for model in models:
        aw.sandwich_step(aw.Supernet(model, two.X), two.X, two.Y)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_automatic_optimization_of_lightning_is_refused() -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self, automatic: bool) -> None:
            super().__init__()
            self.automatic_optimization = automatic
            self.net = aw.Supernet(two.network(), two.X)

        def training_step(self, batch: Any, number: int) -> Any:
            return self.helper(batch)

        def helper(self, batch: Any) -> Any:
            return aw.sandwich_step(self.net, *batch).losses.sum()

    with pytest.raises(TrainingError, match=r"automatic_optimization = False.*manual_backward"):
        Module(True).training_step((two.X, two.Y), 0)
    module = Module(False)
    module.training_step((two.X, two.Y), 0)
    assert module.net.model[0].weight.grad is not None  # type: ignore[union-attr]
