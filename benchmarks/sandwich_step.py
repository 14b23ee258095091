"""Time of a sandwich step over (a) four separately built dense networks and (b) layers that slice in autograd.

    uv run python benchmarks/sandwich_step.py [--rounds 15] [--batches 8,16,64]

All three run the same four widths on the same batch, with the same losses, forward and backward; no optimizer step is
timed, of which the dense networks would need four.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
import torchvision
from autograd_slicing import SlicedNetwork
from timing import interleaved, ratio, write_result
from torch import Tensor, nn

import anywidth as aw
import anywidth.training

WIDTHS = (1.0, 0.25, 0.4, 0.7)


def step(networks: list[nn.Module], parameters: list[Tensor], x: Tensor, y: Tensor) -> None:
    """Forward and backward of networks one after the other, the first teaching the rest."""
    for parameter in parameters:
        parameter.grad = None
    teacher: Tensor | None = None
    for network in networks:
        output = network(x)
        if teacher is None:
            F.cross_entropy(output, y).backward()
            teacher = output.detach()
        else:
            aw.training.soft_cross_entropy(output, teacher).backward()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", default="8,16,64")
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    arguments = parser.parse_args()
    rows = []
    print(f"{'model':<14}{'batch':>6}{'anywidth ms':>13}{'/ dense':>9}{'/ slicing':>11}")
    for name in arguments.models.split(","):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, num_classes=100)
        net = aw.Supernet(model, torch.randn(1, 3, 32, 32))
        configs = [net.config(width) for width in WIDTHS]
        dense = [net.extract(config, calibrated=False).train() for config in configs]
        dense_parameters = [parameter for network in dense for parameter in network.parameters()]
        sliced = SlicedNetwork(net)
        model.train()
        for batch in map(int, arguments.batches.split(",")):
            x, y = torch.randn(batch, 3, 32, 32), torch.randint(100, (batch,))

            def ours(x: Tensor = x, y: Tensor = y, net: aw.Supernet = net, configs: list = configs) -> None:
                for parameter in net.model.parameters():
                    parameter.grad = None
                aw.sandwich_step(net, x, y, widths=configs)

            def separate(x: Tensor = x, y: Tensor = y, dense: list = dense, own: list = dense_parameters) -> None:
                step(dense, own, x, y)

            def slicing(x: Tensor = x, y: Tensor = y, sliced: SlicedNetwork = sliced, configs: list = configs) -> None:
                for parameter in sliced.model.parameters():
                    parameter.grad = None
                teacher: Tensor | None = None
                for config in configs:
                    output = sliced.at(config)(x)
                    if teacher is None:
                        F.cross_entropy(output, y).backward()
                        teacher = output.detach()
                    else:
                        aw.training.soft_cross_entropy(output, teacher).backward()

            times = interleaved(
                {"anywidth": ours, "dense": separate, "slicing": slicing}, rounds=arguments.rounds
            )
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
    print("written to", write_result("sandwich_step", rows))


if __name__ == "__main__":
    main()
