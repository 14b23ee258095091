"""What one client may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from anywidth.core.errors import ExportError

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of requests.

    Attributes:
        body: Bytes of a body, also after it is unpacked.
        rows: Samples in a request.
        pixels: Pixels of an image file.
        queue: Requests that wait; more are refused.
        connections: Open at once; more are refused.
        receive: Seconds in which the head of a request has to come, and again its body.
        answer: Seconds after which a request that still waits is given up.
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
