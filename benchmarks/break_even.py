"""After how many steps compiled widths have earned the time of their compiling.

    uv run python benchmarks/break_even.py [--models digits,resnet20] [--ladder 4] [--device cuda --precision bf16]

Per width of the ladder, compiling takes so long (forward and backward, the first call); a step is then so much faster.
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
from anywidth.training.compiled import CompiledSubnets
from anywidth.widths import WidthSampler


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, models="digits,resnet20")
    parser.add_argument("--ladder", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        shape = shape_for(name)
        model = build_model(name, num_classes=10, input_shape=shape)
        net = aw.Supernet(channels_last_(model), torch.randn(2, *shape))
        model.to(arguments.device).train()
        ladder = even_widths(net, arguments.ladder)
        net.sampler = WidthSampler(net.min_width, ladder=ladder)
        x, y = batch_for(name, arguments)
        compiled = CompiledSubnets()
        run = partial(step, net, x, y, precision=arguments.precision)
        four = [1.0, net.min_width, ladder[1], ladder[-2]]
        start = time.perf_counter()
        run(widths=ladder, wrap=compiled)
        seconds = time.perf_counter() - start
        times = interleaved(
            {"compiled": partial(run, widths=four, wrap=compiled), "eager": partial(run, widths=four)},
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
