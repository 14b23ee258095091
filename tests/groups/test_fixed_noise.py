"""Networks that draw random numbers in evaluation: both sides of the proof see the same ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.groups.fixed_noise import FixedNoise
from fast import fast_and_slow

DRAWS = {
    "randn": lambda x: torch.randn(x.shape),
    "rand": lambda x: torch.rand(*x.shape),
    "randn_like": torch.randn_like,
    "rand_like": torch.rand_like,
    "randint": lambda x: torch.randint(-3, 4, x.shape),
    "randint_like": lambda x: torch.randint_like(x, 7),
    "normal": lambda x: torch.normal(0.0, 2.0, x.shape),
    "normal of means": lambda x: torch.normal(torch.ones_like(x), 0.5),
    "normal in place": lambda x: torch.empty_like(x).normal_(1.0, 3.0),
    "uniform in place": lambda x: torch.empty_like(x).uniform_(-1.0, 1.0),
    "exponential": lambda x: torch.empty_like(x).exponential_(2.0),
    "geometric": lambda x: torch.empty_like(x).geometric_(0.3),
    "log normal": lambda x: torch.empty_like(x).log_normal_(),
    "Cauchy": lambda x: torch.empty_like(x).cauchy_(),
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.3)),
    "bernoulli in place": lambda x: torch.empty_like(x).bernoulli_(0.3),
    "Poisson": lambda x: torch.poisson(torch.full_like(x, 2.0)),
    "dropout": lambda x: F.dropout(torch.ones_like(x), 0.4, True),
    "feature dropout": lambda x: F.dropout1d(torch.ones_like(x), 0.4, True),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_narrow_tensor_gets_the_numbers_of_the_first_channels(name: str) -> None:
    wide, narrow = torch.zeros(3, 16, 5), torch.zeros(3, 9, 5)
    drawn = []
    for x in (wide, narrow):
        with FixedNoise(torch.float64):
            drawn.append((DRAWS[name](x), DRAWS[name](x)))
    for full, part in zip(*drawn, strict=True):
        assert torch.equal(full[:, :9], part)
    first, second = drawn[0]
    assert len(first.unique()) > 1
    assert not torch.equal(first, second)


def test_masked_channels_do_not_count() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    noise = FixedNoise(torch.float64)
    noise.masks = [mask[None]]
    with noise:
        wide = torch.randn(2, 6)
    with FixedNoise(torch.float64):
        narrow = torch.randn(2, 4)
    assert torch.equal(wide[:, mask], narrow)


@pytest.mark.parametrize(("name", "mean", "spread"), [("randn", 0.0, 1.0), ("rand", 0.5, 12**-0.5)])
def test_the_numbers_are_spread_like_random_ones(name: str, mean: float, spread: float) -> None:
    with FixedNoise(torch.float64):
        drawn = DRAWS[name](torch.zeros(20, 50, 7))
    assert abs(float(drawn.mean()) - mean) < 0.05
    assert abs(float(drawn.std()) - spread) < 0.05
    for dim in range(3):  # neighbours are not alike
        first, second = (drawn.narrow(dim, start, drawn.shape[dim] - 1).flatten() for start in (0, 1))
        assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.3


def test_permutations_and_samples_stay_in_range() -> None:
    with FixedNoise(torch.float64):
        order = torch.randperm(7)
        picked = torch.multinomial(torch.tensor([0.1, 0.6, 0.3]), 2)
        again = torch.multinomial(torch.tensor([0.1, 0.6, 0.3]), 4, replacement=True)
    assert sorted(order.tolist()) == list(range(7))
    assert picked.tolist() == [1, 2]
    assert again.tolist() == [1] * 4


def test_settings_are_put_back_after_an_error() -> None:
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), FixedNoise(torch.float64):
        torch.mv(torch.randn(3, 3), torch.randn(4))
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


class Noisy(nn.Module):
    """Two hidden layers with something random between them."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.o = nn.Linear(10, 32), nn.Linear(32, 16), nn.Linear(16, 24), nn.Linear(24, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x).relu())
        return self.o(self.c(NOISE[self.between](h)).relu())


NOISE = {
    "reparametrisation": lambda h: h + torch.randn_like(h) * (h / 2).exp(),
    "one number per sample": lambda h: h + torch.randn(len(h), 1),
    "one number per channel": lambda h: h * torch.rand(h.shape[1]),
    "dropout left on": lambda h: F.dropout(h, 0.3, True),
    "alpha dropout": lambda h: F.alpha_dropout(h, 0.3, True),
    "dropped paths": lambda h: h * h.new_empty(len(h), 1).bernoulli_(0.7) / 0.7,
    "masked samples": lambda h: torch.where(torch.rand(len(h), 1) < 0.5, h, -h),
    "random order": lambda h: h[torch.randperm(len(h))],
    "shuffled by noise": lambda h: h.gather(0, torch.rand(len(h)).argsort()[:, None].expand_as(h)),
    "Gumbel softmax": lambda h: h * F.gumbel_softmax(h, dim=1),
    "normal distribution": lambda h: torch.distributions.Normal(h, h.exp()).rsample(),
    "leaky slopes": lambda h: F.rrelu(h, training=True),
    "fractional pool": lambda h: F.fractional_max_pool2d(
        h[..., None, None] * torch.arange(16.0).view(4, 4), 2, output_size=1
    ).flatten(1),
    "counts": lambda h: torch.poisson(h.exp()),
}  # fmt: skip


FAST = {"reparametrisation", "one number per channel", "dropout left on", "random order", "Gumbel softmax", "counts"}


@pytest.mark.parametrize("name", fast_and_slow(NOISE, FAST))
def test_noise_in_evaluation_leaves_everything_elastic(name: str) -> None:
    model, example = Noisy(name).eval(), torch.randn(4, 10)
    net = aw.Supernet(model, example)
    assert net.elastic_share == 1, net.summary()
    narrow, x = net.subnet(0.5).eval(), torch.randn(4, 10)
    assert narrow.b.weight.shape == (8, 16)
    outputs = []
    for model in (narrow, net.extract(0.5).eval()):
        torch.manual_seed(3)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])


class Coin(nn.Module):
    """A branch on noise, one side of which has a table of fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("table", torch.ones(12))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        table = torch.linspace(0, 1, h.shape[1]) * self.table
        return self.o(torch.where(torch.rand(len(x), 1) < 0.5, h, h * table))


@pytest.mark.filterwarnings("ignore:only .* of the MACs:UserWarning")
def test_noise_hides_no_difference_on_the_side_that_is_rarely_taken() -> None:
    net = aw.Supernet(Coin().eval(), torch.randn(8, 6))
    (group,) = (group for group in net.groups if group.name == "a")
    assert group.frozen is not None
    assert "differs from the masked one" in group.frozen
