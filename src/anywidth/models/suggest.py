"""Suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["closest"]


def closest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Phrase with the known names closest to an unknown one, for an error message.

    >>> closest("resnet81", ["resnet18", "vgg11"], "torchvision/")
    'did you mean torchvision/resnet18?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(prefix + other for other in close)}?"
    few = ", ".join(prefix + other for other in names[:8])
    return f"known names include {few}"
