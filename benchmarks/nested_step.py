"""Time of a nested step over (a) a plain step of the full network and (b) a sandwich step of the same widths.

    uv run python benchmarks/nested_step.py [--rounds 15] [--batches 16,64,256]
    uv run python benchmarks/nested_step.py --device cuda --precision bf16 --channels-last --batches 256

All three run on the same batch, with a step of SGD with momentum: the nested network and the sandwich at four widths,
the plain network at full width. `keeping_zeros` is the share of the nested step that is spent on setting entries of
weights and gradients to zero. On a GPU, `memory` is the peak memory of a nested step over that of a plain one.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import interleaved, measured, ratio, suffix, write_result
from torch import Tensor, nn
from training_steps import peak_memory, sgd

import anywidth as aw
from anywidth.models import build_model
from anywidth.training import Execution

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def plain(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Forward and backward of one network."""
    F.cross_entropy(model(x), y).backward()


def keep_zeros(net: aw.Supernet) -> None:
    """Set the entries for later shells to zero, as a step does: of gradients twice, of weights once."""
    net.shells.zero_gradients_()
    net.shells.zero_gradients_()
    net.shells.zero_()


def measure(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, object]:
    """The row of one model and batch size."""
    torch.manual_seed(0)
    device, size = torch.device(arguments.device), arguments.size
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    x = torch.randn(batch, 3, size, size, device=device)
    y = torch.randint(100, (batch,), device=device)
    example = torch.randn(1, 3, size, size)
    make = partial(build_model, name, num_classes=100, input_shape=(3, size, size))
    nets = {"nested": aw.Supernet(make(), example, nested=WIDTHS), "sandwich": aw.Supernet(make(), example)}
    models = {kind: net.model for kind, net in nets.items()} | {"plain": make()}
    for model in models.values():
        model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    passes: dict[str, Callable[[], object]] = {
        "nested": partial(aw.nested_step, nets["nested"], x, y, check_finite=False),
        "sandwich": partial(
            aw.sandwich_step, nets["sandwich"], x, y, widths=WIDTHS[::-1], execution=Execution(check_finite=False)
        ),
        "plain": partial(plain, models["plain"], x, y),
    }

    def step(kind: str, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            passes[kind]()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    variants: dict[str, Callable[[], object]] = {kind: partial(step, kind, sgd(models[kind])) for kind in passes}
    row: dict[str, object] = {"model": name, "size": size, "batch": batch}
    if device.type == "cuda":
        for work in variants.values():  # the first steps choose kernels and make the state of the optimizer
            work()
        row["memory"] = round(peak_memory(variants["nested"]) / peak_memory(variants["plain"]), 3)
    variants["zeros"] = partial(keep_zeros, nets["nested"])
    times = interleaved(variants, rounds=arguments.rounds, warmup=3)
    row["nested_ms"] = round(1e3 * statistics.median(times["nested"]), 2)
    row["images_per_s"] = round(batch / statistics.median(times["nested"]))
    row |= {f"over_{kind}": round(ratio(times, "nested", kind), 3) for kind in ("plain", "sandwich")}
    row["keeping_zeros"] = round(ratio(times, "zeros", "nested"), 4)
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", default="16,64,256")
    parser.add_argument("--models", default="resnet18,resnet20,mobilenet_v2")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    rows = measured(measure, arguments)
    parts = {
        arguments.precision: arguments.precision != "32",
        "channels-last": arguments.channels_last,
        f"{arguments.size}px": arguments.size != 32,
    }
    print("written to", write_result(f"nested_step{suffix(parts)}", rows, device=arguments.device))


if __name__ == "__main__":
    main()
