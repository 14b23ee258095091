"""Time of a sandwich step over (a) four separately built dense networks and (b) layers that slice in autograd.

    uv run python benchmarks/sandwich_step.py [--rounds 15] [--batches 8,16,64]

All three run the same four widths on the same batch, with the same losses, forward and backward, and a step of SGD with
momentum: one for a supernet, one per network for the dense ones. `--gradients-only` leaves the optimizers out, which
favours the dense networks: a supernet has to add four gradients, they have not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from autograd_slicing import SlicedNetwork
from timing import interleaved, ratio, write_result
from torch import Tensor, nn

import anywidth as aw
from anywidth.training import soft_cross_entropy

WIDTHS = (1.0, 0.25, 0.4, 0.7)


def gradients(networks: Iterable[nn.Module], x: Tensor, y: Tensor) -> None:
    """Forward and backward of networks one after the other, the first teaching the rest."""
    teacher: Tensor | None = None
    for network in networks:
        output = network(x)
        if teacher is None:
            F.cross_entropy(output, y).backward()
            teacher = output.detach()
        else:
            soft_cross_entropy(output, teacher).backward()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the papers, at a learning rate that changes nothing much."""
    return torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", default="8,16,64")
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    parser.add_argument("--gradients-only", action="store_true")
    arguments = parser.parse_args()
    rows = []
    print(f"{'model':<14}{'batch':>6}{'anywidth ms':>13}{'/ dense':>9}{'/ slicing':>11}")
    for name in arguments.models.split(","):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, num_classes=100)
        net = aw.Supernet(model, torch.randn(1, 3, 32, 32))
        configs = [net.config(width) for width in WIDTHS]
        dense = [net.extract(config, calibrated=False).train() for config in configs]
        sliced = SlicedNetwork(net)
        model.train()
        optimizers = {
            "anywidth": [sgd(model)],
            "dense": [sgd(network) for network in dense],
            "slicing": [sgd(sliced.model)],
        }
        for batch in map(int, arguments.batches.split(",")):
            x, y = torch.randn(batch, 3, 32, 32), torch.randint(100, (batch,))
            work: dict[str, Callable[[], object]] = {
                "anywidth": partial(aw.sandwich_step, net, x, y, widths=configs),
                "dense": partial(gradients, dense, x, y),
                "slicing": lambda x=x, y=y, sliced=sliced, configs=configs: gradients(map(sliced.at, configs), x, y),
            }

            def run(variant: str, work: dict = work, optimizers: dict = optimizers) -> None:
                for optimizer in optimizers[variant]:
                    optimizer.zero_grad()
                work[variant]()
                if not arguments.gradients_only:
                    for optimizer in optimizers[variant]:
                        optimizer.step()

            times = interleaved({name: partial(run, name) for name in work}, rounds=arguments.rounds)
            row = {
                "model": name,
                "batch": batch,
                "anywidth_ms": round(1e3 * sorted(times["anywidth"])[len(times["anywidth"]) // 2], 2),
                "over_dense": round(ratio(times, "anywidth", "dense"), 4),
                "over_slicing": round(ratio(times, "anywidth", "slicing"), 4),
            }
            rows.append(row)
            print(
                f"{name:<14}{batch:>6}{row['anywidth_ms']:>13}{row['over_dense']:>9.3f}{row['over_slicing']:>11.3f}",
                flush=True,
            )
    print("written to", write_result("gradients" if arguments.gradients_only else "sandwich_step", rows))


if __name__ == "__main__":
    main()
