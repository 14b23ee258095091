"""Puts the experiments into wheels, where they lie beside the package in a clone."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ExperimentsHook(BuildHookInterface):
    """Adds `experiments/` to ordinary wheels; an editable one would copy it and go stale."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a build."""
        if version != "editable":
            build_data["force_include"]["experiments"] = "anywidth/experiments"
