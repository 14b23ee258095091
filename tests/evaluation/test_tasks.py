"""Scores, spectra and searches of tasks: the first metric, its unit and its direction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric

import anywidth as aw
from anywidth.core.errors import DataError, LossError, SearchError
from anywidth.evaluation import Row, Spectrum, measure
from anywidth.report import spectrum_table
from anywidth.search import SearchResult
from anywidth.tasks import ACCURACY, Classification, MultiLabel, Quantity, Regression, Segmentation, TaskFromLoss


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


class Classes(Error):
    def metrics(self) -> dict[str, Metric]:
        return {"error": MeanAbsoluteError}


class Several(Error):
    def metrics(self) -> dict[str, Metric]:
        return {"error": MeanAbsoluteError(num_outputs=2)}


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
        (Error, "is the class Error; give an object"),
        (Classes(), "is the class MeanAbsoluteError"),
        (Several(), "must return one number"),
        (Segmentation(3), "3 classes, but dimension 1"),
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
    with pytest.raises(LossError, match="output contains NaN"):
        aw.evaluate(net, [(X * torch.nan, NUMBERS)], task=Error())
    assert aw.evaluate(net, [*batches(NUMBERS), (X[:0], NUMBERS[:0])], task=Error()) == pytest.approx(
        aw.evaluate(net, batches(NUMBERS), task=Error())
    )


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        (Classification(3), CLASSES + 5, r"class [567]\b"),
        (Classification(2), CLASSES % 2, "is for 2 classes, but dimension 1"),
        (MultiLabel(3), torch.full((40, 3), 0.9), "a target is 0.9"),
    ],
)
def test_scores_of_wrong_targets_are_refused(task, target: Tensor, message: str) -> None:
    net = aw.Supernet(network(3), X[:2])
    with pytest.raises(LossError, match=message):
        aw.evaluate(net, batches(target), task=task)


def test_half_precision_is_scored_in_single_precision() -> None:
    net = aw.Supernet(network(2).half(), X[:2].half())
    x, y = 300 * X.half(), 1000 * NUMBERS.half()
    found = measure(net, [(x, y)], 0.5, task=Regression())
    with torch.no_grad():
        error = net.extract(0.5).eval()(x).float() - y.float()
    assert found["RMSE"] == pytest.approx(error.square().mean().sqrt().item())


def test_a_search_belongs_to_the_settings_of_its_task(tmp_path) -> None:
    net = aw.Supernet(network(3), X[:2])
    given = {"held_out": batches(CLASSES), "state": tmp_path / "state.json"}
    aw.autoslim(net, batches(CLASSES), "80%", task=Classification(3, label_smoothing=0.1), **given)
    with pytest.raises(SearchError, match="belongs to another search"):
        aw.autoslim(net, batches(CLASSES), "80%", task=Classification(3), **given)
    weighted = (Classification(3, weight=torch.ones(3)), Classification(3, weight=torch.arange(3.0)))
    assert repr(weighted[0]) != repr(weighted[1])


def test_small_scores_keep_their_digits() -> None:
    curve = Spectrum([Row(width=1.0, macs=1, params=1, score=3.123e-5)], quantity=Quantity(name="error", unit="m"))
    assert curve.csv().endswith(",3.123e-05\n")
    assert curve.quantity.text(0.0012) == "0.0012 m"
