"""Time of a greedy search that shares activations over one that computes every candidate from the input.

    uv run python benchmarks/autoslim.py [--steps 3] [--images 40] [--models resnet18,mobilenet_v2]

Both take the same steps down from the widest network, in turns, and must make the same decisions, with the same
accuracies and losses. The first step is listed but not counted, because it includes the one-off check that sharing does
not change any number. Images are 32x32 noise, with equal numbers for batch-norm statistics and for scores. The weights
come from a few sandwich steps.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from timing import write_result

import anywidth as aw
from anywidth.models import build_model
from anywidth.search import Scorer, SearchData, SearchSettings, Step
from anywidth.search.methods.greedy import descend

SIDE, CLASSES = 32, 100


def supernet(name: str) -> aw.Supernet:
    """A supernet after a few steps of training, so that groups differ in importance."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=CLASSES, input_shape=(3, SIDE, SIDE))
    rules = {rule: getattr(model, rule) for rule in ("divisor", "min_width", "frozen")}
    net = aw.Supernet(model, torch.randn(1, 3, SIDE, SIDE), **rules)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        aw.sandwich_step(net, torch.randn(16, 3, SIDE, SIDE), torch.randint(CLASSES, (16,)))
        optimizer.step()
    return net


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        net = supernet(name)
        count = arguments.images
        data = SearchData.of(
            [torch.randn(count, 3, SIDE, SIDE)], [(torch.randn(count, 3, SIDE, SIDE), torch.randint(CLASSES, (count,)))]
        )
        scorers = {
            kind: Scorer(net, data, aw.macs, settings=SearchSettings(memory=memory))
            for kind, memory in (("shared", 4e9), ("naive", 0))
        }
        budgets = scorers["naive"].budgets("20%")
        steps: dict[str, list[Step]] = {kind: [] for kind in scorers}
        for number in range(1, arguments.steps + 1):
            for kind in list(scorers)[:: 1 if number % 2 else -1]:  # what is known is not computed again
                steps[kind].append(descend(scorers[kind], budgets, steps=number)[0][-1])
        alike = [step.network for step in steps["shared"]] == [step.network for step in steps["naive"]]
        same = scorers["shared"].state.scores == scorers["naive"].state.scores
        ratios = [a.seconds / b.seconds for a, b in zip(steps["shared"], steps["naive"], strict=True)]
        counted = [sum(step.seconds for step in steps[kind][1:]) for kind in ("shared", "naive")]
        row = {
            "model": name,
            "candidates": steps["naive"][0].candidates,
            "naive_seconds_per_step": round(statistics.mean(step.seconds for step in steps["naive"]), 2),
            "shared_over_naive": round(counted[0] / counted[1], 4),
            "first_step": round(ratios[0], 4),
            "same_decisions": alike,
            "same_scores": same,
        }
        rows.append(row)
        print(row, flush=True)
        if not alike:
            raise SystemExit(f"{name}: the two searches decided differently")
    print("written to", write_result("autoslim", rows))


if __name__ == "__main__":
    main()
