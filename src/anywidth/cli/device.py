"""The device that a command runs on."""

from __future__ import annotations

import torch

from anywidth.cli.options import SettingsError

__all__ = ["pick_device"]


def pick_device(name: str, precision: str = "32", *, graphs: bool = False) -> torch.device:
    """The device of a name; `auto` is the GPU if torch can use one.

    Raises:
        SettingsError: there is no GPU, or the precision or CUDA graphs need one.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise SettingsError("--device cuda: torch finds no GPU here; choose --device cpu")
    device = torch.device("cuda" if gpu and name != "cpu" else "cpu")
    if precision == "16" and device.type == "cpu":
        raise SettingsError("--precision 16 needs a GPU; choose bf16 or 32")
    if graphs and device.type == "cpu":
        raise SettingsError("--graphs needs a GPU, and torch finds none here; leave it out")
    return device
