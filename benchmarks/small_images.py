"""What benchmarks of steps on small images share: a network's batch, and a step on it."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

import anywidth as aw

__all__ = ["add_options", "batch_for", "shape_for", "step"]


def add_options(parser: argparse.ArgumentParser, *, models: str) -> None:
    """Options about networks, batches, rounds and the device."""
    parser.add_argument("--models", default=models)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")


def shape_for(model: str) -> tuple[int, int, int]:
    """The images that a network is made for here: those of the digits, or colour ones of 32 pixels."""
    return (1, 8, 8) if model == "digits" else (3, 32, 32)


def batch_for(model: str, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Random images and labels of ten classes."""
    x = torch.randn(arguments.batch, *shape_for(model), device=arguments.device)
    return x, torch.randint(10, (arguments.batch,), device=arguments.device)


def step(net: aw.Supernet, x: Tensor, y: Tensor, *, precision: str, **options: Any) -> None:
    """The gradients of a sandwich step, finished when this returns; options are those of `sandwich_step`."""
    net.model.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        aw.sandwich_step(net, x, y, **options)
    if x.is_cuda:
        torch.cuda.synchronize()
