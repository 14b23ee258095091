"""The entry point: parse, run the command, turn errors into one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

from anywidth.cli import calibrate, evaluate, export, inspect, reproduce, search, serve, train
from anywidth.cli.help_format import HelpFormat
from anywidth.cli.messages import log, warnings_in_one_line
from anywidth.cli.options import make_parser, to_settings
from anywidth.cli.processes import Processes
from anywidth.core.errors import AnywidthError

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: the settings that its options come from, and the function that runs it and returns an exit code."""

    settings: type
    run: Callable[[Any], int]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or "").split("\n", 1)[0].rstrip(".")


COMMANDS = {
    "train": Command(settings=train.TrainSettings, run=train.run),
    "calibrate": Command(settings=calibrate.CalibrateSettings, run=calibrate.run),
    "evaluate": Command(settings=evaluate.EvaluateSettings, run=evaluate.run),
    "export": Command(settings=export.ExportSettings, run=export.run),
    "inspect": Command(settings=inspect.InspectSettings, run=inspect.run),
    "search": Command(settings=search.SearchCommandSettings, run=search.run),
    "serve": Command(settings=serve.ServeSettings, run=serve.run),
    "reproduce": Command(settings=reproduce.ReproduceSettings, run=reproduce.run),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code: 0, 2 for what the user can mend, 130 after Ctrl-C.

    Args:
        argv: The arguments; by default those of the process.

    Raises:
        SystemExit: the arguments are wrong (code 2), or help was asked for (code 0).
    """
    processes = Processes.of_environment()
    with processes.quiet_others():
        return _run(argv, processes)


def _run(argv: Sequence[str] | None, processes: Processes) -> int:
    parser = _parser()
    parsed = parser.parse_args(argv)
    command, given = COMMANDS[parsed.command], parser.parse_args(argv, defaults=False)[parsed.command]
    if processes.together and parsed.command != "train":
        log("error", f"only anywidth train runs in several processes; start anywidth {parsed.command} without torchrun")
        return 2
    try:
        with warnings_in_one_line():
            return command.run(to_settings(command.settings, parsed[parsed.command], given.as_dict()))
    except AnywidthError as error:
        log("error", error)
        return 2
    except KeyboardInterrupt:
        log("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; Python would complain once more when it flushes.
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
        dest="command", title="commands", metavar="COMMAND", description=None, help="anywidth COMMAND --help says more"
    )
    for name, command in COMMANDS.items():
        prog = f"anywidth {name}"
        subparser = make_parser(command.settings, prog=prog, description=command.summary)
        commands.add_subcommand(name, subparser, help=command.summary)
        subparser.prog = prog
    return parser
