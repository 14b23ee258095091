"""Device of a command."""

from __future__ import annotations

import torch

from anywidth.core.errors import SettingsError
from anywidth.core.processes import all_gather
from anywidth.runs.processes import Processes

__all__ = ["pick_device"]


def pick_device(
    name: str, precision: str = "32", *, graphs: bool = False, processes: Processes | None = None
) -> torch.device:
    """Device by name; `auto` selects the GPU if torch can use one.

    Args:
        name: auto, cpu or cuda.
        precision: 32, bf16 or 16.
        graphs: Whether CUDA graphs are used.
        processes: The processes that train together; each needs its own GPU.

    Raises:
        SettingsError: there are too few GPUs, or the precision or CUDA graphs need one.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise SettingsError("--device cuda: torch cannot find a GPU; use --device cpu")
    device = torch.device("cuda" if gpu and name != "cpu" else "cpu")
    if precision == "16" and device.type == "cpu":
        raise SettingsError("--precision 16 needs a GPU; use bf16 or 32")
    if graphs and device.type == "cpu":
        raise SettingsError("--graphs needs a GPU; leave it out to train on the CPU")
    if graphs and processes is not None and processes.together:
        raise SettingsError("--graphs works in a single process only; leave it out under torchrun")
    return device if processes is None or not processes.together else _own(device, processes)


def _own(device: torch.device, processes: Processes) -> torch.device:
    """This process's GPU, or the CPU if no process has a GPU."""
    if device.type == "cuda" and torch.cuda.device_count() < processes.per_machine:
        raise SettingsError(
            f"{processes.per_machine} processes share {torch.cuda.device_count()} GPUs; start one per GPU "
            f"(--nproc-per-node {torch.cuda.device_count()}), or use --device cpu"
        )
    if len(set(all_gather(device.type))) > 1:
        raise SettingsError("only some of the processes have a GPU; use --device cpu or cuda for all of them")
    if device.type == "cpu":
        return device
    torch.cuda.set_device(processes.local_rank)
    return torch.device("cuda", processes.local_rank)
