"""Output of the processes that `torchrun` starts: only one writes, and an error is shown once."""

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
    """Context manager that silences the output and error streams of every process but the first."""
    if not processes.rank:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def connected(processes: Processes) -> Iterator[Processes]:
    """Context manager that connects the processes; an error in one or all of them is shown once, in one line.

    Raises:
        SystemExit: a process failed; the error has been shown.
    """
    if not processes.together:
        yield processes
        return
    import torch
    import torch.distributed as dist

    from anywidth.core.processes import OtherProcessError, connection_lost

    store = next(iter(dist.rendezvous("env://")))[0]  # pyright: ignore[reportPrivateImportUsage]
    # Gloo carries Python objects and CPU tensors; NCCL carries tensors on GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=processes.rank, world_size=processes.count)
    met = replace(processes, store=dist.PrefixStore("anywidth", store))  # pyright: ignore[reportPrivateImportUsage]
    try:
        yield met
    except OtherProcessError:
        met.wait_until_error_shown()
    except AnywidthError as error:
        _show_once(met, str(error))
    except RuntimeError as error:
        if not connection_lost(error):
            raise
        _show_once(met, "another process of this training ended; saved checkpoints are kept, continue with --resume")
    else:
        return
    raise SystemExit(2)


def _show_once(processes: Processes, message: str) -> None:
    """Show an error, unless another process already shows one: all of them may have raised the same error."""
    if not processes.is_first_failure():
        processes.wait_until_error_shown()
        return
    with redirect_stderr(sys.__stderr__):
        log("error", message)
    processes.mark_error_shown()
