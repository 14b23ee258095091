"""The processes that `torchrun` starts, including this one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

__all__ = ["Processes"]

_FAILED, _SHOWN = "anywidth failed", "anywidth error shown"
_PATIENCE = timedelta(seconds=10)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Position of this process among those that run one command together.

    Attributes:
        rank: Global rank; rank 0 writes files and messages.
        count: World size, over all machines.
        local_rank: Rank on this machine, which selects the GPU.
        per_machine: Number of processes on this machine.
        store: Key-value store shared by the processes, once they are connected.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    per_machine: int = 1
    store: Store | None = None

    @classmethod
    def of_environment(cls) -> Processes:
        """The processes of `torchrun`, or this one alone."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, count, local_rank, per_machine = (int(os.environ[name]) for name in names)
        return cls(rank=rank, count=count, local_rank=local_rank, per_machine=per_machine)

    @property
    def together(self) -> bool:
        """Whether there are several processes."""
        return self.count > 1

    @property
    def command(self) -> str:
        """Command prefix that starts the same number of processes again.

        >>> Processes(count=4, per_machine=2).command
        'torchrun --nnodes 2 --nproc-per-node 2 -m anywidth'
        """
        if not self.together:
            return "anywidth"
        machines = self.count // self.per_machine
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {self.per_machine} -m anywidth"

    @property
    def failed(self) -> bool:
        """Whether a process has reported an error."""
        return self.store is not None and self.store.check([_FAILED])

    def close(self) -> None:
        """Destroy the process group. Skip this after an interruption: it waits for processes that may be gone."""
        if self.store is not None:
            import torch.distributed as dist

            dist.destroy_process_group()

    def batches(self, size: int) -> str:
        """Images per step over all processes, as a line of text; empty for a single process."""
        if not self.together:
            return ""
        return f"\n{self.count} processes with batches of {size}: {self.count * size:,} images a step"

    def offset_seed(self, seed: int) -> None:
        """Give each process but the first its own random numbers from now on, for example for dropout."""
        if self.rank:
            import torch

            torch.manual_seed((seed + self.rank * 1_000_003) % 2**32)

    def is_first_failure(self) -> bool:
        """Register this process as failed; return whether it is the first, which has to show the error."""
        assert self.store is not None
        try:
            return self.store.add(_FAILED, 1) == 1
        except RuntimeError:  # torchrun, which hosts the store, has exited
            return True

    def mark_error_shown(self) -> None:
        """Signal to the other processes that the error has been shown."""
        assert self.store is not None
        self.store.set(_SHOWN, "yes")

    def wait_until_error_shown(self) -> None:
        """Wait until another process has shown the error: torchrun kills all processes once one exits."""
        assert self.store is not None
        try:
            self.store.wait([_SHOWN], _PATIENCE)
        except RuntimeError:
            return
