"""The description of a model in its checkpoint, so that loading into a different model is refused."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

__all__ = ["difference", "pack", "unpack"]


def pack(forward: Sequence[str], attributes: Mapping[str, Mapping[str, Any]]) -> Tensor:
    """A description as bytes, shape (number of bytes,).

    >>> unpack(pack([": %1 = aten.relu.default(input 0)"], {"": {"heads": 4}}))
    ([': %1 = aten.relu.default(input 0)'], {'': {'heads': 4}})
    """
    content = zlib.compress(json.dumps([list(forward), attributes]).encode())
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def unpack(tensor: Tensor) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The lines of the forward and the attributes that `pack` encoded."""
    forward, attributes = json.loads(zlib.decompress(tensor.numpy().tobytes()))
    return forward, attributes


def difference(
    saved: tuple[Sequence[str], Mapping[str, Mapping[str, Any]]],
    found: tuple[Sequence[str], Mapping[str, Mapping[str, Any]]],
    *,
    by_lines: bool = True,
) -> str | None:
    """Text of the first difference between two forwards; None if they compute the same from the same weights.

    Attributes only explain a difference, because attributes that a forward does not read do not matter. If lines cannot
    be compared (they are from another version of PyTorch), attributes decide.

    >>> one = ["act: %2 = aten.relu.default(%1)"], {"act": {"class": "ReLU"}}
    >>> two = ["act: %2 = aten.tanh.default(%1)"], {"act": {"class": "Tanh"}}
    >>> difference(one, two)
    'act is a ReLU in the file and a Tanh in the model (relu, now tanh)'
    """
    if not by_lines:
        return _attributes(saved[1], found[1], list(found[1]))
    for ours, theirs in zip_longest(saved[0], found[0], fillvalue=""):
        if ours == theirs:
            continue
        paths = [text.partition(": ")[0] for text in (ours, theirs) if text]
        operators = [_short(text) for text in (ours, theirs)]
        if operators[0] == operators[1]:
            operators = [text.partition(" = ")[2] or "nothing" for text in (ours, theirs)]
        change = f"{operators[0]}, now {operators[1]}"
        near = _attributes(saved[1], found[1], [*_around(paths), *saved[1]])
        return f"{near} ({change})" if near else f"{paths[0] or 'the forward'} does something else ({change})"
    return None


def _around(paths: Sequence[str]) -> list[str]:
    """Paths and their parents, the innermost first."""
    found = []
    for path in dict.fromkeys(paths):
        while path:
            found.append(path)
            path = path.rpartition(".")[0]
    return [*found, ""]


def _attributes(
    saved: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]], paths: Sequence[str]
) -> str | None:
    for path in dict.fromkeys(paths):
        ours, theirs = saved.get(path, {}), found.get(path, {})
        where = path or "the model"
        if ours and theirs and ours["class"] != theirs["class"]:
            return f"{where} is a {ours['class']} in the file and a {theirs['class']} in the model"
        for name, value in ours.items():
            if name in theirs and theirs[name] != value:
                return f"{name} of {where} is {value!r} in the file and {theirs[name]!r} in the model"
    return None


def _short(line: str) -> str:
    operator = line.partition(" = ")[2].partition("(")[0]
    return operator.removeprefix("aten.").partition(".")[0] or "nothing"
