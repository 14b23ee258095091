"""What has to hold for the subnets of any model, over the whole zoo."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.inputs import normalise_inputs
from proofs import (
    assert_close,
    assert_same_layers,
    call,
    configs,
    kept,
    masked,
    outputs,
    slicing_gradients,
    weighted,
    without_dropout,
)
from zoo import Case, cases

SupernetOf = Callable[[Case], aw.Supernet]


@pytest.mark.parametrize("case", cases(lambda case: case.masking))
def test_subnet_equals_full_network_whose_readers_of_dropped_channels_are_zero(
    case: Case, supernet_of: SupernetOf
) -> None:
    net, x = supernet_of(case), case.example(1)
    for config in configs(net):
        share_statistics(net, [config])
        sub, full = net.subnet(config).eval(), masked(net, config, case)
        with torch.no_grad():
            assert_close(call(sub, x), call(full, x))
        assert_same_layers(net, config, full, sub, x)


@pytest.mark.parametrize("case", cases())
def test_gradients_equal_autograd_through_slicing(case: Case, supernet_of: SupernetOf) -> None:
    net, x = supernet_of(case), case.example(2)
    without_dropout(net.model)
    for config, training in product(configs(net), (True, False)):
        net.model.zero_grad(set_to_none=True)
        share_statistics(net, [config])
        dense = net.extract(config).train(training)
        sub = net.subnet(config).train(training)
        got = call(sub, x)
        weights = [torch.randn(out.shape, dtype=torch.float64) for out in outputs(got)]
        weighted(got, weights).backward()
        wanted, gradients = slicing_gradients(net, config, dense, x, weights)
        assert_close(got, wanted)
        for name, parameter in net.model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert_close(gradient, gradients[name], 1e-6)


@pytest.mark.parametrize("case", cases())
def test_extracted_network_equals_subnet_and_is_independent(case: Case, supernet_of: SupernetOf) -> None:
    net, x = supernet_of(case), case.example(3)
    own = {tensor.untyped_storage().data_ptr() for tensor in net.model.state_dict().values()}
    for config in configs(net):
        share_statistics(net, [config])
        dense, sub = net.extract(config).eval(), net.subnet(config).eval()
        assert type(dense) is type(net.model)
        with torch.no_grad():
            for ours, theirs in zip(outputs(call(dense, x)), outputs(call(sub, x)), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        state = dense.state_dict()
        assert state.keys() == net.model.state_dict().keys() == sub.state_dict().keys()
        assert all(tensor.is_contiguous() for tensor in state.values())
        assert not own & {tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()}
        for name, parameter in net.model.named_parameters():
            part = parameter.detach()
            for dim, indices in enumerate(kept(net, config, name)):
                part = part.index_select(dim, indices)
            assert torch.equal(dense.get_parameter(name), part)


@pytest.mark.parametrize("case", cases())
def test_everything_elastic_is_proved_and_state_dict_keeps_its_keys(case: Case, supernet_of: SupernetOf) -> None:
    plain = case.model()
    net = supernet_of(case)
    assert bool(net.analysis.elastic) == case.elastic
    assert not net.analysis.unknown
    ours, theirs = net.model.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    for config in configs(net):
        share_statistics(net, [config])
        call(net.subnet(config), case.example())
    for name, tensor in net.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("case", cases(few=True))
def test_modules_of_a_subnet_say_what_they_are(case: Case, supernet_of: SupernetOf) -> None:
    net = supernet_of(case)
    for config in configs(net):
        for module in net.subnet(config).modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
                assert module.weight.shape == shape
            elif isinstance(module, nn.modules.conv._ConvTransposeNd):
                shape = (module.in_channels, module.out_channels // module.groups, *module.kernel_size)
                assert module.weight.shape == shape
            elif isinstance(module, nn.Linear):
                assert module.weight.shape == (module.out_features, module.in_features)
            elif isinstance(module, nn.modules.batchnorm._NormBase) and module.affine:
                assert module.weight.shape == (module.num_features,)
            elif isinstance(module, nn.GroupNorm):
                assert module.weight.shape == (module.num_channels,)
                assert module.num_channels % module.num_groups == 0


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
def test_zero_grad_anywhere_and_optimizer_steps_reach_all_widths(case: Case, supernet_of: SupernetOf) -> None:
    net, x = supernet_of(case), case.example(4)
    without_dropout(net.model)
    net.model.train()
    chosen = configs(net)
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.01)

    def gradients(place: str) -> list[torch.Tensor]:
        for config in chosen:  # leave old gradients everywhere
            call_loss(net.subnet(config).train(), x).backward()
        if place == "before":
            optimizer.zero_grad(set_to_none=True)
        losses = []
        for config in chosen:
            losses.append(call_loss(net.subnet(config).train(), x))
        if place == "between":
            optimizer.zero_grad(set_to_none=True)
        elif place == "kept":
            optimizer.zero_grad(set_to_none=False)
        for loss in losses:
            loss.backward()
        found = [p.grad.clone() for p in net.model.parameters() if p.grad is not None and p.grad.any()]
        optimizer.zero_grad(set_to_none=True)
        for config in chosen:
            assert all(p.grad is None for p in net.subnet(config).parameters())
        return found

    assert_close(gradients("between"), gradients("before"), 1e-12)
    assert_close(gradients("kept"), gradients("before"), 1e-12)

    held = [net.subnet(config) for config in chosen]
    call_loss(net.model, x).backward()
    optimizer.step()
    for config, sub in zip(chosen, held, strict=True):
        share_statistics(net, [config])
        with torch.no_grad():
            assert_close(call(sub.eval(), x), call(net.extract(config).eval(), x), 1e-12)


def call_loss(model: nn.Module, x: object) -> torch.Tensor:
    return sum(out.square().sum() for out in outputs(call(model, x)) if out.requires_grad)  # type: ignore[return-value]


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
def test_export_takes_a_subnet(case: Case, supernet_of: SupernetOf) -> None:
    net, x = supernet_of(case), case.example(5)
    config = configs(net)[-1]
    share_statistics(net, [config])
    sub = net.subnet(config).eval()
    inputs = normalise_inputs(x)
    program = torch.export.export(sub, inputs.args, inputs.kwargs, strict=False)
    with torch.no_grad():
        assert_close(program.module()(*inputs.args, **inputs.kwargs), call(sub, x))
