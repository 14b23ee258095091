"""Two processes that train together, for the tests of what they do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.multiprocessing.spawn import start_processes

from forked import fork_context

WORLD = 2

Program = Callable[[int, int, Path], dict[str, Any]]


def run_in_two(program: Program, folder: Path) -> list[dict[str, Any]]:
    """What a function returns in each of two processes of one group; it gets its rank, the world size and a folder."""
    start_processes(_run, (program, folder), nprocs=WORLD, start_method=fork_context().get_start_method())
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def _run(rank: int, program: Program, folder: Path) -> None:
    # What torchrun sets, and Lightning looks for.
    os.environ |= {"TORCHELASTIC_RUN_ID": "two", "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=WORLD)
    torch.save(program(rank, WORLD, folder), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
