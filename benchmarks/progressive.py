"""Time and MACs of progressive inference, from the narrowest width to the widest, over one pass of the full network.

    uv run python benchmarks/progressive.py [--rounds 15] [--batches 1,8] [--threads 1]
    uv run python benchmarks/progressive.py --device cuda --models resnet18 --batches 1,8,64

`over_full` is the time of all steps over that of the full network with dense kernels, `over_subnets` over running the
subnet of every width, which is the way to the same answers without progressive inference. `first` is the time of the
first answer over that of the full network. `macs` counts what kernels compute, in all steps, over the full network.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from timing import interleaved, measured, ratio, suffix, write_result
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.models import build_model
from anywidth.supernet.progressive import Progressive

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def refine_to_the_end(runner: Progressive, x: Tensor) -> None:
    """Answer at every width."""
    runner.start(x)
    while runner.next_width is not None:
        runner.refine()


def run_subnets(net: aw.Supernet, x: Tensor) -> None:
    """Answer at every width, from nothing each time."""
    for width in WIDTHS:
        net.subnet(width)(x)


def flops(work: Callable[[], object]) -> int:
    """FLOPs of the kernels that something runs."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@torch.no_grad()
def measure(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, object]:
    """The row of one model and batch size."""
    torch.manual_seed(0)
    device, size = torch.device(arguments.device), arguments.size
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    model = build_model(name, num_classes=1000, input_shape=(3, size, size)).eval()
    net = aw.Supernet(model, torch.randn(1, 3, size, size), nested=WIDTHS)
    model.to(device, memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    runner = net.progressive()
    works: dict[str, Callable[[], object]] = {
        "progressive": partial(refine_to_the_end, runner, x),
        "first": partial(runner.start, x),
        "full": partial(model, x),
        "subnets": partial(run_subnets, net, x),
    }

    def finished(work: Callable[[], object]) -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    variants = {kind: partial(finished, work) for kind, work in works.items()}
    times = interleaved(variants, rounds=arguments.rounds, warmup=3)
    row: dict[str, object] = {"model": name, "size": size, "batch": batch}
    row["ms"] = round(1e3 * statistics.median(times["progressive"]), 2)
    row |= {f"over_{kind}": round(ratio(times, "progressive", kind), 3) for kind in ("full", "subnets")}
    row["first"] = round(ratio(times, "first", "full"), 3)
    row["macs"] = round(flops(works["progressive"]) / flops(works["full"]), 3)
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = measured(measure, arguments)
    parts = {"channels-last": arguments.channels_last, f"{arguments.size}px": arguments.size != 224}
    print("written to", write_result(f"progressive{suffix(parts)}", rows, device=arguments.device))


if __name__ == "__main__":
    main()
