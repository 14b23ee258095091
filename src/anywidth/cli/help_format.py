"""How `--help` looks: every option with one sentence and its default."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter

__all__ = ["HelpFormat"]


class HelpFormat(DefaultHelpFormatter):
    """jsonargparse's help without Python types, which say nothing to a user."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_help_position": 28})

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = isinstance(action.default, (str, int, float, Path)) and action.default != argparse.SUPPRESS
        return (action.help or "") + (f" (default: {action.default})" if shown and action.option_strings else "")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # Options are described below the bare list of commands, by each command's own help.
        if isinstance(action, argparse._SubParsersAction):
            return "COMMAND"
        return super()._format_action_invocation(action)
