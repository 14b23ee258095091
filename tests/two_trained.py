"""What two processes that train together compute, for `training/test_distributed.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import TrainingError
from anywidth.core.processes import any_rank
from anywidth.data import DataBundle, TensorImages, make_loaders
from anywidth.evaluation import evaluate
from anywidth.training import same_start, sync_gradients
from anywidth.training.lightning import SandwichModule
from anywidth.training.strategy import SandwichStrategy

WIDTHS = (0.25, 0.6, 1.0)
COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "barrier", "broadcast",
    "broadcast_object_list", "gather", "gather_object", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter",
)  # fmt: skip


def plain_network() -> nn.Module:
    """Without batch norm, whose statistics are of each process's own batch."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.GroupNorm(2, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    ).double()


def norm_network() -> nn.Module:
    """With batch norms."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def chain_network() -> nn.Module:
    """Without norms, with weights from channels to channels."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 3),
    ).double()  # fmt: skip


def supernet(network: nn.Module, **options: object) -> aw.Supernet:
    example = torch.randn(1, 1, 8, 8, dtype=next(network.parameters()).dtype)
    return aw.Supernet(network, example, **options)  # type: ignore[arg-type]


def data() -> DataBundle:
    """37 images, an odd number."""
    generator = torch.Generator().manual_seed(2)
    images = TensorImages(torch.randn(37, 1, 8, 8, generator=generator), torch.arange(37) % 3)
    return DataBundle(
        name="mine", train=images, test=images, calibration=images, input_shape=(1, 8, 8), classes=("a", "b", "c")
    )


def batch(rank: int, world: int) -> tuple[Tensor, Tensor]:
    """This process's part of a batch of 12."""
    images = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    return images[rank::world], (torch.arange(12) % 3)[rank::world]


def gradients(net: aw.Supernet) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.model.named_parameters() if p.grad is not None}


def switched(rank: int, world: int) -> aw.Supernet:
    """A network with batch norms of each width, after a step on this process's part of the batch."""
    net = supernet(norm_network(), switches=(0.5, 1.0))
    aw.sandwich_step(net, *(part.float() if part.is_floating_point() else part for part in batch(rank, world)))
    return net


def synchronised(rank: int, world: int, **options: object) -> dict[str, Tensor]:
    """The gradients of a step, synchronised after it."""
    net = supernet(plain_network())
    aw.sandwich_step(net, *batch(rank, world), widths=WIDTHS, **options)  # type: ignore[arg-type]
    sync_gradients(net.model.parameters())
    return gradients(net)


def nested(rank: int, world: int) -> aw.Supernet:
    """A nested network after a step on this process's part of the batch."""
    net = supernet(chain_network(), nested=(0.5, 1.0))
    aw.nested_step(net, *batch(rank, world))
    return net


@contextmanager
def collectives() -> Iterator[Counter[str]]:
    """Counts the collective operations that are called within it, by name."""
    counted: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            counted[name] += 1
            return function(*arguments, **options)

        return call

    whole = {name: getattr(dist, name) for name in COLLECTIVES}
    for name, function in whole.items():
        setattr(dist, name, counting(name, function))
    try:
        yield counted
    finally:
        for name, function in whole.items():
            setattr(dist, name, function)


class CountedSteps(SandwichModule):
    """Keeps the collectives of every training step."""

    steps: list[dict[str, int]]

    def training_step(self, *arguments: Any) -> Any:
        with collectives() as counted:
            result = super().training_step(*arguments)
        self.steps = [*getattr(self, "steps", []), dict(counted)]
        return result


def quiet_trainer(world: int, folder: Path) -> Trainer:
    """Two epochs in several processes."""
    return Trainer(
        max_epochs=2, accelerator="cpu", devices=world, strategy=SandwichStrategy(), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=folder,
    )  # fmt: skip


def trained(
    rank: int, world: int, folder: Path, *, nested: tuple[float, ...] | None = None, **options: Any
) -> dict[str, object]:
    """Weights, widths, statistics and accuracy after two epochs by Lightning, of a network with batch norms."""
    torch.manual_seed(rank)  # processes that draw other random numbers and start from other weights
    net = supernet(norm_network(), nested=nested)
    with torch.no_grad():
        net.model[0].weight.add_(rank)  # type: ignore[operator,union-attr]
    net.sampler = aw.widths.WidthSampler(0.25, seed=rank)
    loaders = make_loaders(data(), batch_size=4, rank=rank, world_size=world)
    module = CountedSteps(net, lr=0.05, **options)
    quiet_trainer(world, folder).fit(module, loaders.train)
    if nested is None:
        aw.calibrate(net, loaders.calibration, [0.5])
    return {
        "weights": {name: p.detach().clone() for name, p in net.model.named_parameters()},
        "sampler": net.sampler.state_dict(),
        "accuracy": evaluate(net, loaders.test, 0.5),
        "collectives": module.steps,
    }


def trained_switches(rank: int, world: int, folder: Path) -> dict[str, Tensor]:
    """What switches have of their own after an epoch by Lightning; every process starts from others."""
    network = norm_network()
    with torch.no_grad():
        network[1].weight.add_(rank)  # type: ignore[operator,union-attr]
    net = supernet(network, switches=(0.5, 1.0))
    loaders = make_loaders(data(), batch_size=4, rank=rank, world_size=world)
    quiet_trainer(world, folder).fit(SandwichModule(net, lr=0.05), loaders.train)
    return {name: tensor.clone() for name, tensor in net.switch_state().items() if "running" not in name}


def program(rank: int, world: int, folder: Path) -> dict[str, Any]:
    """Everything, in one of two processes."""
    with collectives() as counted:
        found: dict[str, object] = {"gradients": synchronised(rank, world)}
    found["counted"] = dict(counted)
    found["any_rank"] = [any_rank(rank == 1), any_rank(False)]

    net = switched(rank, world)
    sync_gradients(net.parameters())
    found["switches"] = [p.grad.clone() for p in net.parameters() if p.grad is not None]

    net = nested(rank, world)
    with collectives() as counted:
        sync_gradients(net.model.parameters())
    found["nested"], found["nested counted"] = gradients(net), dict(counted)
    found["trained nested"] = trained(rank, world, folder, nested=(0.5, 1.0))

    net = supernet(norm_network())
    for sequential in (False, True):
        loaders = make_loaders(data(), batch_size=8, rank=rank, world_size=world)
        aw.calibrate(net, loaders.calibration, [0.5], sequential=sequential)
        statistics = {n: b.clone() for n, b in net.subnet(0.5).named_buffers() if "running" in n}
        found[f"statistics {sequential}"] = statistics
    loaders = make_loaders(data(), batch_size=8, rank=rank, world_size=world)
    found["accuracy"] = evaluate(net, loaders.test, 0.5)
    found["images"] = sum(len(targets) for _, targets in loaders.test)

    try:
        same_start(nn.Linear(3, 2 + rank))
    except TrainingError as error:
        found["different"] = str(error)
    dist.barrier()
    found["trained"] = trained(rank, world, folder)
    found["skipping"] = trained(rank, world, folder, skip=True)["collectives"]
    found["trained switches"] = trained_switches(rank, world, folder)
    return found
