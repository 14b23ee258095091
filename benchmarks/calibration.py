"""Time of batch-norm calibration of a width over a training-mode forward pass on the same images.

    uv run python benchmarks/calibration.py [--rounds 15]

The forward pass runs without gradients, and its batch norms also compute the moments of every batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
import torchvision
from timing import interleaved, ratio, write_result
from torch import Tensor, nn

import anywidth as aw


@torch.no_grad()
def forward(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """One training-mode pass."""
    network.train()
    for x in batches:
        network(x)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    print(f"{'model':<14}{'width':>6}{'batch':>6}{'forward ms':>12}{'calibrate /':>13}")
    for name in ("resnet18", "mobilenet_v2"):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, num_classes=100)
        net = aw.Supernet(model, torch.randn(1, 3, 32, 32))
        for width, batch in ((0.25, 64), (0.5, 64), (0.5, 256)):
            batches = [torch.randn(batch, 3, 32, 32) for _ in range(1024 // batch)]
            dense = net.extract(width, calibrated=False)
            times = interleaved(
                {
                    "calibrate": partial(aw.calibrate, net, batches, [width]),
                    "forward": partial(forward, dense, batches),
                },
                rounds=arguments.rounds,
            )
            row = {
                "model": name,
                "width": width,
                "batch": batch,
                "forward_ms": round(1e3 * sorted(times["forward"])[arguments.rounds // 2], 1),
                "calibrate_over_forward": round(ratio(times, "calibrate", "forward"), 4),
            }
            rows.append(row)
            print(
                f"{name:<14}{width:>6}{batch:>6}{row['forward_ms']:>12}{row['calibrate_over_forward']:>13.3f}",
                flush=True,
            )
    print("written to", write_result("calibration", rows))


if __name__ == "__main__":
    main()
