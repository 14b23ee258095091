"""How a training ends early: what is kept, and how to go on, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from anywidth.cli.messages import log
from anywidth.cli.processes import Processes
from anywidth.cli.run_folder import RunFolder
from anywidth.core.errors import AnywidthError, CheckpointError
from anywidth.core.processes import OtherProcessError

__all__ = ["exit_code"]


def exit_code(
    work: Callable[[], object],
    folder: RunFolder,
    networks: Iterable[str],
    *,
    epochs: int,
    stage: Callable[[], str],
    processes: Processes,
) -> int:
    """Do the work of a run that was started, and return 0, or 130 after Ctrl-C.

    Args:
        work: What writes into the folder.
        folder: Of the run.
        networks: Names of the checkpoints, in the order of training.
        epochs: How many each network is to be trained.
        stage: What is going on, such as "training".
        processes: Those that train.

    Raises:
        AnywidthError: the work cannot go on; what was saved is kept, as the message says.
    """
    speaks = processes.rank == 0
    try:
        work()
    except KeyboardInterrupt:
        if speaks and not processes.failed:
            log("interrupted", f"while {stage()}. {folder.kept(networks, epochs, command=processes.command)}")
            folder.abandon()
        return 130
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
    return 0
