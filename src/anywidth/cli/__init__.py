"""The command line: one file per command."""

from anywidth.cli.main import main

__all__ = ["main"]
