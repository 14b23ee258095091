"""The processes that `torchrun` starts, of which this is one: how they meet, and which of them speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from anywidth.cli.messages import log
from anywidth.core.errors import AnywidthError

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

    @contextmanager
    def quiet_others(self) -> Iterator[None]:
        """Within it, nothing is shown but by the first."""
        if not self.rank:
            yield
            return
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield

    @contextmanager
    def met(self) -> Iterator[Processes]:
        """Within it, they can talk to each other; of an error in one or all of them, one line is shown.

        Raises:
            SystemExit: one of them failed, which has been said.
        """
        if not self.together:
            yield self
            return
        import torch
        import torch.distributed as dist

        from anywidth.core.processes import OtherProcessError, connection_lost

        store = next(iter(dist.rendezvous("env://")))[0]  # pyright: ignore[reportPrivateImportUsage]
        # Objects travel between CPUs in any case; tensors on a GPU by its own means.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.count)
        met = replace(self, store=dist.PrefixStore("anywidth", store))  # pyright: ignore[reportPrivateImportUsage]
        try:
            yield met
        except OtherProcessError:
            met._listen()
        except AnywidthError as error:
            met._tell(str(error))
        except RuntimeError as error:
            if not connection_lost(error):
                raise
            met._tell("another process of this training has ended; what was saved is kept, go on with --resume")
        else:
            return
        raise SystemExit(2)

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

    def _tell(self, message: str) -> None:
        """Show an error, unless another process does: all of them may have met the same one."""
        assert self.store is not None
        try:
            first = self.store.add(_FAILED, 1) == 1
        except RuntimeError:  # torchrun, which keeps the store, has ended
            first = True
        if not first:
            self._listen()
            return
        with redirect_stderr(sys.__stderr__):
            log("error", message)
        self.store.set(_TOLD, "yes")

    def _listen(self) -> None:
        """Wait until the error of another process has been shown: torchrun ends all as soon as one has."""
        assert self.store is not None
        try:
            self.store.wait([_TOLD], _PATIENCE)
        except RuntimeError:
            return
