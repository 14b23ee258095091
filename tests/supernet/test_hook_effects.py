"""Hooks that the user registers later: those that change numbers are noticed, those that only look are not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_file
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)

import anywidth as aw
from anywidth.core.errors import ModelChangedError, UncalibratedError
from built_once import built_once

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def is_first(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.in_features == 4


def write(module: nn.Module, args: Any, output: Tensor) -> None:
    output.mul_(3)


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda layer: layer.register_forward_hook(lambda module, args, output: output * 3),
    "keywords": lambda layer: layer.register_forward_hook(lambda m, a, k, output: output * 3, with_kwargs=True),
    "in place": lambda layer: layer.register_forward_hook(write),
    "pre": lambda layer: layer.register_forward_pre_hook(lambda module, args: (args[0] * 3,)),
    "pre, no tuple": lambda layer: layer.register_forward_pre_hook(lambda module, args: args[0] * 3),
    "pre, keywords": lambda layer: layer.register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] * 3,), kwargs), with_kwargs=True
    ),
    "all modules": lambda _: register_module_forward_hook(
        lambda module, args, output: output * 3 if is_first(module) else None
    ),
    "all modules, in place": lambda _: register_module_forward_hook(
        lambda module, args, output: write(module, args, output) if is_first(module) else None
    ),
    "all modules, keywords": lambda _: register_module_forward_hook(
        lambda module, args, kwargs, output: output * 3 if is_first(module) else None, with_kwargs=True
    ),
    "all modules, pre": lambda _: register_module_forward_pre_hook(
        lambda module, args: args[0] * 3 if is_first(module) else None
    ),
    "all modules, pre, of the whole network": lambda _: register_module_forward_pre_hook(
        lambda module, args: args[0] * 3 if isinstance(module, nn.Sequential) else None
    ),
}
LOOKS: dict[str, Callable[[nn.Module, list[Any]], Any]] = {
    "forward": lambda layer, seen: layer.register_forward_hook(lambda m, a, output: seen.append(output.shape)),
    "same": lambda layer, seen: layer.register_forward_hook(lambda m, a, output: (seen.append(1), output)[1]),
    "pre": lambda layer, seen: layer.register_forward_pre_hook(lambda module, args: seen.append(1)),
    "pre, same": lambda layer, seen: layer.register_forward_pre_hook(lambda module, args: (seen.append(1), args)[1]),
    "backward": lambda layer, seen: layer.register_full_backward_hook(lambda *_: seen.append(1)),
    "all modules": lambda _, seen: register_module_forward_hook(lambda *given: log(seen, *given)),
    "all modules, pre": lambda _, seen: register_module_forward_pre_hook(lambda *given: log(seen, *given)),
    "all modules, backward": lambda _, seen: register_module_full_backward_hook(lambda *given: log(seen, *given)),
}


@pytest.fixture(autouse=True)
def _no_hooks_of_all_modules_are_left() -> Iterator[None]:
    yield
    tables = (
        module_file._global_forward_hooks,
        module_file._global_forward_pre_hooks,
        module_file._global_backward_hooks,
        module_file._global_forward_hooks_with_kwargs,
        module_file._global_forward_hooks_always_called,
    )
    for table in tables:
        table.clear()


def log(seen: list[Any], module: nn.Module, *_: Any) -> None:
    """Note one kind of module, to be compared with the hook of one layer."""
    if isinstance(module, nn.ReLU):
        seen.append(1)


@built_once
def normed() -> tuple[nn.Sequential, aw.Supernet]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)).eval()
    net = aw.Supernet(model, X)
    aw.calibrate(net, [X], [0.5])
    return model, net


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_changes_numbers_makes_statistics_out_of_date(hook: str, inference: bool) -> None:
    model, net = normed()
    handle = HOOKS[hook](model[0])
    with torch.inference_mode(inference), pytest.raises(UncalibratedError, match="hooks or attributes of the model"):
        net.subnet(0.5)(X)
    with pytest.raises(UncalibratedError):
        net.extract(0.5)
    aw.calibrate(net, [X], [0.5])
    right = aw.Supernet(copy.deepcopy(model), X)
    aw.calibrate(right, [X], [0.5])
    torch.testing.assert_close(net.subnet(0.5)(X), right.subnet(0.5)(X))
    torch.testing.assert_close(net.extract(0.5)(X), right.subnet(0.5)(X))
    handle.remove()
    with pytest.raises(UncalibratedError):
        net.subnet(0.5)(X)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the input of the network needs no gradient
@pytest.mark.parametrize("hook", LOOKS)
def test_a_hook_that_looks_leaves_statistics_as_they_are(hook: str) -> None:
    model, net = normed()
    wanted = net.subnet(0.5)(X).detach()
    seen: list[Any] = []
    handle = LOOKS[hook](model[2], seen)
    for _ in range(2):
        output = net.subnet(0.5)(X)
        output.sum().backward()
        assert torch.equal(output.detach(), wanted)
    assert len(seen) == 2
    handle.remove()
    assert torch.equal(net.subnet(0.5)(X), wanted)


@pytest.mark.parametrize("hook", [name for name in HOOKS if name.startswith("all modules")])
def test_a_hook_of_all_modules_is_noticed_by_a_subnet_from_before(hook: str) -> None:
    _, net = normed()
    subnet = net.subnet(0.5)
    wanted = subnet(X)
    handle = HOOKS[hook](subnet)
    with pytest.raises(UncalibratedError):
        subnet(X)
    handle.remove()
    aw.calibrate(net, [X], [0.5])
    torch.testing.assert_close(net.subnet(0.5)(X), wanted)


def test_a_hook_of_all_modules_that_looks_keeps_subnets() -> None:
    _, net = normed()
    subnet = net.subnet(0.5)
    for _ in range(3):
        handle = LOOKS["all modules"](subnet, seen := [])
        assert net.subnet(0.5) is subnet
        subnet(X)
        assert len(seen) == 1
        handle.remove()


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("hook", [name for name in LOOKS if name.startswith("all modules")])
def test_hooks_of_all_modules_that_look_may_be_there_from_the_start(hook: str) -> None:
    LOOKS[hook](nn.ReLU(), seen := [])
    model, net = normed()
    model.train()
    seen.clear()
    aw.sandwich_step(net, X, torch.zeros(16, dtype=torch.long), widths=[1.0, 0.5])
    assert len(seen) == 2


def test_other_networks_keep_their_hooks_of_all_modules() -> None:
    _, net = normed()
    handle = HOOKS["all modules"](net.model)
    with pytest.raises(UncalibratedError):
        net.subnet(0.5)(X)
    layer = nn.Linear(4, 2)
    tripled = layer(X)
    handle.remove()
    torch.testing.assert_close(tripled, 3 * layer(X))
    assert not module_file._global_forward_hooks


def test_a_hook_from_before_calibration_is_covered_by_it() -> None:
    model, net = normed()
    HOOKS["forward"](model[0])
    aw.calibrate(net, [X], [0.5, 0.25])
    wanted = net.subnet(0.5)(X)
    net.subnet(0.25)(X)
    torch.testing.assert_close(copy.deepcopy(net).subnet(0.5)(X), wanted)


def test_a_training_step_with_a_new_hook_needs_no_statistics() -> None:
    model, net = normed()
    HOOKS["forward"](model[0])
    model.train()
    aw.sandwich_step(net, X, torch.zeros(16, dtype=torch.long), widths=[1.0, 0.5])
    model.eval()
    with pytest.raises(UncalibratedError):
        net.subnet(0.5)(X)


def mix(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output - output.mean(1, keepdim=True)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()


def test_groups_are_proved_again_with_a_hook_that_ties_channels() -> None:
    model = plain()
    net = aw.Supernet(model, X)
    model[1].register_forward_hook(lambda module, args, output: output + output.flip(1))
    net.subnet(0.5)(X)
    fresh = aw.Supernet(copy.deepcopy(model), X)
    assert net.analysis.narrows_like(fresh.analysis)
    torch.testing.assert_close(net.subnet(0.5)(X), fresh.subnet(0.5)(X))
    assert torch.equal(net.subnet(0.5)[0].weight, model[0].weight[[*range(8), *range(24, 32)]])  # type: ignore[index]


RUNS: dict[str, Callable[[aw.Supernet], Any]] = {
    "subnet": lambda net: net.subnet(0.5)(X),
    "progressive": lambda net: net.progressive().start(X, 1.0),
    "step": lambda net: aw.nested_step(net, X, torch.zeros(16, dtype=torch.long)),
}


def mix_all(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    return mix(module, args, output) if isinstance(module, nn.ReLU) else None


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("all_modules", [False, True])
def test_a_nested_network_refuses_a_new_hook_that_changes_numbers(run: str, all_modules: bool) -> None:
    model = plain()
    net = aw.Supernet(model, X, nested=(0.25, 0.5, 1.0))
    before = net.subnet(0.5)(X)
    handle = register_module_forward_hook(mix_all) if all_modules else model[1].register_forward_hook(mix)
    for _ in range(2):
        with pytest.raises(
            ModelChangedError, match=r"a new forward hook of ('1'|all modules) changes what layers receive.*nested="
        ):
            RUNS[run](net)
    handle.remove()
    RUNS[run](net)
    torch.testing.assert_close(net.subnet(0.5)(X), before)


def test_a_nested_network_may_have_hooks_that_look_or_that_it_was_built_with() -> None:
    model, seen = plain(), []
    model[1].register_forward_hook(lambda module, args, output: output * 2)
    net = aw.Supernet(model, X, nested=(0.25, 0.5, 1.0))
    LOOKS["forward"](model[1], seen)
    runner = net.progressive()
    runner.start(X, 0.25)
    torch.testing.assert_close(runner.refine(1.0), model(X))
    assert seen
    aw.nested_step(net, X, torch.zeros(16, dtype=torch.long))


def test_a_copied_subnet_has_the_hook_alone() -> None:
    model, net = normed()
    handle = model[0].register_forward_hook(write)
    (hook,) = pickle.loads(pickle.dumps(copy.deepcopy(net.subnet(0.5))[0]))._forward_hooks.values()
    assert hook is write
    handle.remove()
