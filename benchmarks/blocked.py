"""Time of a blocked network over the dense one of the same width, in PyTorch and ONNX Runtime.

    uv run python benchmarks/blocked.py [--models resnet18] [--batches 1,8] [--rounds 20]

Both have the same weights: `net.blocked(1.0)` skips the products with zero blocks, `net.extract(1.0)` computes them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from timing import interleaved, ratio, write_result
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.inputs import normalise_inputs
from anywidth.export.session import open_session, runner

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def run(network: nn.Module, x: Tensor) -> None:
    """One forward pass without gradients."""
    with torch.inference_mode():
        network(x)


def written(net: aw.Supernet, *, blocked: bool) -> Callable[[Tensor], object]:
    """Function that runs the exported full network."""
    with tempfile.TemporaryDirectory() as folder:
        path = aw.export(net, 1.0, Path(folder, "net.onnx"), blocked=blocked).path
        call = runner(open_session(path))
    return lambda x: call(normalise_inputs(x))


def measure(name: str, batches: list[int], arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The rows of one model."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    net = aw.Supernet(model, torch.randn(1, 3, arguments.size, arguments.size), nested=WIDTHS)
    networks = {"dense": net.extract(1.0).eval(), "blocked": net.blocked(1.0).eval()}
    networks["every block"] = net.blocked(1.0, smallest=0).eval()
    sessions = {kind: written(net, blocked=kind == "blocked") for kind in ("dense", "blocked")}
    rows: list[dict[str, object]] = []
    for batch in batches:
        x = torch.randn(batch, 3, arguments.size, arguments.size)
        row: dict[str, object] = {"model": name, "size": arguments.size, "batch": batch}
        row["macs_over_dense"] = round(aw.macs(net, 1.0) / aw.macs(net, 1.0, dense=True), 3)
        calls = {kind: partial(run, network, x) for kind, network in networks.items()}
        times = interleaved(calls, rounds=arguments.rounds)
        row["dense_ms"] = round(1e3 * statistics.median(times["dense"]), 2)
        row |= {f"{kind.replace(' ', '_')}_over_dense": round(ratio(times, kind, "dense"), 3) for kind in calls}
        del row["dense_over_dense"]
        times = interleaved({kind: partial(call, x) for kind, call in sessions.items()}, rounds=arguments.rounds)
        row["onnx_dense_ms"] = round(1e3 * statistics.median(times["dense"]), 2)
        row["onnx_blocked_over_dense"] = round(ratio(times, "blocked", "dense"), 3)
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--models", default="resnet18")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    arguments = parser.parse_args()
    batches = list(map(int, arguments.batches.split(",")))
    rows = [row for name in arguments.models.split(",") for row in measure(name, batches, arguments)]
    print("written to", write_result("blocked", rows))


if __name__ == "__main__":
    main()
