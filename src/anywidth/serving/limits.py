"""Limits of a client's requests."""

from __future__ import annotations

from dataclasses import dataclass, fields

from anywidth.core.errors import ExportError

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of requests.

    Attributes:
        body: Maximum bytes of a body, also after decompression.
        rows: Maximum number of samples in a request.
        pixels: Maximum number of pixels of an image file.
        queue: Maximum number of waiting requests; more are refused.
        connections: Maximum number of open connections; more are refused.
        receive: Seconds within which the head of a request must arrive, and then its body.
        answer: Seconds after which a request that still waits is refused.
    """

    body: int = 16 * 2**20
    rows: int = 32
    pixels: int = 16_000_000
    queue: int = 256
    connections: int = 512
    receive: float = 10.0
    answer: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ExportError(f"the limit {field.name} is {getattr(self, field.name)}; give a number above 0")
