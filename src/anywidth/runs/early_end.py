"""How a training ends early: what is kept, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from anywidth.core.errors import AnywidthError, CheckpointError
from anywidth.core.processes import OtherProcessError
from anywidth.runs.processes import Processes
from anywidth.runs.run_folder import RunFolder

__all__ = ["TrainingInterrupted", "early_end"]


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped a training; the message says what is kept, and is empty where another process says it."""


@contextmanager
def early_end(
    folder: RunFolder, networks: Iterable[str], *, epochs: int, stage: Callable[[], str], processes: Processes
) -> Iterator[None]:
    """Context manager for the work of a run: an error that ends it says what is kept, or the empty folder is removed.

    Args:
        folder: Of the run.
        networks: Names of the checkpoints, in the order of training.
        epochs: How many each network is to be trained.
        stage: What is going on, such as "training".
        processes: Those that train.

    Raises:
        TrainingInterrupted: instead of a KeyboardInterrupt.
        AnywidthError: the work cannot go on; what was saved is kept, as the message says.
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
        # A state that cannot be read is none to go on with; one that could not be written leaves that before it.
        if not isinstance(error, CheckpointError) or isinstance(error.__cause__, OSError):
            kept = f". {folder.kept(networks, epochs, command=processes.command)}"
        if speaks:
            folder.abandon()
        raise type(error)(f"{error}{kept}") from error
