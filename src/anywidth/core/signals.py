"""Handling of SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["sigterm_as_interrupt"]


@contextmanager
def sigterm_as_interrupt(*, once: bool = False) -> Iterator[None]:
    """Context manager in which SIGTERM, sent by batch systems and containers, acts like Ctrl-C.

    Args:
        once: Only the first signal interrupts. `torchrun` forwards signals that the terminal has already sent to its
            processes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if not (once and interrupted):
            interrupted = True
            raise KeyboardInterrupt

    numbers = [signal.SIGTERM, signal.SIGINT] if once else [signal.SIGTERM]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
