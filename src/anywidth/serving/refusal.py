"""The error for a request that is refused."""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):
    """A request is refused; contains the answer to the client.

    Args:
        status: HTTP status: 4xx if the client can fix the request, 503 if it can try again.
        message: The problem and the fix.
        reason: Label in the metrics.
        retry_after: Seconds after which to try again.
    """

    def __init__(self, status: int, message: str, *, reason: str = "invalid", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.reason, self.retry_after = status, message, reason, retry_after
