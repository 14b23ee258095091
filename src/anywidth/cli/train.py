"""`anywidth train`: a supernet, its statistics and its spectrum, in a run folder; or a network that a search found."""

from __future__ import annotations

from anywidth.cli.train_settings import TrainSettings

__all__ = ["TrainSettings", "run"]


def run(settings: TrainSettings) -> int:
    """Train a supernet, calibrate and evaluate it at many widths, and write a run folder."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.status("starting"):
        # Imported late, as in all commands: help and wrong arguments do not wait for torch and Lightning.
        from anywidth.cli.retraining import Retraining
        from anywidth.cli.run_folder import RunFolder
        from anywidth.cli.signals import ended_like_interrupted
        from anywidth.cli.training_run import TrainingRun

        resumed = RunFolder.open(settings.resume).settings if settings.resume else settings
        kind = TrainingRun if resumed.from_search is None else Retraining
        training = kind(settings, console)
    with training.folder.locked(), ended_like_interrupted():
        return training.run()
