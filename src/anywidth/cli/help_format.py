"""Format of `--help`: one sentence and the default for every option."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter

__all__ = ["HelpFormat"]


class HelpFormat(DefaultHelpFormatter):
    """jsonargparse's help formatter without Python types, which mean nothing to most users."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_help_position": 28})

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = isinstance(action.default, (str, int, float, Path)) and action.default != argparse.SUPPRESS
        return (action.help or "") + (f" (default: {action.default})" if shown and action.option_strings else "")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # The list of commands stays bare; each command's own help describes its options.
        if isinstance(action, argparse._SubParsersAction):
            return "COMMAND"
        return super()._format_action_invocation(action)
