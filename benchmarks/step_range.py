"""The shortest and the longest sandwich step of four widths, over a step of the full network alone.

    uv run python benchmarks/step_range.py [--models digits,resnet18,mobilenet_v2] [--device cuda --precision bf16]

A step is shortest if both random widths are the narrowest, and longest if both are the widest. The mean is over random
widths. Steps are forward and backward passes without an optimizer, with channels last.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from small_images import add_options, batch_for, shape_for, step
from timing import interleaved, ratio, write_result
from torch import Tensor

import anywidth as aw
from anywidth.models import build_model, channels_last_


def alone(net: aw.Supernet, x: Tensor, y: Tensor, *, precision: str) -> None:
    """The gradients of the full network alone."""
    net.model.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        F.cross_entropy(net.model(x), y).backward()
    if x.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, models="digits,resnet18,mobilenet_v2")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        shape = shape_for(name)
        model = build_model(name, num_classes=10, input_shape=shape)
        net = aw.Supernet(channels_last_(model), torch.randn(2, *shape))
        model.to(arguments.device).train()
        x, y = batch_for(name, arguments)
        run = partial(step, net, x, y, precision=arguments.precision)
        low = net.min_width
        times = interleaved(
            {
                "alone": partial(alone, net, x, y, precision=arguments.precision),
                "shortest": partial(run, widths=[1.0, low, low, low]),
                "random": run,
                "longest": partial(run, widths=[1.0, low, 1.0, 1.0]),
            },
            rounds=arguments.rounds,
        )
        mean = sum(times["random"]) / sum(times["alone"])
        rows.append({
            "model": name, "alone_ms": round(1e3 * sorted(times["alone"])[len(times["alone"]) // 2], 2),
            "shortest": round(ratio(times, "shortest", "alone"), 2), "mean": round(mean, 2),
            "longest": round(ratio(times, "longest", "alone"), 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
    print("written to", write_result("step_range", rows, device=arguments.device))


if __name__ == "__main__":
    main()
