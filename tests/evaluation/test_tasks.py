"""Scores, spectra and searches of tasks: the first metric, its unit and its direction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric

import anywidth as aw
from anywidth.core.errors import DataError, LossError
from anywidth.evaluation import Spectrum, measure
from anywidth.report import spectrum_table
from anywidth.search import SearchResult
from anywidth.tasks import ACCURACY, Classification, Quantity, Regression, Segmentation, TaskFromLoss


class Error(TaskFromLoss):
    """The ten lines of a user's task."""

    def __init__(self) -> None:
        super().__init__(F.l1_loss)

    def metrics(self) -> dict[str, Metric]:
        return {"error": MeanAbsoluteError()}


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))


X, CLASSES, NUMBERS = torch.randn(40, 6), torch.randint(3, (40,)), torch.randn(40, 2)


def batches(y: Tensor, size: int = 7) -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_accuracy_of_the_task_is_that_without_a_task(width: float) -> None:
    net = aw.Supernet(network(3), X[:2])
    own = aw.evaluate(net, batches(CLASSES), width, task=Classification(3))
    assert own == pytest.approx(aw.evaluate(net, batches(CLASSES), width), abs=1e-4)


def test_all_metrics_are_those_of_all_samples_together() -> None:
    net = aw.Supernet(network(2), X[:2])
    found = measure(net, batches(NUMBERS), 0.5, task=Regression())
    with torch.no_grad():
        error = net.extract(0.5).eval()(X) - NUMBERS
    assert found == pytest.approx({"RMSE": error.square().mean().sqrt().item(), "MAE": error.abs().mean().item()})
    assert aw.evaluate(net, batches(NUMBERS), 0.5, task=Regression()) == pytest.approx(found["RMSE"])
    again = measure(net, batches(NUMBERS), 0.5, task=Regression())
    assert again == found


def test_a_spectrum_shows_the_metric(tmp_path) -> None:
    net = aw.Supernet(network(2), X[:2])
    curve = aw.spectrum(net, batches(NUMBERS), [0.5, 1.0], task=Error())
    assert curve.quantity == Quantity(name="error", higher_is_better=False)
    assert curve.csv().startswith("width,macs,params,error\n0.5,")
    assert Spectrum.from_json(curve.to_json(tmp_path / "curve.json")).quantity == curve.quantity
    assert "%" not in str(spectrum_table(curve).columns[3]._cells)
    axes = curve.plot(tmp_path / "curve.png", others={"alone": curve})
    assert axes.get_ylabel() == "error"
    assert axes.get_legend()._loc_real == 1  # type: ignore[union-attr] # upper right: errors fall with the width


def test_percentages_and_other_scores_keep_their_names() -> None:
    net = aw.Supernet(network(3), X[:2])
    assert aw.spectrum(net, batches(CLASSES), [1.0]).quantity == ACCURACY

    def margin(output: Tensor, target: Tensor) -> Tensor:
        return output.amax(1) - output.amin(1)

    curve = aw.spectrum(net, batches(CLASSES), [1.0], score=margin)
    assert curve.csv().startswith("width,macs,params,margin\n")
    assert aw.spectrum(net, batches(CLASSES), [1.0], score=lambda o, t: o.amax(1)).quantity.name == "score"


@pytest.mark.parametrize("method", ["greedy", "random"])
def test_a_search_minimizes_errors(method: str, tmp_path) -> None:
    from anywidth.search import Scorer, SearchData, search

    net = aw.Supernet(network(2), X[:2], min_width=0.25)
    data = SearchData.of(batches(NUMBERS), batches(NUMBERS))
    scorer = Scorer(net, data, aw.macs, task=Error())
    found = search(scorer, "50%", method, evaluations=8)
    inside = [one for one in found.evaluated if found.found[0].budget.admits(one.cost)]
    if method == "random":
        assert found.found[0].network.score == min(one.score for one in inside)
    else:
        first = [one for one in found.evaluated if found.steps[0].network.cost > one.cost]
        tried = first[: found.steps[1].candidates]
        assert found.steps[1].network.score == min(one.score for one in tried)
    for one in found.evaluated:
        assert one.score == pytest.approx(aw.evaluate(net, batches(NUMBERS), one.config, task=Error()), abs=1e-6)
    front = found.pareto
    assert [one.score for one in front] == sorted((one.score for one in front), reverse=True)
    again = SearchResult.from_json(found.to_json(tmp_path / "search.json"))
    assert (again.quantity, again.found) == (found.quantity, found.found)
    assert again.quantity.name == "error"


def test_autoslim_takes_a_task() -> None:
    net = aw.Supernet(network(2), X[:2])
    found = aw.autoslim(net, batches(NUMBERS), "60%", task=Regression(), held_out=batches(NUMBERS))
    assert found.quantity == Quantity(name="RMSE", higher_is_better=False)
    assert aw.macs(net, found[0]) <= 0.6 * aw.macs(net)


class Undirected(Error):
    def metrics(self) -> dict[str, Metric]:
        return {"mean": MeanMetric()}


class Empty(Error):
    def metrics(self) -> dict[str, Metric]:
        return {}


class Function(Error):
    def metrics(self) -> dict[str, Metric]:
        return {"error": F.l1_loss}


class OnlyLearns:
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(output, target)

    def distill(self, output: Tensor, teacher: Tensor) -> Tensor:
        return F.l1_loss(output, teacher)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Undirected(), "higher_is_better is None"),
        (Empty(), "must return a dict"),
        (Function(), "is a function; give an object of torchmetrics"),
        (OnlyLearns(), r"without metrics\(\) and predict"),
        (Segmentation(3), "metric 'mIoU' does not fit"),
    ],
)
def test_tasks_that_cannot_be_scored_are_refused(task, message: str) -> None:
    net = aw.Supernet(network(2), X[:2])
    with pytest.raises(LossError, match=message):
        aw.evaluate(net, batches(NUMBERS), task=task)


def test_a_task_and_a_score_exclude_each_other_and_loaders_have_samples() -> None:
    net = aw.Supernet(network(2), X[:2])
    with pytest.raises(LossError, match="leave out score"):
        aw.evaluate(net, batches(NUMBERS), task=Error(), score=lambda output, target: output[:, 0])
    with pytest.raises(DataError, match="loader is empty"):
        aw.evaluate(net, [], task=Error())
    with pytest.raises(LossError, match="is nan"):
        aw.evaluate(net, [(X * torch.nan, NUMBERS)], task=Error())
