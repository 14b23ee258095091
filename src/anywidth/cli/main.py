"""Entry point: parse the command line, run the command and print errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

from anywidth.cli import calibrate, evaluate, export, inspect, reproduce, search, serve, train
from anywidth.cli.help_format import HelpFormat
from anywidth.cli.messages import log, warnings_in_one_line
from anywidth.cli.options import make_parser
from anywidth.cli.torchrun import quiet_others
from anywidth.core.errors import AnywidthError
from anywidth.runs.options import to_settings, values_of
from anywidth.runs.processes import Processes

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its options, how they are read, and the function that runs it.

    Attributes:
        settings: The dataclass that defines the options.
        run: Runs the command on the result of `read` and returns an exit code.
        read: Converts the given values, by option name, to the argument of `run`; by default to `settings`.
    """

    settings: type
    run: Callable[[Any], int]
    read: Callable[[Mapping[str, Any]], Any] | None = None

    @property
    def summary(self) -> str:
        """First line of the docstring of `run`."""
        return (self.run.__doc__ or "").split("\n", 1)[0].rstrip(".")


COMMANDS = {
    "train": Command(settings=train.TrainCommandSettings, run=train.run, read=train.TrainRequest.read),
    "calibrate": Command(settings=calibrate.CalibrateSettings, run=calibrate.run),
    "evaluate": Command(settings=evaluate.EvaluateSettings, run=evaluate.run),
    "export": Command(settings=export.ExportSettings, run=export.run),
    "inspect": Command(settings=inspect.InspectSettings, run=inspect.run),
    "search": Command(settings=search.SearchCommandSettings, run=search.run),
    "serve": Command(settings=serve.ServeSettings, run=serve.run),
    "reproduce": Command(settings=reproduce.ReproduceSettings, run=reproduce.run),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 after a user error, 130 after Ctrl-C.

    Args:
        argv: Command-line arguments; by default those of the process.

    Raises:
        SystemExit: the arguments are invalid (code 2), or help was requested (code 0).
    """
    processes = Processes.of_environment()
    with quiet_others(processes):
        return _run(argv, processes)


def _run(argv: Sequence[str] | None, processes: Processes) -> int:
    parsed = _parser().parse_args(argv, defaults=False)
    command, given = COMMANDS[parsed.command], values_of(parsed[parsed.command])
    if processes.together and parsed.command != "train":
        log("error", f"only anywidth train supports torchrun; start anywidth {parsed.command} without it")
        return 2
    try:
        with warnings_in_one_line():
            return command.run(command.read(given) if command.read else to_settings(command.settings, given))
    except AnywidthError as error:
        log("error", error)
        return 2
    except KeyboardInterrupt:
        log("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of the pipe has closed it, as `head` does; without this, Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="anywidth",
        description="One PyTorch network, trained once, that runs at any width.",
        usage="anywidth COMMAND [options]",
        formatter_class=HelpFormat,
        print_config=None,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(
        dest="command", title="commands", metavar="COMMAND", description=None, help="see anywidth COMMAND --help"
    )
    for name, command in COMMANDS.items():
        prog = f"anywidth {name}"
        subparser = make_parser(command.settings, prog=prog, description=command.summary)
        commands.add_subcommand(name, subparser, help=command.summary)
        subparser.prog = prog
    return parser
