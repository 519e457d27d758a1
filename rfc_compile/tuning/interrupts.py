"""Ctrl-C that is not lost.

Python drops an interrupt that comes while an object is finalised, and a study that
frees a compiled model finalises many.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def insistent_interrupts(seconds: float = 5.0) -> Iterator[None]:
    """Repeat an interrupt that has not ended the block after some seconds.

    Does nothing outside of the main thread, which alone is told of interrupts, and
    where they are ignored or handled in another way.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or before is not signal.default_int_handler:
        yield
        return
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(seconds, _thread.interrupt_main)
        timer.daemon = True
        timers.append(timer)
        timer.start()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGINT, before)
