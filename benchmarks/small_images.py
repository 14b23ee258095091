"""Shared code of benchmarks on small images: a network's batch, and a step on it."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

import anywidth as aw

__all__ = ["add_options", "batch_for", "shape_for", "step"]


def add_options(parser: argparse.ArgumentParser, *, models: str) -> None:
    """Options for networks, batches, rounds and the device."""
    parser.add_argument("--models", default=models)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")


def shape_for(model: str) -> tuple[int, int, int]:
    """The image shape of a network: that of the digits, or color images of 32 pixels."""
    return (1, 8, 8) if model == "digits" else (3, 32, 32)


def batch_for(model: str, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Random images and labels of ten classes."""
    x = torch.randn(arguments.batch, *shape_for(model), device=arguments.device)
    return x, torch.randint(10, (arguments.batch,), device=arguments.device)


def step(net: aw.Supernet, x: Tensor, y: Tensor, *, precision: str, **options: Any) -> None:
    """Compute the gradients of a sandwich step and wait for them; options are those of `sandwich_step`."""
    net.model.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        aw.sandwich_step(net, x, y, **options)
    if x.is_cuda:
        torch.cuda.synchronize()
