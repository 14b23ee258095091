"""Processes forked from one that has imported the package, which costs less than starting Python for each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as counter
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

__all__ = ["Done", "Forked", "fork_context", "run_together"]

_PRELOADED = ["anywidth.training.lightning", "anywidth.cli.main", "anywidth.runs.supernet_run", "matplotlib.figure"]
_USUAL = multiprocessing.get_context().get_start_method()
_numbers = counter()


def fork_context() -> Any:
    """The context of `multiprocessing` whose processes are forked from one that has imported the package."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    return multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Done:
    """The exit code, negative for a signal, and the output of a process."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A process that runs a function of an importable module.

    Args:
        function: Returns the exit code.
        arguments: Its arguments.
        folder: An existing folder for two files with the output.
        environment: Additional environment variables.
    """

    def __init__(
        self, function: Callable[..., int], *arguments: Any, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        number = next(_numbers)
        self._files = [folder / f"{name}-{number}" for name in ("stdout", "stderr")]
        self.process = fork_context().Process(target=_run, args=(function, arguments, self._files, environment or {}))
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def done(self, seconds: float = 120) -> Done:
        """Wait for the end of the process."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} seconds: {self._files[1].read_text()}")
        return Done(self.process.exitcode, *(file.read_text() for file in self._files))


def run_together(function: Callable[..., int], *arguments: Any, folder: Path, count: int = 2) -> Done:
    """The result of several processes with the environment that `torchrun` sets; output in the order of ranks.

    As `torchrun` does, it hosts the store, and ends all processes soon after one has failed.
    """
    store = torch.distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        "localhost", 0, is_master=True, wait_for_workers=False
    )
    environment = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_RUN_ID": "forked",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
    }  # fmt: skip
    processes = [
        Forked(function, *arguments, folder=folder, environment={**environment, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(count)
    ]
    running = list(processes)
    while running:
        assert wait([process.process.sentinel for process in running], 240), "no process ends"
        ended = [process for process in running if process.poll() is not None]
        running = [process for process in running if process not in ended]
        if any(process.poll() for process in ended):
            wait([process.process.sentinel for process in running], 10)
            for process in running:
                process.process.terminate()
    found = [process.done() for process in processes]
    code = next((each.returncode for each in found if each.returncode), 0)
    return Done(code, "".join(each.stdout for each in found), "".join(each.stderr for each in found))


def _run(
    function: Callable[..., int], arguments: Sequence[Any], files: Sequence[Path], environment: Mapping[str, str]
) -> None:
    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
    torch.set_num_threads(1)
    multiprocessing.set_start_method(_USUAL, force=True)  # the context of this process would be inherited
    sys.exit(function(*arguments))
