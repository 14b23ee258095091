"""CUDA graphs of passes do what the passes do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import TrainingError
from anywidth.models import build_model
from anywidth.training import Execution
from anywidth.training.pass_graphs import PassGraphs, require_replaceable, run_directly

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
WIDTHS = (1.0, 0.25, 0.5, 0.75)


def test_a_network_on_the_cpu_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    net = aw.Supernet(model, torch.randn(1, 4))
    with pytest.raises(TrainingError, match="on a GPU"):
        aw.sandwich_step(net, torch.randn(8, 4), torch.randint(3, (8,)), execution=Execution(runner=PassGraphs(net)))


def _trained(model: nn.Module, steps: int, *, graphs: bool, **options: object) -> tuple[list[Tensor], nn.Module, int]:
    net = aw.Supernet(model, torch.randn(1, 3, 32, 32, device="cuda", dtype=torch.float64))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    runner = PassGraphs(net) if graphs else None
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        x = torch.randn(16, 3, 32, 32, generator=generator).cuda().double()
        y = torch.randint(10, (16,), generator=generator).cuda()
        optimizer.zero_grad()
        more = {} if runner is None else {"runner": runner}
        losses.append(aw.sandwich_step(net, x, y, widths=WIDTHS, **more, **options).losses)  # type: ignore[arg-type]
        optimizer.step()
    return losses, model, 0 if runner is None else len(runner)


@needs_gpu
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "torchvision/shufflenet_v2_x0_5"])
def test_steps_from_graphs_train_as_steps_do(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, input_shape=(3, 32, 32)).cuda().double()
    for module in model.modules():  # random numbers differ in graphs
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain, theirs, _ = _trained(copy.deepcopy(model), 6, graphs=False)
    graphed, ours, number = _trained(copy.deepcopy(model), 6, graphs=True)
    assert number == len(WIDTHS)
    for a, b in zip(plain, graphed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def _net_and_batch() -> tuple[aw.Supernet, Tensor, Tensor]:
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10, input_shape=(3, 32, 32)).cuda()
    net = aw.Supernet(model, torch.randn(1, 3, 32, 32, device="cuda"))
    return net, torch.randn(8, 3, 32, 32, device="cuda"), torch.randint(10, (8,), device="cuda")


@needs_gpu
def test_weights_that_moved_are_recorded_again() -> None:
    net, x, y = _net_and_batch()
    model, graphs = net.model, PassGraphs(net)

    def step(runner: Callable[..., object]) -> Tensor:
        model.zero_grad()
        return aw.sandwich_step(net, x, y, widths=WIDTHS, execution=Execution(runner=runner)).losses  # type: ignore[arg-type]

    for _ in range(3):
        step(graphs)
    assert len(graphs) == len(WIDTHS)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone().mul_(0.5)
    step(graphs)
    assert len(graphs) == 0
    step(graphs)
    torch.testing.assert_close(step(graphs), step(run_directly), rtol=1e-3, atol=1e-4)


@needs_gpu
def test_half_precision_and_gradients_of_several_batches_add_up() -> None:
    net, x, y = _net_and_batch()
    model, graphs = net.model, PassGraphs(net)

    def gradients(batches: int, *, scale: float) -> Tensor:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            for _ in range(batches):
                aw.sandwich_step(net, x, y, widths=WIDTHS, scale=scale, execution=Execution(runner=graphs))
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    for scale in (0.5, 1.0):  # recorded by the second pass
        gradients(3, scale=scale)
    twice, once = gradients(2, scale=0.5), gradients(1, scale=1.0)
    assert float((twice - once).norm() / once.norm()) < 0.02


def test_a_teacher_that_a_recording_cannot_replace_is_refused() -> None:
    require_replaceable({"a": (torch.ones(1), None, "x"), "b": [torch.ones(1)]})
    with pytest.raises(TrainingError, match="tensors inside the teacher's SimpleNamespace"):
        require_replaceable((SimpleNamespace(logits=torch.ones(1)),))
