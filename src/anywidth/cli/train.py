"""`anywidth train`: train a supernet, or a network that a search found, into a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anywidth.cli.messages import log
from anywidth.core.errors import SettingsError
from anywidth.runs.options import option, to_settings
from anywidth.runs.processes import Processes
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import TrainSettings

if TYPE_CHECKING:
    from anywidth.runs.reporter import Reporter
    from anywidth.runs.retraining import Retraining
    from anywidth.runs.supernet_run import SupernetRun

__all__ = ["TrainCommandSettings", "TrainRequest", "run"]


@dataclass(frozen=True, kw_only=True)
class TrainCommandSettings(TrainSettings):
    """The options of `anywidth train`."""

    resume: Path | None = option(
        None, metavar="RUN", kept=False, help="continue the interrupted run RUN with its own settings"
    )


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A parsed command line.

    Attributes:
        settings: The settings of a new run.
        given: The values set on the command line and in `--config`, by option name.
    """

    settings: TrainCommandSettings
    given: Mapping[str, Any]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> TrainRequest:
        """Build the request of a command line.

        Raises:
            SettingsError: the options contradict each other.
        """
        return cls(settings=to_settings(TrainCommandSettings, given), given=given)

    def prepare(self, reporter: Reporter, processes: Processes) -> SupernetRun | Retraining:
        """Build the requested run, ready to start.

        Raises:
            AnywidthError: the folder does not contain a run, or the run cannot start.
        """
        from anywidth.core.processes import broadcast
        from anywidth.runs.retraining import retraining_settings
        from anywidth.runs.train import interrupted_run, new_run

        path, search = self.settings.resume, self.settings.from_search
        if path is not None:
            ready = interrupted_run(path, device=self.settings.device, reporter=reporter, processes=processes)
            if self.given.keys() - {"resume", "device"}:
                raise SettingsError("--resume uses the run's own settings; leave out all other options except --device")
            return ready
        own = {name: value for name, value in self.given.items() if name != "resume"}
        if search is None:
            settings = to_settings(TrainSettings, own)
        else:
            settings = broadcast(lambda: retraining_settings(search, own))
        return new_run(settings, reporter=reporter, processes=processes)


def run(request: TrainRequest) -> int:
    """Train a supernet, calibrate and evaluate it at many widths, and write a run folder."""
    if request.settings.resume is not None:
        RunFolder.open(request.settings.resume)  # a wrong path need not wait for the imports below
    from rich.console import Console

    started = Processes.of_environment()
    console = Console(highlight=False, quiet=started.rank > 0)
    with ExitStack() as stack:
        with console.status("starting"):
            # Imported late, as in all commands, so that help and argument errors need not wait for torch and Lightning.
            from anywidth.cli.console_reporter import ConsoleReporter
            from anywidth.cli.torchrun import connected
            from anywidth.core.signals import sigterm_as_interrupt
            from anywidth.report import seconds, spectrum_table
            from anywidth.runs.early_end import TrainingInterrupted

            processes = stack.enter_context(connected(started))
            began = time.perf_counter()
            ready = request.prepare(ConsoleReporter(console), processes)
        stack.enter_context(sigterm_as_interrupt(once=processes.together))
        try:
            result = ready.run()
        except TrainingInterrupted as interrupt:
            if str(interrupt):
                log("interrupted", interrupt)
            return 130
        console.print(spectrum_table(result.spectrum, result.others))
        *names, last = result.files
        took = seconds(time.perf_counter() - began)
        console.print(f"results after {took} in {result.folder.path}: {', '.join(names)} and {last}", soft_wrap=True)
        processes.close()
        return 0
