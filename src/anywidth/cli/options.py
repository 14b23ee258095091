"""Builds the parser of a command from its settings dataclass."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from anywidth.cli.help_format import HelpFormat
from anywidth.runs.options import add_options, options_of

__all__ = ["make_parser"]


def make_parser(settings: type, *, prog: str, description: str) -> ArgumentParser:
    """Parser with one argument for every option of a settings dataclass."""
    positional = [item for item in options_of(settings) if item.field.metadata["positional"]]
    names = "".join(f" {item.flag}" if item.required else f" [{item.flag}]" for item in positional)
    parser = ArgumentParser(
        prog=prog, description=description, usage=f"{prog}{names} [options]", formatter_class=HelpFormat,
        print_config=None, allow_abbrev=False,
    )  # fmt: skip
    add_options(parser, settings)
    return parser
