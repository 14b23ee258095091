"""Calibration: exact moments of every width, and nothing else touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.errors import AnywidthError, DataError, WidthError
from anywidth.supernet import norm_modules
from built_once import built_once
from proofs import assert_close, call, configs
from zoo import Case, cases, find

SupernetOf = Callable[[Case], aw.Supernet]


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


def sorted_images(count: int, size: int = 16) -> Tensor:
    """Images in the order of their brightness, so that batches differ much."""
    torch.manual_seed(5)
    x = torch.randn(count, 3, size, size) + 3 * torch.randn(count, 1, 1, 1)
    return x[x.mean((1, 2, 3)).argsort()]


def unequal(x: Tensor) -> list[Tensor]:
    """Batches of very different sizes, one of them a single image."""
    sizes = [40, 7, 1, 30, 2]
    return [*x[: sum(sizes)].split(sizes), *x[sum(sizes) :].split(25)]


@pytest.fixture
@built_once
def net() -> aw.Supernet:
    return aw.Supernet(two_layers(), torch.randn(2, 3, 16, 16), divisor=1)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance per channel, in double precision."""
    flat = x.double().transpose(0, 1).flatten(1)
    return flat.mean(1), flat.var(1)


def stored(net: aw.Supernet, width: float) -> dict[str, Tensor]:
    if width == 1.0:
        return dict(net.model.named_buffers())
    return dict(net.statistics[net.config(width)])


@pytest.mark.parametrize("width", [0.25, 0.6, 1.0])
def test_statistics_are_those_of_everything_that_entered_each_layer(net: aw.Supernet, width: float) -> None:
    batches = unequal(sorted_images(200))
    aw.calibrate(net, batches, widths=[width])
    found = stored(net, width)

    # The same batches through an independent copy whose norms use batch statistics.
    plain = net.extract(width).train()
    entered: dict[int, list[Tensor]] = {1: [], 4: []}
    for number, inputs in entered.items():
        plain[number].register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
    merged = [*batches[:2], torch.cat(batches[2:4]), *batches[4:]]  # one image has no variance in deeper layers
    with torch.no_grad():
        for batch in merged:
            plain(batch)
    for number, inputs in entered.items():
        mean, variance = moments(torch.cat(inputs))
        assert_close(found[f"{number}.running_mean"].double(), mean, 1e-5)
        assert_close(found[f"{number}.running_var"].double() / variance, torch.ones_like(variance), 1e-5)


@pytest.mark.parametrize("width", [0.25, 0.6, 1.0])
def test_sequential_statistics_are_those_of_one_batch_of_everything(net: aw.Supernet, width: float) -> None:
    x = sorted_images(600)
    aw.calibrate(net, unequal(x), widths=[width], sequential=True)
    found = stored(net, width)
    one = net.extract(width).train()
    for norm in norm_modules(one).values():
        norm.momentum = 1.0
    with torch.no_grad():
        one(x)
    for name, value in one.named_buffers():
        if "running" in name:
            assert_close(found[name] / value, torch.ones_like(value), 1e-5)


def test_sequential_differs_from_a_single_pass_where_batches_differ(net: aw.Supernet) -> None:
    batches = unequal(sorted_images(200))
    aw.calibrate(net, batches, widths=[0.5])
    first = stored(net, 0.5)["4.running_var"].clone()
    aw.calibrate(net, batches, widths=[0.5], sequential=True)
    second = stored(net, 0.5)["4.running_var"]
    assert (first / second - 1).abs().max() > 1e-2
    assert_close(net.subnet(0.5).eval()(batches[0]), net.extract(0.5).eval()(batches[0]), 1e-5)


def test_order_and_sizes_of_batches_do_not_matter_to_the_first_layer(net: aw.Supernet) -> None:
    x = sorted_images(150)
    aw.calibrate(net, [x], widths=[0.5])
    wanted = {name: value.clone() for name, value in stored(net, 0.5).items() if name.startswith("1.")}
    for batches in (unequal(x), unequal(x)[::-1], list(x.split(1))):
        aw.calibrate(net, batches, widths=[0.5])
        for name, value in wanted.items():
            assert_close(stored(net, 0.5)[name], value, 1e-5)


def test_many_batches_are_pooled_exactly(net: aw.Supernet) -> None:
    """More batches than are folded at once."""
    x = sorted_images(300, 4)
    aw.calibrate(net, list(x.split(3)), widths=[0.5])
    with torch.no_grad():
        mean, variance = moments(net.extract(0.5)[0](x))
    assert_close(stored(net, 0.5)["1.running_mean"].double(), mean, 1e-5)
    assert_close(stored(net, 0.5)["1.running_var"].double() / variance, torch.ones_like(variance), 1e-5)


def test_a_momentum_takes_the_moving_average_of_training(net: aw.Supernet) -> None:
    batches = list(sorted_images(160).split(4))
    aw.calibrate(net, batches, [0.5], momentum=0.1)
    trained = net.extract(0.5, calibrated=False).train()
    with torch.no_grad():
        for images in batches:
            trained(images)
    for name, buffer in trained.named_buffers():
        if "running" in name:
            assert_close(stored(net, 0.5)[name], buffer, 1e-5)


@pytest.mark.parametrize("wrong", [{"momentum": 0.0}, {"momentum": 1.5}, {"momentum": 0.1, "sequential": True}])
def test_a_momentum_that_makes_no_sense(net: aw.Supernet, wrong: dict[str, Any]) -> None:
    with pytest.raises(AnywidthError, match="momentum"):
        aw.calibrate(net, [], [0.5], **wrong)


def test_large_mean_and_tiny_spread(net: aw.Supernet) -> None:
    """Where the second moment minus the squared mean would have no digit left."""
    x = 1000 + 1e-2 * sorted_images(64).double()
    net.model.double()
    aw.calibrate(net, list(x.split(7)), widths=[0.5])
    mean, variance = moments(net.extract(0.5)[0](x).detach())
    assert_close(stored(net, 0.5)["1.running_mean"] / mean, torch.ones_like(mean), 1e-9)
    assert_close(stored(net, 0.5)["1.running_var"] / variance, torch.ones_like(variance), 1e-6)


def test_number_of_images_is_kept_to(net: aw.Supernet) -> None:
    x = sorted_images(100)
    aw.calibrate(net, list(x.split(30)), widths=[0.5], images=50)
    wanted = {name: value.clone() for name, value in stored(net, 0.5).items()}
    aw.calibrate(net, [x[:30], x[30:50]], widths=[0.5])
    for name, value in wanted.items():
        assert_close(stored(net, 0.5)[name], value, 1e-6)


def test_loader_is_read_no_further_than_needed(net: aw.Supernet) -> None:
    read = []

    class Loader:
        def __iter__(self) -> Iterator[Tensor]:
            for batch in sorted_images(100).split(10):
                read.append(len(batch))
                yield batch

    aw.calibrate(net, Loader(), widths=[0.5], images=25)
    assert sum(read) == 30


def test_every_width_has_statistics_of_its_own(net: aw.Supernet) -> None:
    aw.calibrate(net, [sorted_images(50)], widths=[0.25, 0.5])
    narrow, wide = stored(net, 0.25), stored(net, 0.5)
    kept = len(narrow["4.running_mean"])
    assert (narrow["4.running_mean"] - wide["4.running_mean"][:kept]).abs().max() > 1e-2


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
def test_any_model_can_be_calibrated_at_any_config(case: Case, supernet_of: SupernetOf) -> None:
    net = supernet_of(case)
    chosen = configs(net)
    aw.calibrate(net, [(case.example(seed), None) for seed in range(3)], widths=[*chosen, 1.0])
    for config in [*chosen, net.config(1.0)]:
        out = call(net.subnet(config).eval(), case.example(9))
        assert all(torch.isfinite(leaf).all() for leaf in torch.utils._pytree.tree_leaves(out))
        assert_close(call(net.extract(config).eval(), case.example(9)), out, 1e-12)


# -- what stays as it was ----------------------------------------------------------------------------------


def picture(module: nn.Module) -> list[Any]:
    """Everything of a module that calibration might change for a while."""
    state = []
    for name, part in module.named_modules():
        hooks = len(part._forward_hooks), len(part._forward_pre_hooks)
        norm = [getattr(part, key, None) for key in ("momentum", "track_running_stats")]
        buffers = [(key, id(value), value.clone()) for key, value in part._buffers.items() if value is not None]
        state.append((name, part.training, hooks, norm, buffers))
    return state


def assert_same_picture(before: list[Any], after: list[Any]) -> None:
    for (*ours, our_buffers), (*theirs, their_buffers) in zip(before, after, strict=True):
        assert ours == theirs
        for (name, first, value), (other, second, now) in zip(our_buffers, their_buffers, strict=True):
            assert (name, first) == (other, second)
            assert torch.equal(value.nan_to_num(7.0), now.nan_to_num(7.0))


class Broken(Exception):
    """What a loader raises."""


def broken_loader() -> Iterator[Tensor]:
    yield torch.rand(4, 3, 16, 16)
    yield torch.rand(4, 3, 16, 16)
    yield torch.rand(4, 3, 16, 16)
    raise Broken


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_error_of_the_loader_leaves_everything_as_it_was(net: aw.Supernet, width: float, sequential: bool) -> None:
    sub = net.subnet(width).train()
    sub[4].eval()
    before, weights = picture(sub), copy.deepcopy(net.model.state_dict())
    versions = [parameter._version for parameter in net.model.parameters()]

    class Loader:
        def __iter__(self) -> Iterator[Tensor]:
            return broken_loader()

    state = torch.get_rng_state()
    with pytest.raises(Broken):
        aw.calibrate(net, Loader(), widths=[width], sequential=sequential)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_picture(before, picture(sub))
    assert net.subnet(width) is sub
    assert [parameter._version for parameter in net.model.parameters()] == versions
    for name, tensor in net.model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert not net.statistics.configs


@pytest.mark.parametrize("sequential", [False, True])
def test_calibration_changes_statistics_and_nothing_else(net: aw.Supernet, sequential: bool) -> None:
    aw.calibrate(net, [sorted_images(20)], widths=[0.3])
    other = {name: value.clone() for name, value in stored(net, 0.3).items()}
    sub = net.subnet(0.5).train()
    before, weights = picture(sub), copy.deepcopy(net.model.state_dict())
    modes = [module.training for module in net.model.train().modules()]
    state = torch.get_rng_state()

    class Loader:
        def __iter__(self) -> Iterator[Tensor]:
            return (torch.rand(4, 3, 16, 16) for _ in range(3))

    aw.calibrate(net, Loader(), widths=[0.5], sequential=sequential)
    assert torch.equal(torch.get_rng_state(), state)
    after = picture(sub)
    for (*ours, _), (*theirs, _) in zip(before, after, strict=True):
        assert ours == theirs
    assert [module.training for module in net.model.modules()] == modes
    assert all(parameter.grad is None for parameter in net.model.parameters())
    for name, tensor in net.model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    for name, value in other.items():
        assert torch.equal(stored(net, 0.3)[name], value)


def test_norm_that_evaluation_does_not_reach_keeps_its_statistics(supernet_of: SupernetOf) -> None:
    case = find("auxiliary")
    net = supernet_of(case)
    before = net.model.side[1].running_mean.clone()
    aw.calibrate(net, [case.example()], widths=[1.0, 0.5])
    assert torch.equal(net.model.side[1].running_mean, before)
    assert torch.isfinite(net.extract(0.5).side[1].running_var).all()


def test_norm_called_with_a_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(input=self.conv(x)).mean((2, 3)))

    net = aw.Supernet(Keyword(), torch.randn(2, 3, 8, 8), divisor=1)
    x = torch.randn(9, 3, 8, 8)
    aw.calibrate(net, [x], widths=[0.5])
    mean, _ = moments(net.extract(0.5).conv(x).detach())
    assert_close(stored(net, 0.5)["norm.running_mean"].double(), mean, 1e-5)


def test_norm_called_twice_pools_both_calls(supernet_of: SupernetOf) -> None:
    case = find("used twice")
    net, x = supernet_of(case), case.example(1)
    aw.calibrate(net, [x], widths=[0.5])
    dense = net.extract(0.5).train()
    entered = []
    dense.norm.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach()))
    dense(x)
    mean, variance = moments(torch.cat(entered))
    assert_close(stored(net, 0.5)["norm.running_mean"], mean, 1e-9)
    assert_close(stored(net, 0.5)["norm.running_var"], variance, 1e-9)


def test_instance_norm_keeps_means_over_instances(supernet_of: SupernetOf) -> None:
    case = find("instance statistics")
    net, x = supernet_of(case), torch.cat([case.example(seed) for seed in range(3)])
    aw.calibrate(net, [x[:1], x[1:4], x[4:]], widths=[0.5])
    with torch.no_grad():
        entered = net.extract(0.5).a(x).flatten(2)
    assert_close(stored(net, 0.5)["norm.running_mean"], entered.mean((0, 2)), 1e-9)
    assert_close(stored(net, 0.5)["norm.running_var"], entered.var(2).mean(0), 1e-9)


def test_training_mode_stores_no_statistics(supernet_of: SupernetOf) -> None:
    for name in ("residual", "instance statistics"):
        case = find(name)
        net, x = supernet_of(case), case.example()
        aw.calibrate(net, [x], widths=[0.5])
        before = {key: value.clone() for key, value in stored(net, 0.5).items()}
        own = copy.deepcopy(dict(net.model.named_buffers()))
        net.subnet(0.5).train()(5 * x)
        for key, value in before.items():
            assert torch.equal(stored(net, 0.5)[key], value)
        for key, value in net.model.named_buffers():
            assert torch.equal(value, own[key])


# -- errors ------------------------------------------------------------------------------------------------


def test_loader_without_data(net: aw.Supernet) -> None:
    for batches in ([], [torch.zeros(0, 3, 16, 16)]):
        with pytest.raises(DataError, match="loader is empty"):
            aw.calibrate(net, batches, widths=[0.5])
    with pytest.raises(DataError, match="loader is empty"):
        aw.calibrate(net, [sorted_images(4)], widths=[0.5], images=0)


def test_one_image_is_too_little_where_there_is_one_value_per_channel(supernet_of: SupernetOf) -> None:
    case = find("flatten into linear")
    net, x = supernet_of(case), case.example()
    with pytest.raises(DataError, match="at least two images"):
        aw.calibrate(net, [x[:1]], widths=[0.5])
    aw.calibrate(net, [x, x[:1]], widths=[0.5])
    aw.calibrate(net, [x[:1], x, x[:1], x[:1]], widths=[0.5])


def test_widths_are_checked(net: aw.Supernet) -> None:
    with pytest.raises(WidthError, match=r"\[0.25, 1\]"):
        aw.calibrate(net, [sorted_images(4)], widths=[0.5, 2.0])
    assert not net.statistics.configs


def test_batches_of_every_form(supernet_of: SupernetOf) -> None:
    case = find("keyword inputs")
    net, x = supernet_of(case), case.example()
    labels = torch.zeros(2, dtype=torch.long)
    found = []
    for batch in ((x, labels), {**x, "labels": labels}, x):
        aw.calibrate(net, [batch], widths=[0.5])
        found.append(stored(net, 0.5)["norm.running_mean"].clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_shared_statistics_are_slices(supernet_of: SupernetOf) -> None:
    net = supernet_of(find("concat"))
    share_statistics(net, [0.5])
    kept = [*range(6), 12, 13, 14, *range(15, 25)]
    assert torch.equal(stored(net, 0.5)["norm.running_mean"], net.model.norm.running_mean[kept])
    before = copy.deepcopy(net.model.state_dict())
    share_statistics(net, [1.0])
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
