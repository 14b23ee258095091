"""Environment variables that a forward reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

from torch import nn

from anywidth.core.inputs import Inputs
from anywidth.groups.branches import names_in_code
from anywidth.groups.probe import calls_of

__all__ = ["Environment", "variables_of"]

_NAMES = frozenset({"environ", "environb", "getenv", "getenvb"})
"""Names in code that may read environment variables."""


class Environment(Mapping[str, str]):
    """The environment variables of this process; a variable with the same value is the same object.

    >>> os.environ["ANYWIDTH_EXAMPLE"] = "1"
    >>> Environment()["ANYWIDTH_EXAMPLE"] is Environment()["ANYWIDTH_EXAMPLE"]
    True
    >>> del os.environ["ANYWIDTH_EXAMPLE"]
    """

    def __getitem__(self, name: str) -> str:
        return "os.environ" if name == "__name__" else sys.intern(os.environ[name])

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def variables_of(model: nn.Module, inputs: Inputs) -> list[str]:
    """Names of the environment variables that a forward reads, whether they are set or not.

    Args:
        model: The model; copies of it run in training and in evaluation.
        inputs: Example inputs.
    """
    read: dict[str, None] = {}
    for training in (False, True) if names_in_code(model) & _NAMES else ():
        calls_of(model, inputs, training=training, around=lambda: _recorded(read))
    return list(read)


@contextmanager
def _recorded(read: dict[str, None]) -> Iterator[None]:
    kind = type(os.environ)
    usual = kind.__getitem__

    def look_up(self: os._Environ[str], name: str) -> str:
        read[os.fsdecode(name)] = None
        return usual(self, name)

    with patch.object(kind, "__getitem__", look_up):
        yield
