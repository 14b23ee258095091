"""Settings dataclasses whose fields define the options of the command line and of YAML files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from anywidth.core.errors import SettingsError
from anywidth.runs.values import parse_number, parse_text

__all__ = [
    "Option",
    "add_options",
    "check_lows",
    "flatten",
    "option",
    "options_of",
    "to_settings",
    "values_of",
    "with_options",
]

S = TypeVar("S")

_METAVARS = {int: "N", float: "X", Path: "DIR", str: "NAME"}


def option(
    default: Any = MISSING,
    *,
    help: str,
    name: str | None = None,
    metavar: str | None = None,
    parse: Callable[[Any], Any] | None = None,
    low: float | None = None,
    positional: bool = False,
    kept: bool = True,
) -> Any:
    """Dataclass field for one option.

    Args:
        default: The default; without one, the option is required.
        help: The text for `--help`.
        name: The option name, with underscores; by default the name of the field.
        metavar: The placeholder for the value in `--help`.
        parse: Converts a value from the command line or a YAML file.
        low: The lowest valid value, checked by `check_lows`.
        positional: Whether the option is a positional argument.
        kept: Whether `config.yaml` includes the option.
    """
    details = {"help": help, "name": name, "metavar": metavar, "parse": parse, "low": low}
    return dataclasses.field(default=default, metadata={**details, "positional": positional, "kept": kept})


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a settings dataclass. A field may itself be a settings dataclass, the owner of its options.

    Attributes:
        name: The option name, with underscores; unique across all owners.
        owner: The name of the owner's field; None for a field of the settings themselves.
        field: The dataclass field.
        hint: The type of the field.
    """

    name: str
    owner: str | None
    field: dataclasses.Field[Any]
    hint: Any

    @property
    def required(self) -> bool:
        """Whether the option has no default."""
        return self.field.default is MISSING

    @property
    def flag(self) -> str:
        """The option as written on the command line, or the placeholder of a positional argument."""
        details = self.field.metadata
        return details["metavar"] or self.name if details["positional"] else "--" + self.name.replace("_", "-")

    def value(self, settings: Any) -> Any:
        """The option's value in these settings."""
        return getattr(settings if self.owner is None else getattr(settings, self.owner), self.field.name)


def options_of(settings: type) -> list[Option]:
    """All options of a settings dataclass and its owners, in field order."""
    found, hints = [], get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += [dataclasses.replace(part, owner=field.name) for part in options_of(hint)]  # type: ignore[arg-type]
        else:
            found.append(Option(name=field.metadata["name"] or field.name, owner=None, field=field, hint=hint))
    return found


def values_of(parsed: Namespace) -> dict[str, Any]:
    """Values read by a parser with `add_options`, by option name."""
    return {name: value for name, value in parsed.as_dict().items() if name != "config"}


def to_settings(settings: type[S], values: Mapping[str, Any]) -> S:
    """Settings built from values by option name; missing options take their defaults.

    Raises:
        SettingsError: an option is unknown, or the values contradict each other.
    """
    known = options_of(settings)
    strange = sorted(values.keys() - {item.name for item in known})
    if strange:
        raise SettingsError(f"unknown option {strange[0]!r}; available: {', '.join(item.name for item in known)}")
    own: dict[str, Any] = {}
    owned: dict[str, dict[str, Any]] = {}
    for item in known:
        if item.name in values:
            value = values[item.name]
            place = own if item.owner is None else owned.setdefault(item.owner, {})
            place[item.field.name] = tuple(value) if isinstance(value, list) else value
    hints = get_type_hints(settings)
    return settings(**own, **{owner: hints[owner](**given) for owner, given in owned.items()})


def flatten(settings: Any) -> dict[str, Any]:
    """Values of the settings by option name."""
    return {item.name: item.value(settings) for item in options_of(type(settings))}


def with_options(settings: S, changes: Mapping[str, Any]) -> S:
    """Copy of the settings with some values replaced, by option name.

    Raises:
        SettingsError: an option is unknown, or the values contradict each other.
    """
    return to_settings(type(settings), {**flatten(settings), **changes})


def check_lows(settings: Any) -> None:
    """Check the fields of one dataclass against their lowest valid values.

    Raises:
        SettingsError: a value is too low.
    """
    for field in dataclasses.fields(settings):
        value, low = getattr(settings, field.name), field.metadata.get("low")
        if low is not None and value is not None and value < low:
            name = (field.metadata["name"] or field.name).replace("_", "-")
            raise SettingsError(f"--{name} is {value}; give at least {low}")


def add_options(parser: ArgumentParser, settings: type) -> None:
    """Add `--config` and all options of a settings dataclass to a parser."""
    parser.add_argument("--config", action="config", metavar="FILE", help="read options from a YAML file")
    for item in options_of(settings):
        details, default = item.field.metadata, item.field.default
        given: dict[str, Any] = {"help": details["help"], **_arguments(item.hint, details)}
        if not item.required and given.get("action") != "store_true":
            given["default"] = list(default) if isinstance(default, tuple) else default
        if details["positional"]:
            given |= {} if item.required else {"nargs": "?"}
        else:
            given |= {"required": True} if item.required else {}
        parser.add_argument(item.name if details["positional"] else item.flag, **given)


def _arguments(hint: Any, details: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `add_argument` for values of this type."""
    metavar = details["metavar"]
    if details["parse"]:
        return {"type": details["parse"], "metavar": metavar}
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is Literal:
        return {"type": parse_text, "choices": get_args(hint), **({"metavar": metavar} if metavar else {})}
    if hint == tuple[str, ...]:
        return {"type": str, "nargs": "*", "metavar": metavar}
    plain = next((part for part in (hint, *get_args(hint)) if part in _METAVARS), str)
    kind: Any = hint
    if plain in (int, float):
        kind = partial(parse_number, kind=plain, optional=plain is not hint)
    return {"type": kind, "metavar": metavar or _METAVARS[plain]}
