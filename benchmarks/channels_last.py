"""Time of a training step with channels laid out last over that with the default layout.

    uv run python benchmarks/channels_last.py [--device cuda --precision bf16 --batch 256]

The step is forward and backward of the full width and of 0.25, as they begin and end a sandwich step.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial

import torch
from timing import interleaved, ratio, write_result

import anywidth as aw
from anywidth.models import build_model


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--models", default="digits,resnet18,mobilenet_v2,shufflenet,timm/mobilenetv4_conv_small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    for name in arguments.models.split(","):
        shape = (1, 8, 8) if name == "digits" else (3, 32, 32)
        model = build_model(name, num_classes=10, input_shape=shape)
        x = torch.randn(arguments.batch, *shape, device=device)
        y = torch.randint(10, (arguments.batch,), device=device)
        nets = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            nets[layout] = aw.Supernet(copy.deepcopy(model), torch.randn(1, *shape))
            nets[layout].model.to(device, memory_format=layout).train()  # type: ignore[call-overload]

        def step(net: aw.Supernet, x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            net.model.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
                aw.sandwich_step(net, x, y, widths=2)
            if device.type == "cuda":
                torch.cuda.synchronize()

        times = interleaved({str(layout): partial(step, net) for layout, net in nets.items()}, rounds=arguments.rounds)
        rows.append({"model": name, "over_default": round(ratio(times, *reversed(times)), 3)})
        print(f"{name:<28} {rows[-1]['over_default']}", flush=True)
    kind = "" if arguments.precision == "32" else f"_{arguments.precision}"
    print("written to", write_result(f"channels_last{kind}", rows, device=arguments.device))


if __name__ == "__main__":
    main()
