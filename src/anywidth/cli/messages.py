"""Messages on the error stream, one line each."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["log", "warnings_in_one_line"]


def log(kind: str, message: object = "") -> None:
    """Print `kind: message` on one line of the error stream."""
    text = " ".join(str(message).split())
    print(f"{kind}: {text}" if text else kind, file=sys.stderr)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Context manager that prints each warning on one line, without its source line."""

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        log("warning", message)

    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = before
