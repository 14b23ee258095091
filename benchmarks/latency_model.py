"""Error of a latency model on subnets that it was not fitted to.

    uv run python benchmarks/latency_model.py [--configs 48] [--held-out 16]

The model is a constant plus a cost per MAC of every operator. It is fitted to measured uniform and nonuniform subnets
of ResNet-18 and MobileNetV2 at 32x32, and compared with measurements of other subnets. Errors are relative to the
measurements.
"""

from __future__ import annotations

import argparse

import torch
from timing import write_result

import anywidth as aw
from anywidth.cost import fit_latency
from anywidth.models import build_model


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=16)
    arguments = parser.parse_args()
    rows = []
    for name in ("resnet18", "mobilenet_v2"):
        net = aw.Supernet(build_model(name, num_classes=10, input_shape=(3, 32, 32)), torch.randn(4, 3, 32, 32))
        model = fit_latency(net, configs=arguments.configs, held_out=arguments.held_out)
        rows.append({"model": name, "median_error": round(model.error, 4), "worst_error": round(model.worst, 4)})
        print(f"{name:<14} median error {model.error:.1%}, worst {model.worst:.1%}")
    print("written to", write_result("latency_model", rows))


if __name__ == "__main__":
    main()
