"""Time of a sandwich step over (a) four separately built dense networks and (b) layers that slice in autograd.

    uv run python benchmarks/sandwich_step.py [--rounds 15] [--batches 8,16,64]
    uv run python benchmarks/sandwich_step.py --device cuda --precision bf16 --channels-last --batches 256 [--graphs]

All three run the same four widths on the same batch, with the same losses, forward and backward, and a step of SGD with
momentum: one for a supernet, one per network for the dense ones. `--gradients-only` leaves out the optimizers, which
favors the dense networks, because only a supernet has to add four gradients. `--graphs` runs the supernet and the dense
networks from CUDA graphs, and `--compile` compiles both; slicing layers are not changed. No variant checks that losses
are finite, because every step would then wait for the GPU.

On a GPU, the peak memory of a step is compared with a step of the widest network alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from autograd_slicing import SlicedNetwork
from timing import interleaved, measured, ratio, suffix, write_result
from torch import Tensor, nn
from training_steps import peak_memory, sgd

import anywidth as aw
from anywidth.training import Execution, soft_cross_entropy
from anywidth.training.pass_graphs import PassGraphs, run_directly

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


class GraphedGradients:
    """`gradients`, from one CUDA graph per network."""

    def __init__(self, networks: Sequence[nn.Module], x: Tensor, y: Tensor, cast: Callable[[], torch.autocast]) -> None:
        self.x, self.y = x.clone(), y.clone()
        self.graphs = []
        pool = torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), cast():
            gradients(networks, self.x, self.y)
        torch.cuda.current_stream().wait_stream(side)
        teacher: Tensor | None = None
        for network in networks:
            network.zero_grad()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool), cast():
                output = network(self.x)
                if teacher is None:
                    F.cross_entropy(output, self.y).backward()
                    teacher = output.detach()
                else:
                    soft_cross_entropy(output, teacher).backward()
            self.graphs.append(graph)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Compute the gradients of one batch; earlier ones are overwritten."""
        self.x.copy_(x)
        self.y.copy_(y)
        for graph in self.graphs:
            graph.replay()


def measure(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, object]:
    """The row of one model and batch size."""
    torch.manual_seed(0)
    device, size = torch.device(arguments.device), arguments.size
    model = torchvision.models.get_model(name, weights=None, num_classes=100)
    net = aw.Supernet(model, torch.randn(1, 3, size, size))
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    configs = [net.config(width) for width in WIDTHS]
    x = torch.randn(batch, 3, size, size, device=device)
    y = torch.randint(100, (batch,), device=device)

    def cast(cached: bool = True) -> torch.autocast:
        wanted = arguments.precision == "bf16"
        return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=cached)

    def step(optimizers: list[torch.optim.Optimizer], passes: Callable[[], object], *, zero: bool = True) -> None:
        if zero:
            for optimizer in optimizers:
                optimizer.zero_grad()
        with cast():
            passes()
        if not arguments.gradients_only:
            for optimizer in optimizers:
                optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    own = [sgd(model)]
    runner = PassGraphs(net) if arguments.graphs else run_directly
    sandwich = partial(
        aw.sandwich_step, net, x, y, widths=configs, execution=Execution(runner=runner, check_finite=False)
    )
    row: dict[str, object] = {"model": name, "size": size, "batch": batch}
    if device.type == "cuda" and not arguments.graphs:  # before there are networks to compare with
        alone, every = partial(step, own, partial(gradients, [model], x, y)), partial(step, own, sandwich)
        for work in (alone, every):  # the first steps choose kernels and make the state of the optimizer
            work()
        widest, whole = peak_memory(alone), peak_memory(every)
        row |= {"widest_mib": widest >> 20, "sandwich_mib": whole >> 20, "memory": round(whole / widest, 3)}
    dense = [net.extract(config, calibrated=False).train() for config in configs]
    dense = [network.to(memory_format=layout) for network in dense]  # type: ignore[call-overload]
    theirs = [sgd(network) for network in dense]
    if arguments.compile:
        torch._dynamo.config.recompile_limit = 64
        for network in [*(net.subnet(config) for config in configs), *dense]:
            network.compile()
    graphed = GraphedGradients(dense, x, y, partial(cast, cached=False)) if arguments.graphs else None
    variants: dict[str, Callable[[], object]] = {
        "anywidth": partial(step, own, sandwich),
        "dense": partial(step, theirs, partial(graphed or partial(gradients, dense), x, y), zero=graphed is None),
    }
    if not arguments.compile:
        sliced = SlicedNetwork(net)
        each = [sgd(sliced.model)]
        variants["slicing"] = partial(step, each, lambda: gradients(map(sliced.at, configs), x, y))
    times = interleaved(variants, rounds=arguments.rounds, warmup=4)
    row["anywidth_ms"] = round(1e3 * statistics.median(times["anywidth"]), 2)
    row["images_per_s"] = round(batch / statistics.median(times["anywidth"]))
    for other in list(variants)[1:]:
        row[f"over_{other}"] = round(ratio(times, "anywidth", other), 4)
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", default="8,16,64")
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--gradients-only", action="store_true")
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    rows = measured(measure, arguments)
    parts = {
        arguments.precision: arguments.precision != "32",
        "channels-last": arguments.channels_last,
        "gradients": arguments.gradients_only,
        "graphs": arguments.graphs,
        "compiled": arguments.compile,
        f"{arguments.size}px": arguments.size != 32,
    }
    print("written to", write_result(f"sandwich_step{suffix(parts)}", rows, device=arguments.device))


if __name__ == "__main__":
    main()
