"""Why a request is not answered."""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):
    """A request is refused; what the client is told.

    Args:
        status: Of HTTP: 4xx where the client can mend it, 503 where it can try again.
        message: Says what is wrong and what would be right.
        reason: A word for the metrics.
        retry_after: Seconds after which trying again makes sense.
    """

    def __init__(self, status: int, message: str, *, reason: str = "invalid", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.reason, self.retry_after = status, message, reason, retry_after
