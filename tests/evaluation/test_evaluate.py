"""Scores of one width."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import anywidth as aw
from anywidth.core.errors import DataError, UncalibratedError
from anywidth.evaluation import top1
from proofs import assert_close
from zoo import Case, find

SupernetOf = Callable[[Case], aw.Supernet]


@pytest.fixture
def net(supernet_of: SupernetOf) -> aw.Supernet:
    net = supernet_of(find("concat"))
    aw.calibrate(net, [torch.randn(40, 3, 8, 8, dtype=torch.float64)], widths=[0.5])
    return net


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(41, 3, 8, 8, dtype=torch.float64), torch.randint(4, (41,))


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_every_sample_counts_the_same_whatever_the_batches(
    net: aw.Supernet, data: tuple[Tensor, Tensor], width: float
) -> None:
    x, y = data
    wanted = float((net.subnet(width).eval()(x).argmax(1) == y).double().mean() * 100)
    for sizes in ([41], [1] * 41, [40, 1], [13, 27, 1]):
        batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
        assert aw.evaluate(net, batches, width) == pytest.approx(wanted, abs=1e-12)


def test_nothing_changes(net: aw.Supernet, data: tuple[Tensor, Tensor]) -> None:
    net.model.train()
    sub = net.subnet(0.5).train()
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    aw.evaluate(net, [data], 0.5)
    aw.evaluate(net, [data], 1.0)
    assert all(module.training for module in (*net.model.modules(), *sub.modules()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.model.state_dict().items())
    sub(data[0]).sum().backward()


def test_own_score(net: aw.Supernet, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    losses = aw.evaluate(
        net, [data], 0.5, score=lambda out, labels: torch.nn.functional.cross_entropy(out, labels, reduction="none")
    )
    wanted = torch.nn.functional.cross_entropy(net.subnet(0.5).eval()(x), y)
    assert_close(torch.tensor(losses, dtype=torch.float64), wanted)


def test_errors(net: aw.Supernet, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UncalibratedError, match="width 0.7 has no .*calibrated: 0.5"):
        aw.evaluate(net, [data], 0.7)
    with pytest.raises(DataError, match="loader is empty"):
        aw.evaluate(net, [], 0.5)
    with pytest.raises(DataError, match="pairs"):
        aw.evaluate(net, [(data[0], data[1], data[1])], 0.5)


def test_loader_is_iterated_once(net: aw.Supernet, data: tuple[Tensor, Tensor]) -> None:
    started = []

    class Loader:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            started.append(1)
            yield data

    aw.evaluate(net, Loader(), 0.5)
    assert len(started) == 1


def test_top1_of_every_form_of_output() -> None:
    logits, y = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 1, 1])
    for output in (logits, (logits, None), {"logits": logits}):
        assert top1(output, y).tolist() == [100, 0, 100]
