"""The processes that `torchrun` starts, of which this is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

__all__ = ["Processes"]

_FAILED, _TOLD = "anywidth failed", "anywidth told"
_PATIENCE = timedelta(seconds=10)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Where this process stands among those that run one command together.

    Attributes:
        rank: Its number, from 0; the first writes and speaks.
        count: How many there are, on all machines.
        local_rank: Its number on its machine, from 0, which is that of its GPU.
        per_machine: How many there are on its machine.
        store: What they tell each other through, once they have met.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    per_machine: int = 1
    store: Store | None = None

    @classmethod
    def of_environment(cls) -> Processes:
        """Those of `torchrun`, or this one alone."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, count, local_rank, per_machine = (int(os.environ[name]) for name in names)
        return cls(rank=rank, count=count, local_rank=local_rank, per_machine=per_machine)

    @property
    def together(self) -> bool:
        """Whether there is more than one."""
        return self.count > 1

    @property
    def command(self) -> str:
        """How the command line begins that starts as many again.

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
        """Whether one of them has told an error."""
        return self.store is not None and self.store.check([_FAILED])

    def part(self) -> None:
        """Say goodbye to the others, who do so too; after an interruption they may not, and it would take for ever."""
        if self.store is not None:
            import torch.distributed as dist

            dist.destroy_process_group()

    def batches(self, size: int) -> str:
        """What all of them see in a step, on a line of its own."""
        if not self.together:
            return ""
        return f"\n{self.count} processes with batches of {size}: {self.count * size:,} images a step"

    def draw_apart(self, seed: int) -> None:
        """Let every process but the first draw random numbers of its own from now on, such as those of dropout."""
        if self.rank:
            import torch

            torch.manual_seed((seed + self.rank * 1_000_003) % 2**32)

    def fails_first(self) -> bool:
        """Note that this process fails; whether it is the first that does, so that it has to show the error."""
        assert self.store is not None
        try:
            return self.store.add(_FAILED, 1) == 1
        except RuntimeError:  # torchrun, which keeps the store, has ended
            return True

    def has_told(self) -> None:
        """Let the other processes know that the error has been shown."""
        assert self.store is not None
        self.store.set(_TOLD, "yes")

    def wait_until_told(self) -> None:
        """Wait until the error of another process has been shown: torchrun ends all as soon as one has."""
        assert self.store is not None
        try:
            self.store.wait([_TOLD], _PATIENCE)
        except RuntimeError:
            return
