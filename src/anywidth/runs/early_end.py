"""Handling of a training that ends early: report what is kept and how to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from anywidth.core.errors import AnywidthError, CheckpointError
from anywidth.core.processes import OtherProcessError
from anywidth.runs.processes import Processes
from anywidth.runs.run_folder import RunFolder

__all__ = ["TrainingInterrupted", "early_end"]


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped the training. The message says what is kept; it is empty where another process reports it."""


@contextmanager
def early_end(
    folder: RunFolder, networks: Iterable[str], *, epochs: int, stage: Callable[[], str], processes: Processes
) -> Iterator[None]:
    """Context manager for the work of a run. Errors report what is kept; an empty run folder is removed.

    Args:
        folder: Run folder.
        networks: Checkpoint names, in the order of training.
        epochs: Number of epochs per network.
        stage: Returns the current stage, such as "training".
        processes: The processes that train.

    Raises:
        TrainingInterrupted: replaces a KeyboardInterrupt.
        AnywidthError: the work failed; the message says what is kept.
    """
    speaks = processes.rank == 0
    try:
        yield
    except KeyboardInterrupt as interrupt:
        message = ""
        if speaks and not processes.failed:
            message = f"while {stage()}. {folder.kept(networks, epochs, command=processes.command)}"
            folder.abandon()
        raise TrainingInterrupted(message) from interrupt
    except OtherProcessError:
        raise
    except BrokenPipeError:
        if speaks:
            folder.abandon()
        raise
    except AnywidthError as error:
        kept = ""
        # An unreadable checkpoint cannot be resumed; a failed write keeps the previous checkpoint.
        if not isinstance(error, CheckpointError) or isinstance(error.__cause__, OSError):
            kept = f". {folder.kept(networks, epochs, command=processes.command)}"
        if speaks:
            folder.abandon()
        raise type(error)(f"{error}{kept}") from error
