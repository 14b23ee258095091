"""Number of steps after which compiling widths pays off.

    uv run python benchmarks/break_even.py [--models digits,resnet20] [--grid 4] [--device cuda --precision bf16]

It measures the time to compile each width of the grid (forward and backward, the first call), and how much faster a
step then is.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch
from small_images import add_options, batch_for, shape_for, step
from timing import interleaved, ratio, write_result

import anywidth as aw
from anywidth.evaluation import even_widths
from anywidth.models import build_model, channels_last_
from anywidth.training import Execution
from anywidth.training.compiled import CompiledSubnets
from anywidth.widths import WidthSampler


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, models="digits,resnet18")
    parser.add_argument("--grid", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        shape = shape_for(name)
        model = build_model(name, num_classes=10, input_shape=shape)
        net = aw.Supernet(model, torch.randn(2, *shape))
        channels_last_(model, narrowest=net.subnet(net.min_width))
        model.to(arguments.device).train()
        grid = even_widths(net, arguments.grid)
        net.sampler = WidthSampler(net.min_width, grid=grid)
        x, y = batch_for(name, arguments)
        compiled = CompiledSubnets()
        run = partial(step, net, x, y, precision=arguments.precision)
        four = [1.0, net.min_width, grid[1], grid[-2]]
        start = time.perf_counter()
        run(widths=grid, execution=Execution(wrap=compiled))
        seconds = time.perf_counter() - start
        times = interleaved(
            {
                "compiled": partial(run, widths=four, execution=Execution(wrap=compiled)),
                "eager": partial(run, widths=four),
            },
            rounds=arguments.rounds,
        )
        faster = ratio(times, "compiled", "eager")
        eager = sorted(times["eager"])[len(times["eager"]) // 2]
        saved = eager * (1 - faster)
        rows.append({
            "model": name, "widths": len(compiled), "compiling_s": round(seconds, 1), "eager_ms": round(1e3 * eager, 2),
            "over_eager": round(faster, 3), "steps_to_break_even": round(seconds / saved) if saved > 0 else None,
        })  # fmt: skip
        print(rows[-1], flush=True)
    print("written to", write_result("break_even", rows, device=arguments.device))


if __name__ == "__main__":
    main()
