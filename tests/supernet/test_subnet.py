"""Subnets share weights and gradients with their supernet, and nothing else."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.errors import UncalibratedError, WidthError
from anywidth.supernet import contiguous
from anywidth.supernet.subnet_parameter import own_gradient
from proofs import assert_close, call, configs, kept, outputs, slicing_gradients, weighted
from zoo import Case, find

SupernetOf = Callable[[Case], aw.Supernet]


@pytest.fixture
def net(supernet_of: SupernetOf) -> aw.Supernet:
    return supernet_of(find("concat"))


@pytest.fixture
def x() -> Tensor:
    return find("concat").example(1)


# -- identity ----------------------------------------------------------------------------------------------


def test_one_config_is_one_module_and_full_width_is_the_model(net: aw.Supernet) -> None:
    assert net.subnet(0.5) is net.subnet(net.config(0.5)) is net.subnet({"*": 0.5})
    assert net.subnet(0.5) is not net.subnet(0.25)
    assert net.subnet(1.0) is net.model
    assert net.subnet(dict.fromkeys((g.name for g in net.analysis.elastic), 1.0)) is net.model


def test_subnet_that_somebody_holds_stays_the_one_of_its_config(x: Tensor) -> None:
    case = find("residual")
    net = aw.Supernet(case.model(), case.example(), divisor=2, cache_size=1)
    held = net.subnet(0.5)
    for width in (0.6, 0.7, 0.8):
        net.subnet(width)
    assert len(net._subnets.kept) == 1
    assert net.subnet(0.5) is held
    net.subnet(0.6)
    aw.calibrate(net, [x], widths=[0.5])
    assert torch.isfinite(held.eval()(x)).all()


def test_subnet_that_nobody_holds_is_dropped_from_a_full_cache() -> None:
    case = find("residual")
    net = aw.Supernet(case.model(), case.example(), divisor=2, cache_size=2)
    for width in (0.3, 0.5, 0.7, 0.9):
        net.subnet(width)
    assert len(net._subnets.kept) == len(net._subnets.records) == 2
    assert len(net.statistics._stored) == 2


def test_parameters_are_leaves_on_the_memory_of_the_supernet(supernet_of: SupernetOf) -> None:
    net = supernet_of(find("residual"))
    own = {p.untyped_storage().data_ptr() for p in net.model.parameters()}
    sub = net.subnet(0.5)
    for name, parameter in sub.named_parameters():
        assert parameter.is_leaf
        assert isinstance(parameter, nn.Parameter)
        assert parameter.untyped_storage().data_ptr() in own, name


def test_tied_weights_stay_tied_and_shared_modules_shared(supernet_of: SupernetOf) -> None:
    tied = supernet_of(find("tied weights")).subnet(0.5)
    assert tied.again.weight is tied.middle.weight
    twice = supernet_of(find("used twice")).subnet(0.5)
    assert twice.again is twice.body
    shared = supernet_of(find("shared inside")).subnet(0.5)
    assert shared.a.shared is shared.b.shared is shared.unused["kept"]
    dense = supernet_of(find("tied weights")).extract(0.5)
    assert dense.again.weight is dense.middle.weight


def test_nothing_to_narrow_is_warned_of_and_gives_the_model() -> None:
    case = find("root conv")
    with pytest.warns(UserWarning, match="only 0% of the MACs of Conv2d can be narrowed"):
        net = aw.Supernet(case.model(), case.example())
    assert net.subnet(0.5) is net.model
    assert aw.params(net, 0.5) == aw.params(net)
    assert_close(net.extract(0.5)(case.example()), net.model(case.example()))


# -- gradients ---------------------------------------------------------------------------------------------


def test_gradients_are_the_supernets_and_no_subnet_keeps_any(net: aw.Supernet, x: Tensor) -> None:
    net.model.train()(x).sum().backward()
    for config in configs(net):
        sub = net.subnet(config).train()
        sub(x).sum().backward()
        own = {id(parameter) for parameter in sub.parameters()} - {id(p) for p in net.model.parameters()}
        assert config == net.config(1.0) or own
        assert all(own_gradient(parameter) is None for parameter in sub.parameters() if id(parameter) in own)


def test_gradients_add_up_over_passes_and_widths(net: aw.Supernet, x: Tensor) -> None:
    wanted: dict[str, Tensor] = {}
    for config in configs(net):
        for _ in range(2):
            net.model.zero_grad(set_to_none=True)
            net.subnet(config).train()(x).square().sum().backward()
            for name, parameter in net.model.named_parameters():
                if parameter.grad is not None:
                    wanted[name] = wanted.get(name, torch.zeros_like(parameter)) + parameter.grad
    net.model.zero_grad(set_to_none=True)
    for config in configs(net) * 2:
        net.subnet(config).train()(x).square().sum().backward()
    for name, parameter in net.model.named_parameters():
        assert_close(parameter.grad, wanted[name], 1e-12)


def test_several_graphs_of_one_subnet_may_live_at_once(net: aw.Supernet, x: Tensor) -> None:
    sub = net.subnet(0.5).train()
    (sub(x).square().sum() + sub(2 * x).square().sum()).backward()
    together = {name: p.grad.clone() for name, p in net.model.named_parameters() if p.grad is not None}
    net.model.zero_grad(set_to_none=True)
    for inputs in (x, 2 * x):
        sub(inputs).square().sum().backward()
    for name, gradient in together.items():
        assert_close(net.model.get_parameter(name).grad, gradient)


def test_autograd_grad_leaves_gradients_alone(net: aw.Supernet, x: Tensor) -> None:
    sub = net.subnet(0.5).train()
    sub(x).sum().backward()
    before = {name: p.grad.clone() for name, p in net.model.named_parameters() if p.grad is not None}
    found = torch.autograd.grad(sub(x).sum(), list(sub.parameters()), allow_unused=True)
    assert any(gradient is not None for gradient in found)
    for name, gradient in before.items():
        assert torch.equal(net.model.get_parameter(name).grad, gradient)  # type: ignore[arg-type]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    ],
    ids=["sgd", "adamw", "foreach", "fused"],
)
def test_training_steps_equal_those_by_autograd_slicing(
    net: aw.Supernet, make: Callable[[Any], torch.optim.Optimizer], set_to_none: bool
) -> None:
    chosen = configs(net)
    slow = aw.Supernet(copy.deepcopy(net.model), find("concat").example(), divisor=2)
    fast_optimizer, slow_optimizer = make(net.model.parameters()), make(slow.model.parameters())
    for step in range(3):
        x = find("concat").example(step)
        fast_optimizer.zero_grad(set_to_none=set_to_none)
        sums = {name: torch.zeros_like(p) for name, p in slow.model.named_parameters()}
        for config in chosen:
            result = net.subnet(config).train()(x)
            weights = [torch.ones_like(out) for out in outputs(result)]
            weighted(result, weights).backward()
            dense = slow.extract(config, calibrated=False).train()
            for name, gradient in slicing_gradients(slow, config, dense, x, weights)[1].items():
                sums[name] += gradient
        for name, parameter in slow.model.named_parameters():
            parameter.grad = sums[name]
        fast_optimizer.step()
        slow_optimizer.step()
    for name, parameter in net.model.named_parameters():
        assert_close(parameter, slow.model.get_parameter(name), 1e-9)


def test_training_one_narrow_width_leaves_all_else_unchanged(net: aw.Supernet, x: Tensor) -> None:
    narrow, wide = net.config(0.25), net.config(0.75)
    aw.calibrate(net, [x], widths=[narrow, wide, 1.0])
    before = copy.deepcopy(net.model.state_dict())
    statistics = {config: copy.deepcopy(dict(net.statistics[config])) for config in (narrow, wide)}
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        net.subnet(narrow).train()(x).square().sum().backward()
        optimizer.step()
    moved = 0
    for name, parameter in net.model.named_parameters():
        changed = parameter != before[name]
        moved += int(changed.sum())
        inside = torch.ones_like(changed)
        for dim, indices in enumerate(kept(net, narrow, name)):
            inside &= torch.zeros_like(changed).index_fill_(dim, indices, True)
        assert not (changed & ~inside).any(), name
    assert moved
    for name, buffer in net.model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    for config, values in statistics.items():
        for name, value in values.items():
            assert torch.equal(net.statistics[config][name], value), name


# -- changes behind a subnet's back ------------------------------------------------------------------------


def test_loaded_weights_and_buffers_reach_dense_copies(supernet_of: SupernetOf) -> None:
    case = find("following buffers")
    net, x = supernet_of(case), case.example()
    sub = net.subnet(0.5).eval()
    first = sub(x).detach()
    with torch.no_grad():
        for tensor in (*net.model.parameters(), *net.model.buffers()):
            tensor.add_(0.25)
    assert_close(sub(x), net.extract(0.5)(x), 1e-12)
    assert (sub(x) - first).abs().max() > 1e-3


@pytest.mark.parametrize("trained", [True, False])
def test_layers_frozen_by_the_user_are_frozen_at_every_width(net: aw.Supernet, x: Tensor, trained: bool) -> None:
    net.model.left.requires_grad_(not trained)
    net.subnet(0.5)
    net.model.left.requires_grad_(trained)
    net.subnet(0.5).train()(x).sum().backward()
    assert (net.model.left.weight.grad is not None) == trained
    assert net.model.right.weight.grad is not None


def test_replaced_parameters_are_followed(net: aw.Supernet, x: Tensor) -> None:
    net.subnet(0.5)
    net.model.left.weight = nn.Parameter(net.model.left.weight.detach())
    net.subnet(0.5).train()(x).sum().backward()
    assert net.model.left.weight.grad is not None

    aw.calibrate(net, [x], widths=[0.5])
    net.model.load_state_dict(copy.deepcopy(net.model.state_dict()), assign=True)
    net.subnet(0.5).eval()(x)  # the same numbers
    net.model.left.weight.data[0, 0] += 1
    with pytest.raises(UncalibratedError, match="before the weights changed"):
        net.subnet(0.5).eval()(x)
    net.subnet(0.5).train()(x).sum().backward()
    assert net.model.left.weight.grad is not None


def test_model_may_move_to_another_precision_and_back(supernet_of: SupernetOf) -> None:
    case = find("concat")
    net, x = supernet_of(case), case.example()
    aw.calibrate(net, [x], widths=[0.5])
    wanted = net.subnet(0.5).eval()(x)
    net.model.float()
    assert_close(net.subnet(0.5).eval()(x.float()).double(), wanted, 1e-4)
    net.subnet(0.5).train()(x.float()).sum().backward()
    assert net.model.left.weight.grad is not None
    assert net.model.left.weight.grad.dtype == torch.float32
    aw.calibrate(net, [x.float()], widths=[0.5])
    net.model.zero_grad(set_to_none=True)
    net.model.double()
    assert_close(net.subnet(0.5).eval()(x), wanted, 1e-4)


def test_subnet_first_asked_for_in_inference_mode_can_be_trained_later(net: aw.Supernet, x: Tensor) -> None:
    with torch.inference_mode():
        net.subnet(0.5).train()(x)
        aw.calibrate(net, [x], widths=[0.5])
        net.subnet(0.5).eval()(x)
    net.subnet(0.5).train()(x).sum().backward()
    assert net.model.left.weight.grad is not None
    aw.calibrate(net, [x], widths=[0.5, 1.0])
    net.model.train()(x).sum().backward()


def test_statistics_moved_during_evaluation_can_be_calibrated_again(supernet_of: SupernetOf) -> None:
    case = find("residual")
    net, x, y = supernet_of(case), case.example(), torch.tensor([0, 1])
    aw.calibrate(net, [x], widths=[0.5])
    net.model.float()
    aw.evaluate(net, [(x.float(), y)], 0.5)
    aw.calibrate(net, [x.float()], widths=[0.5])
    net.model.double()


def test_supernet_may_be_made_in_inference_mode(x: Tensor) -> None:
    case = find("concat")
    model = case.model()
    with torch.inference_mode():
        net = aw.Supernet(model, case.example(), divisor=2)
    net.subnet(0.5).train()(x).sum().backward()
    assert net.model.left.weight.grad is not None


# -- surroundings ------------------------------------------------------------------------------------------


def test_making_a_supernet_leaves_the_model_and_the_random_numbers_alone() -> None:
    for name in ("concat", "mobilenet_v3", "other norms"):
        case = find(name)
        model = case.model()
        model.train()
        next(iter(model.children())).eval()
        before = copy.deepcopy(model.state_dict())
        modes = [module.training for module in model.modules()]
        versions = [parameter._version for parameter in model.parameters()]
        hooks = _hooks(model)
        state = torch.get_rng_state()
        aw.Supernet(model, case.example())
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in model.modules()] == modes
        assert [parameter._version for parameter in model.parameters()] == versions
        assert _hooks(model) == hooks
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[key])


def _hooks(model: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]


def test_hooks_of_the_user_see_narrow_modules(supernet_of: SupernetOf) -> None:
    net, x = supernet_of(find("residual")), find("residual").example()
    sub = net.subnet(0.5).train()
    seen: list[tuple[int, ...]] = []
    with sub.a[0].register_forward_hook(lambda module, args, out: seen.append((args[0].shape[1], out.shape[1]))):
        sub(x)
    assert seen == [(sub.a[0].in_channels, sub.a[0].out_channels)] == [(8, 12)]
    net.model(x)
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["concat", "residual", "densenet"])
@pytest.mark.parametrize("widths", [(0.25, 0.5, 0.75, 1.0), (0.5,) * 4], ids=["different widths", "same width"])
@pytest.mark.parametrize("ready", [False, True], ids=["built by the threads", "refreshed by the threads"])
def test_threads_get_what_they_get_alone(
    name: str, widths: tuple[float, ...], ready: bool, supernet_of: SupernetOf
) -> None:
    case = find(name)
    net = supernet_of(case)
    if ready:
        for width in widths:
            net.subnet(width)
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.mul_(1.01)
    share_statistics(net, widths)
    if not ready:
        net._subnets.clear()
    inputs = [case.example(10 + i) for i in range(len(widths))]
    wanted = [call(net.extract(width), x) for width, x in zip(widths, inputs, strict=True)]
    barrier = threading.Barrier(len(widths))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            barrier.wait()
            for _ in range(6):
                with torch.no_grad():
                    got = call(net.subnet(widths[number]).eval(), inputs[number])
                assert_close(got, wanted[number], 1e-12)
        except BaseException as error:  # raised by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(widths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# -- statistics --------------------------------------------------------------------------------------------


def test_width_without_statistics_is_refused_and_the_calibrated_ones_are_named(net: aw.Supernet, x: Tensor) -> None:
    with pytest.raises(UncalibratedError, match=r"width 0.5 has no batch-norm statistics; calibrated: none"):
        net.subnet(0.5).eval()(x)
    aw.calibrate(net, [x], widths=[0.25, 0.75])
    with pytest.raises(UncalibratedError, match=r"calibrated: 0.25, 0.75\. Run .*widths=\[0.5\]"):
        net.subnet(0.5).eval()(x)
    with pytest.raises(UncalibratedError, match=r"calibrated: 0.25, 0.75"):
        net.extract(0.5)
    with pytest.raises(UncalibratedError, match=r"calibrated: 0.25, 0.75"):
        aw.evaluate(net, [(x, torch.zeros(2, dtype=torch.long))], 0.5)
    net.subnet(0.25).eval()(x)


def test_statistics_are_out_of_date_when_a_weight_has_changed(net: aw.Supernet, x: Tensor) -> None:
    aw.calibrate(net, [x], widths=[0.25, 0.75])
    with torch.no_grad():
        net.model.head.bias.add_(1e-3)
    with pytest.raises(UncalibratedError, match=r"width 0.25 has .* before the weights changed, .*; calibrated: none"):
        net.subnet(0.25).eval()(x)
    with pytest.raises(UncalibratedError, match="before the weights changed"):
        net.extract(0.25)
    aw.calibrate(net, [x], widths=[0.75])
    with pytest.raises(UncalibratedError, match=r"calibrated: 0.75"):
        net.subnet(0.25).eval()(x)


@pytest.mark.parametrize("fused", [True, False])
def test_optimizer_steps_make_statistics_out_of_date(net: aw.Supernet, x: Tensor, fused: bool) -> None:
    aw.calibrate(net, [x], widths=[0.5])
    optimizer = torch.optim.AdamW(net.model.parameters(), fused=fused)
    net.model.train()(x).sum().backward()
    optimizer.step()
    with pytest.raises(UncalibratedError, match="before the weights changed"):
        net.subnet(0.5).eval()(x)


def test_uncalibrated_width_is_nan_wherever_the_check_is_passed_by(supernet_of: SupernetOf) -> None:
    net, x = supernet_of(find("residual")), find("residual").example()
    assert torch.isnan(net.subnet(0.5).eval().stem(x)).all()


def test_extract_uncalibrated_gives_fresh_statistics(net: aw.Supernet, x: Tensor) -> None:
    for width in (0.5, 1.0):
        dense = net.extract(width, calibrated=False)
        assert torch.equal(dense.norm.running_mean, torch.zeros_like(dense.norm.running_mean))
        assert dense.norm.track_running_stats
        dense.train()(x)
        assert dense.norm.num_batches_tracked == 1
    assert net.model.norm.running_mean.any()


def test_widths_that_round_alike_are_one_config_and_others_are_not(supernet_of: SupernetOf) -> None:
    net, x = supernet_of(find("residual")), find("residual").example()
    assert net.config(0.5) == net.config(0.501)
    aw.calibrate(net, [x], widths=[0.5])
    net.subnet(0.501).eval()(x)
    same_count = [{"stem*": 0.5, "a*": 1.0}, {"stem*": 0.5, "a*": 0.5}]
    aw.calibrate(net, [x], widths=same_count)
    first, second = (net.statistics[net.config(width)] for width in same_count)
    assert first["stem.1.running_mean"].shape == second["stem.1.running_mean"].shape
    assert (first["b.1.running_mean"] - second["b.1.running_mean"]).abs().max() > 1e-3


# -- freezing ----------------------------------------------------------------------------------------------


def test_frozen_patterns_and_ratios_of_the_user() -> None:
    case = find("residual")
    net = aw.Supernet(case.model(), case.example(), divisor=2, frozen="stem*", ratios={"a.0": 3})
    groups = {group.name: group for group in net.groups}
    assert groups["stem.0"].frozen == "asked for by 'stem*'"
    assert net.config(0.5) == aw.WidthConfig({"a.0": 12})
    assert net.config(0.26) == aw.WidthConfig({"a.0": 6})
    assert "asked for by 'stem*'" in net.summary()
    with pytest.raises(WidthError, match="'nothing' matches no channel group"):
        aw.Supernet(case.model(), case.example(), frozen=["nothing"])
    with pytest.raises(WidthError, match="ratio 7 does not divide the 24 channels of 'a.0'"):
        aw.Supernet(case.model(), case.example(), ratios={"a.0": 7})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = aw.Supernet(case.model(), case.example(), frozen="*")
    assert everything.subnet(0.5) is everything.model


def test_inverted_residuals_have_their_expansion_as_ratio(supernet_of: SupernetOf) -> None:
    net = supernet_of(find("inverted residuals"))
    ratios = [group.ratio for group in net.analysis.elastic if "conv.0.0" in group.name]
    assert ratios == [6, 6]


def test_functional_use_of_channels(supernet_of: SupernetOf) -> None:
    """A forward written with functions and bare parameters is narrowed like one written with modules."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(12, 3, 3, 3)), nn.Parameter(torch.randn(4, 12))
            self.gain = nn.Parameter(torch.randn(12))

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(x, self.first) * self.gain[None, :, None, None]
            return F.linear(torch.einsum("bchw->bc", x), self.second)

    net = aw.Supernet(Bare().double(), torch.randn(2, 3, 8, 8).double(), divisor=1)
    assert [group.channels for group in net.analysis.elastic] == [12]
    x = torch.randn(2, 3, 8, 8).double()
    (group,) = net.analysis.elastic
    full = copy.deepcopy(net.model)
    with torch.no_grad():
        full.second[:, 5:] = 0
    assert_close(net.subnet(aw.WidthConfig({group.name: 5}))(x), full(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_dense_copies_are_put_back_whatever_happens(layout: torch.memory_format) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 4, 1)).to(memory_format=layout)
    net = aw.Supernet(model, torch.randn(2, 3, 8, 8))
    subnet, x = net.subnet(0.5), torch.randn(2, 3, 8, 8)
    wanted = subnet(x)
    before = {name: (p.data_ptr(), p.stride()) for name, p in subnet.named_parameters()}

    def fail() -> None:
        with contiguous(subnet):
            assert all(p.is_contiguous(memory_format=layout) for p in subnet.parameters() if p.ndim == 4)
            assert torch.equal(subnet[1].weight, model[1].weight[:32, :16])
            torch.testing.assert_close(subnet(x), wanted)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert {name: (p.data_ptr(), p.stride()) for name, p in subnet.named_parameters()} == before
    with torch.no_grad():
        model[1].weight.zero_()
    assert not subnet[1].weight.any()


class LazySize(nn.Module):
    """Keeps the number of channels that its first forward sees."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 5)
        self.size: int | None = None
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).relu()
        self.size = self.size or h.shape[1]
        self.calls += 1
        return self.b(h.view(-1, self.size))


def test_a_size_that_the_full_network_keeps_stays_its_own() -> None:
    model, x = LazySize(), torch.randn(4, 6)
    net = aw.Supernet(model, x, divisor=1)
    aw.sandwich_step(net, x, torch.zeros(4, dtype=torch.long), widths=[1.0, 0.5])
    assert (model.size, net.subnet(0.5).size) == (16, 8)
    assert net.extract(0.75)(x).shape == (4, 5)
    assert net.extract(0.75).calls == model.calls
