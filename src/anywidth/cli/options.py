"""From a settings dataclass to command line options and YAML, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, Namespace

from anywidth.cli.help_format import HelpFormat
from anywidth.cli.values import parse_number, parse_text
from anywidth.core.errors import AnywidthError

__all__ = ["SettingsError", "given_options", "make_parser", "option", "read_settings", "to_settings", "write_settings"]

S = TypeVar("S")

_GIVEN = "_given"

_METAVARS = {int: "N", float: "X", Path: "DIR", str: "NAME"}


class SettingsError(AnywidthError, ValueError):
    """A setting has a value that makes no sense, or a file of settings cannot be read."""


def option(
    *,
    metavar: str | None = None,
    parse: Callable[[Any], Any] | None = None,
    positional: bool = False,
    kept: bool = True,
) -> dict[str, Any]:
    """The metadata of a settings field whose type does not say enough.

    Args:
        metavar: What help shows for the value.
        parse: Reads the text of the command line and the value of a YAML file alike.
        positional: Whether it has no name on the command line.
        kept: Whether it is written into config.yaml.
    """
    return {"metavar": metavar, "parse": parse, "positional": positional, "kept": kept}


def make_parser(settings: type, *, prog: str, description: str) -> ArgumentParser:
    """A parser with an option for every field of a settings dataclass, whose docstring gives the help."""
    parser = ArgumentParser(
        prog=prog, description=description, usage=f"{prog} [options]", formatter_class=HelpFormat, print_config=None,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--config", action="config", metavar="FILE", help="read options from a YAML file")
    hints = get_type_hints(settings)
    texts = {param.arg_name: param.description or "" for param in parse_docstring(settings.__doc__ or "").params}
    for field in dataclasses.fields(settings):
        details = {**option(), **field.metadata}
        given: dict[str, Any] = {"help": " ".join(texts[field.name].split()), **_arguments(hints[field.name], details)}
        required = field.default is dataclasses.MISSING
        if not required and given.get("action") != "store_true":
            given["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
        if details["positional"]:
            given |= {} if required else {"nargs": "?"}
            parser.usage = f"{prog} {given['metavar'] if required else '[' + given['metavar'] + ']'} [options]"
        else:
            given |= {"required": True} if required else {}
        parser.add_argument(field.name if details["positional"] else _flag(field.name), **given)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _arguments(hint: Any, details: dict[str, Any]) -> dict[str, Any]:
    """How argparse reads values of a type."""
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


def to_settings(settings: type[S], values: Namespace, given: Iterable[str] | None = None) -> S:
    """The settings of parsed values, of which those in `given` do not come from defaults."""
    found = {field.name: values[field.name] for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    made = settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})
    if given is not None:
        object.__setattr__(made, _GIVEN, frozenset(given) & found.keys())
    return made


def given_options(settings: Any) -> frozenset[str]:
    """Names of the settings that a command line or its `--config` gives, also if they are what is the default."""
    known: frozenset[str] | None = getattr(settings, _GIVEN, None)
    if known is not None:
        return known
    plain = type(settings)()
    names = (field.name for field in dataclasses.fields(settings))
    return frozenset(name for name in names if getattr(settings, name) != getattr(plain, name))


def read_settings(settings: type[S], path: Path) -> S:
    """Settings from a YAML file.

    Raises:
        SettingsError: the file is missing or damaged, or holds an unknown option.
    """
    parser = make_parser(settings, prog="anywidth", description="")
    parser.exit_on_error = False
    try:
        return to_settings(settings, parser.parse_args(["--config", str(path)]))
    except AnywidthError:
        raise
    except Exception as error:  # those of argparse, YAML and the file system have nothing else in common
        raise SettingsError(f"cannot read settings from {path}: {error}; restore the file") from error


def write_settings(settings: Any, *, header: str) -> str:
    """The YAML text of settings below a comment, without those that belong to a single call."""
    values = {
        field.name: _plain(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.metadata.get("kept", True)
    }
    return f"# {header}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
