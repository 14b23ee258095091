"""Time of a training step with channels last over one with the default memory layout.

    uv run python benchmarks/channels_last.py [--device cuda --precision bf16 --batch 256]

The step is a forward and backward pass of the full width and of 0.25, the first and last of a sandwich step.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial

import torch
from small_images import add_options, batch_for, shape_for, step
from timing import interleaved, ratio, write_result

import anywidth as aw
from anywidth.models import build_model


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, models="digits,resnet18,mobilenet_v2,shufflenet,timm/mobilenetv4_conv_small")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        shape = shape_for(name)
        model = build_model(name, num_classes=10, input_shape=shape)
        x, y = batch_for(name, arguments)
        nets = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            nets[layout] = aw.Supernet(copy.deepcopy(model), torch.randn(1, *shape))
            nets[layout].model.to(arguments.device, memory_format=layout).train()  # type: ignore[call-overload]
        variants = {
            str(layout): partial(step, net, x, y, precision=arguments.precision, widths=2)
            for layout, net in nets.items()
        }
        times = interleaved(variants, rounds=arguments.rounds)
        rows.append({"model": name, "over_default": round(ratio(times, *reversed(times)), 3)})
        print(f"{name:<28} {rows[-1]['over_default']}", flush=True)
    kind = "" if arguments.precision == "32" else f"_{arguments.precision}"
    print("written to", write_result(f"channels_last{kind}", rows, device=arguments.device))


if __name__ == "__main__":
    main()
