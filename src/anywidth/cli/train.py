"""`anywidth train`: a supernet, its statistics and its spectrum, in a run folder; or a network that a search found."""

from __future__ import annotations

from contextlib import ExitStack

from anywidth.cli.processes import Processes
from anywidth.cli.train_settings import TrainSettings

__all__ = ["TrainSettings", "run"]


def run(settings: TrainSettings) -> int:
    """Train a supernet, calibrate and evaluate it at many widths, and write a run folder."""
    from rich.console import Console

    started = Processes.of_environment()
    console = Console(highlight=False, quiet=started.rank > 0)
    with ExitStack() as stack:
        with console.status("starting"):
            # Imported late, as in all commands: help and wrong arguments do not wait for torch and Lightning.
            from anywidth.cli.retraining import Retraining
            from anywidth.cli.run_folder import RunFolder
            from anywidth.cli.signals import ended_like_interrupted
            from anywidth.cli.training_run import TrainingRun
            from anywidth.core.processes import broadcast

            processes = stack.enter_context(started.met())
            resumed = broadcast(lambda: RunFolder.open(settings.resume).settings if settings.resume else settings)
            kind = TrainingRun if resumed.from_search is None else Retraining
            training = kind(settings, console, processes)
        broadcast(lambda: stack.enter_context(training.folder.locked()))
        stack.enter_context(ended_like_interrupted(once=processes.together))
        code = training.run()
        if code == 0:
            processes.part()
        return code
