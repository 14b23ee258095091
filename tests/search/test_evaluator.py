"""The evaluator: the same numbers as calibrate and evaluate, whether activations are shared or not."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import DataError, SearchError
from anywidth.core.inputs import Inputs
from anywidth.models import build_model
from anywidth.search import Evaluator, SearchData
from anywidth.search.affected import affected_modules, changed_modules
from anywidth.search.plan import narrower, space
from built_once import built_once
from zoo import Case, cases

# Nothing of theirs is not in a smaller one.
LARGE = {"inverted residuals", "basic blocks", "resnext", "bottleneck", "vgg", "regnet", "shufflenet_v2 units"}


def images(count: int, *, side: int = 8, classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(count, 1, side, side), torch.randint(classes, (count,)))]


@built_once
def net_of(name: str = "digits") -> aw.Supernet:
    model = build_model(name, num_classes=4, input_shape=(1, 8, 8))
    rules = {rule: getattr(model, rule) for rule in ("divisor", "min_width", "frozen")}
    for module in model.modules():  # as after training: scales and shifts that are not 1 and 0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return aw.Supernet(model, torch.randn(1, 1, 8, 8), **rules)


@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_calibrate_and_evaluate(channels_last: bool) -> None:
    net = net_of()
    training, held_out = images(40), images(30) + images(7)
    score = Evaluator(net, SearchData.of(training, held_out), channels_last=channels_last)(net.config(0.5))
    aw.calibrate(net, training, [0.5])
    assert score.value == pytest.approx(aw.evaluate(net, held_out, 0.5), abs=1e-9 if not channels_last else 3.0)
    with torch.no_grad():
        losses = [F.cross_entropy(net.subnet(0.5).eval()(x), y, reduction="sum") for x, y in held_out]
    assert score.loss == pytest.approx(float(sum(losses)) / 37, rel=1e-5)


def test_nothing_of_the_supernet_changes() -> None:
    net = net_of()
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    random = torch.get_rng_state()
    evaluator = Evaluator(net, SearchData.of(images(40), images(30)), memory=1e9)
    random = torch.get_rng_state()
    evaluator.set_base(net.config(1.0))
    evaluator(net.config(0.5))
    assert torch.equal(random, torch.get_rng_state())
    assert net.statistics.configs == ()
    assert net.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("digits", 1e9),
        ("digits", 60e3),
        pytest.param("digits", 1e3, marks=pytest.mark.slow),
        pytest.param("resnet20", 300e3, marks=pytest.mark.slow),
        pytest.param("shufflenet", 1e9, marks=pytest.mark.slow),
    ],
)
def test_shared_activations_change_no_bit(name: str, memory: float) -> None:
    net = net_of(name)
    data = SearchData.of(images(24), images(20) + images(9))
    plain, shared = Evaluator(net, data), Evaluator(net, data, memory=memory)
    options = space(net, step_fraction=0.3)
    config = net.config(1.0)
    for _ in range(2):
        shared.set_base(config)
        candidates = list(narrower(config, options).values())[::4][-3:]
        for candidate in candidates:
            for one, other in zip(plain.logits(candidate), shared.logits(candidate), strict=True):
                assert torch.equal(one, other)
        assert shared.activation_cache.bytes <= memory
        config = candidates[-1]
    if memory == 1e9:
        assert shared.activation_cache.reused > 0


@pytest.mark.parametrize("case", cases(lambda case: case.elastic and case.name not in LARGE, few=True))
def test_shared_activations_are_right_for_any_forward(case: Case, supernet_of) -> None:
    net = supernet_of(case)
    evaluators = []
    inputs = net.inputs.map(lambda tensor: torch.cat([tensor, tensor * 1.5]) if tensor.ndim else tensor)
    targets = torch.zeros(inputs.tensors()[0].shape[0])
    for memory in (0, 1e9):
        data = SearchData((inputs,), ((inputs, targets),))
        flat = {"score": lambda output, targets: targets, "loss": lambda logits, targets: logits.sum() * 0}
        evaluators.append(Evaluator(net, data, memory=memory, **flat))
    plain, shared = evaluators
    shared.set_base(net.config(1.0))
    candidates = narrower(net.config(1.0), space(net, step_fraction=0.5))
    for candidate in list(candidates.values())[:3]:
        one, other = plain.logits(candidate)[0], shared.logits(candidate)[0]
        assert torch.equal(one, other)


class Doubles(nn.Module):
    """Writes into its input, and gives something else."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return x.mean((2, 3), keepdim=True)


class Awkward(nn.Module):
    """Writes over what a module gave, calls a module twice, and one that changes its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 24, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.doubles = Doubles()
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x))
        y += 0.5
        y = y.mul_(y)
        y = self.twice(y) + self.twice(2 * y)
        y = y * self.doubles(y)
        return self.head(self.relu(self.last(F.relu_(y))).mean((2, 3)))


def test_forwards_that_write_in_place() -> None:
    net = aw.Supernet(Awkward(), torch.randn(1, 1, 8, 8))
    data = SearchData.of(images(24), images(20))
    plain, shared = Evaluator(net, data), Evaluator(net, data, memory=1e9)
    options = space(net, step_fraction=0.3)
    config = net.config(1.0)
    for _ in range(2):
        shared.set_base(config)
        candidates = list(narrower(config, options).values())
        for candidate in candidates:
            assert torch.equal(plain.logits(candidate)[0], shared.logits(candidate)[0])
        config = candidates[-1]
    assert shared.activation_cache.reused > 0


def count_convolutions(monkeypatch: pytest.MonkeyPatch, error: float = 0.0) -> list[nn.Conv2d]:
    """The convolutions that are computed from now on; with an error that depends on their number of channels."""
    calls: list[nn.Conv2d] = []
    forward = nn.Conv2d.forward

    def counted(self: nn.Conv2d, x: Tensor) -> Tensor:
        calls.append(self)
        return forward(self, x) * (1 + error * self.weight.shape[0])

    monkeypatch.setattr(nn.Conv2d, "forward", counted)
    return calls


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_a_narrowed_convolution_is_cut_once_it_is_known_to_be_the_same(monkeypatch, error: float) -> None:
    net = net_of("resnet20")
    data = SearchData.of(images(24), images(20))
    plain, shared = Evaluator(net, data), Evaluator(net, data, memory=1e9)
    shared.set_base(net.config(1.0))
    calls = count_convolutions(monkeypatch, error)
    shared.base = None
    shared.activation_cache.clear()
    shared.set_base(net.config(1.0))
    candidate = narrower(net.config(1.0), space(net, step_fraction=0.3))["stages.2.2.conv1"]
    numbers = []
    for _ in range(2):
        calls.clear()
        found = shared.logits(candidate)[0]
        numbers.append(len(calls))
        assert torch.equal(found, plain.logits(candidate)[0])
    # Twice, for statistics and for the score: the narrowed convolution and the one that reads it.
    assert numbers == ([4, 2] if error == 0 else [4, 4])


class Reads(nn.Module):
    """Computes with the weights of a module that it does not own."""

    def __init__(self, other: nn.Conv2d) -> None:
        super().__init__()
        self.other = [other]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.other[0].weight, padding=1)


class Borrowing(nn.Module):
    """Its second branch reads the weights of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.again = Reads(self.conv)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x) + self.again(x)).mean((2, 3)))


def test_where_sharing_is_wrong_it_is_given_up() -> None:
    net = aw.Supernet(Borrowing(), torch.randn(1, 1, 8, 8), divisor=4)
    data = SearchData.of(images(24), images(20))
    shared = Evaluator(net, data, memory=1e9)
    with pytest.warns(UserWarning, match="every network is computed from the input on"):
        shared.set_base(net.config(1.0))
    assert torch.equal(shared.logits(net.config(0.5))[0], Evaluator(net, data).logits(net.config(0.5))[0])
    assert shared.activation_cache.reused == 0


def test_what_was_not_computed_again(monkeypatch) -> None:
    net = net_of()
    calls = count_convolutions(monkeypatch)
    shared = Evaluator(net, SearchData.of(images(24), images(20)), memory=1e9)
    shared.set_base(net.config(1.0))
    last = list(net.config(1.0))[-1]
    candidate = narrower(net.config(1.0), space(net, step_fraction=0.3))[last]
    calls.clear()
    shared(candidate)
    few = len(calls)
    Evaluator(net, SearchData.of(images(24), images(20)))(candidate)
    assert 0 < few < (len(calls) - few) / 2


def test_modules_that_follow_a_group_are_known() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16)), nn.Conv2d(16, 8, 3), nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = aw.Supernet(model, torch.randn(2, 1, 8, 8))
    affected = affected_modules(net)
    assert affected == {"0.0": {"", "0", "0.0", "0.1", "1"}}
    assert changed_modules(affected, net.config(0.5), net.config(1.0)) == affected["0.0"]
    assert changed_modules(affected, net.config(0.5), net.config(0.5)) == set()


def test_nan_is_told() -> None:
    net = net_of()
    with torch.no_grad():
        next(net.model.parameters()).fill_(float("nan"))
    with pytest.raises(SearchError, match="loss nan on the held-out images"):
        Evaluator(net, SearchData.of(images(24), images(20)))(net.config(1.0))


def test_calibration_images_one_at_a_time_have_no_variance() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    net = aw.Supernet(model, torch.randn(2, 4))
    one, two = (Inputs(args=(torch.randn(count, 4),), kwargs={}) for count in (1, 2))
    data = SearchData((one, one), ((two, torch.tensor([0, 1])),))
    with pytest.raises(DataError, match="one sample has no variance"):
        Evaluator(net, data)(net.config(0.5))
