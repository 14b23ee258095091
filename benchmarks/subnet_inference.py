"""Time of a served width, and of a bound subnet, over an extracted dense network.

    uv run python benchmarks/subnet_inference.py [--rounds 40]

A served width is the result of `net.extract`, compared with a separately built network of the same shape. A bound
subnet (`net.subnet`) runs on slices of the supernet's weights.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial

import torch
import torchvision
from timing import interleaved, ratio, write_result
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics


def run(network: nn.Module, x: Tensor) -> None:
    """One forward pass without gradients."""
    with torch.inference_mode():
        network(x)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    rows = []
    print(f"{'model':<14}{'width':>6}{'batch':>6}{'dense ms':>10}{'served /':>10}{'bound /':>9}")
    for name in ("resnet18", "mobilenet_v2"):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, num_classes=100).eval()
        net = aw.Supernet(model, torch.randn(1, 3, 32, 32))
        for width in (0.25, 0.5):
            share_statistics(net, [width])
            dense = net.extract(width).eval()
            # The same architecture, on memory of its own that was never part of a supernet.
            alone = copy.deepcopy(dense)
            with torch.no_grad():
                for parameter in alone.parameters():
                    parameter.copy_(torch.randn_like(parameter) * 0.05)
            for batch in (1, 8, 64):
                x = torch.randn(batch, 3, 32, 32)
                networks = {"dense": alone, "served": dense, "bound": net.subnet(width).eval()}
                times = interleaved(
                    {key: partial(run, network, x) for key, network in networks.items()}, rounds=arguments.rounds
                )
                row = {
                    "model": name,
                    "width": width,
                    "batch": batch,
                    "dense_ms": round(1e3 * sorted(times["dense"])[arguments.rounds // 2], 3),
                    "served_over_dense": round(ratio(times, "served", "dense"), 4),
                    "bound_over_dense": round(ratio(times, "bound", "dense"), 4),
                }
                rows.append(row)
                print(
                    f"{name:<14}{width:>6}{batch:>6}{row['dense_ms']:>10}"
                    f"{row['served_over_dense']:>10.3f}{row['bound_over_dense']:>9.3f}",
                    flush=True,
                )
    print("written to", write_result("subnet_inference", rows))


if __name__ == "__main__":
    main()
