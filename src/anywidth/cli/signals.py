"""What a process does when it is told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ended_like_interrupted"]


@contextmanager
def ended_like_interrupted(*, once: bool = False) -> Iterator[None]:
    """Within it, SIGTERM, which batch systems and containers send, does what Ctrl-C does.

    Args:
        once: The first of either interrupts and the others do nothing: `torchrun` hands on to its processes what the
            terminal has sent to them as well.
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
