"""Settings in `config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

from anywidth.core.errors import AnywidthError, SettingsError
from anywidth.runs.options import add_options, options_of, to_settings, values_of

__all__ = ["parse_settings", "read_settings", "write_settings"]

S = TypeVar("S")


def read_settings(settings: type[S], path: Path) -> S:
    """Read settings from a YAML file.

    Raises:
        SettingsError: the file is missing or damaged, or contains an unknown option.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read settings from {path}: {error}; restore the file") from error
    return parse_settings(settings, text, source=path)


def parse_settings(settings: type[S], text: str, *, source: object) -> S:
    """Read settings from YAML text; errors call it `source`.

    Raises:
        SettingsError: the text is damaged, or contains an unknown option.
    """
    parser = ArgumentParser(exit_on_error=False, print_config=None)
    add_options(parser, settings)
    try:
        return to_settings(settings, values_of(parser.parse_string(text)))
    except AnywidthError:
        raise
    except Exception as error:  # argparse and YAML errors have no narrower common class
        raise SettingsError(f"cannot read settings from {source}: {error}; restore the file") from error


def write_settings(settings: Any, *, header: str) -> str:
    """YAML text of the settings by option name, below a comment. Options with `kept=False` are left out."""
    values = {
        item.name: _plain(item.value(settings)) for item in options_of(type(settings)) if item.field.metadata["kept"]
    }
    return f"# {header}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
