"""Gain from sorting the channels of a network that was trained at full width only.

    uv run python benchmarks/pretrained_order.py [--seeds 3]

A plain network is trained on the embedded digits at full width only. Then its calibrated accuracy at widths 0.5 and
0.25 is measured with the original order of channels and with important channels first, both before and after a short
fine-tuning by the sandwich rule. Results are mean and standard deviation over seeds, in percent.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from itertools import chain

import torch
import torch.nn.functional as F
from timing import write_result
from torch import nn

import anywidth as aw
from anywidth.data import Loaders, load_data, make_loaders
from anywidth.models import build_model
from anywidth.training.optimizer import parameter_groups
from anywidth.training.schedule import warmup_cosine

WIDTHS = (0.25, 0.5, 1.0)


def pretrain(model: nn.Module, loaders: Loaders, epochs: int) -> None:
    """Ordinary training on the labels, as in `PlainModule`."""
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-3), lr=0.1, momentum=0.9, nesterov=True)
    steps = len(loaders.train)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, warmup=steps, total=steps * epochs)
    )
    model.train()
    for images, labels in chain.from_iterable(loaders.train for _ in range(epochs)):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()


def tune(net: aw.Supernet, loaders: Loaders, epochs: int) -> None:
    """A short fine-tuning at all widths."""
    optimizer = torch.optim.SGD(parameter_groups(net.model, 5e-3), lr=0.02, momentum=0.9, nesterov=True)
    net.model.train()
    for images, labels in chain.from_iterable(loaders.train for _ in range(epochs)):
        optimizer.zero_grad()
        aw.sandwich_step(net, images, labels)
        optimizer.step()


def scores(net: aw.Supernet, loaders: Loaders) -> list[float]:
    """Accuracy at the widths, calibrated."""
    aw.calibrate(net, loaders.calibration, WIDTHS)
    return [row.score for row in aw.spectrum(net, loaders.test, WIDTHS)]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--tune", type=int, default=3, help="epochs of fine-tuning")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(arguments.seeds):
        bundle = load_data("digits", seed=seed)
        loaders = make_loaders(bundle, batch_size=64, seed=seed)
        torch.manual_seed(seed)
        plain = build_model("digits", num_classes=10, input_shape=bundle.input_shape)
        pretrain(plain, loaders, arguments.epochs)
        for order in (None, "l1"):
            model = copy.deepcopy(plain)
            net = aw.Supernet(model, torch.randn(1, *bundle.input_shape), divisor=1, order=order)
            name = "as trained" if order is None else f"order={order!r}"
            found.setdefault((name, "at once"), []).append(scores(net, loaders))
            tune(net, loaders, arguments.tune)
            found.setdefault((name, f"{arguments.tune} epochs later"), []).append(scores(net, loaders))
    rows = []
    print(f"{'channels':<14}{'when':<18}" + "".join(f"{width:>16}" for width in WIDTHS))
    for (name, when), results in found.items():
        columns = list(zip(*results, strict=True))
        means = [statistics.mean(column) for column in columns]
        spread = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
        print(f"{name:<14}{when:<18}" + "".join(f"{m:>9.2f} ±{s:5.2f}" for m, s in zip(means, spread, strict=True)))
        rows.append({"channels": name, "when": when, "widths": WIDTHS, "mean": means, "stdev": spread})
    print("written to", write_result("pretrained_order", rows))


if __name__ == "__main__":
    main()
