"""Output of the processes that `torchrun` starts: one of them speaks, and an error is shown once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

from anywidth.cli.messages import log
from anywidth.core.errors import AnywidthError
from anywidth.runs.processes import Processes

__all__ = ["connected", "quiet_others"]


@contextmanager
def quiet_others(processes: Processes) -> Iterator[None]:
    """Context manager in which only the first process writes to the output and error streams."""
    if not processes.rank:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def connected(processes: Processes) -> Iterator[Processes]:
    """Context manager in which the processes exchange messages; an error in one or all of them is shown in one line.

    Raises:
        SystemExit: one of them failed, and the error has been shown.
    """
    if not processes.together:
        yield processes
        return
    import torch
    import torch.distributed as dist

    from anywidth.core.processes import OtherProcessError, connection_lost

    store = next(iter(dist.rendezvous("env://")))[0]  # pyright: ignore[reportPrivateImportUsage]
    # Objects travel between CPUs in any case; tensors on a GPU by its own means.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=processes.rank, world_size=processes.count)
    met = replace(processes, store=dist.PrefixStore("anywidth", store))  # pyright: ignore[reportPrivateImportUsage]
    try:
        yield met
    except OtherProcessError:
        met.wait_until_told()
    except AnywidthError as error:
        _show_once(met, str(error))
    except RuntimeError as error:
        if not connection_lost(error):
            raise
        _show_once(met, "another process of this training has ended; what was saved is kept, go on with --resume")
    else:
        return
    raise SystemExit(2)


def _show_once(processes: Processes, message: str) -> None:
    """Show an error, unless another process does: all of them may have met the same one."""
    if not processes.fails_first():
        processes.wait_until_told()
        return
    with redirect_stderr(sys.__stderr__):
        log("error", message)
    processes.has_told()
