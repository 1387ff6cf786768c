"""Ending a run in order: the first SIGTERM or Ctrl-C lets tasks in flight finish, the second one does not."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class StopRequest:
    """Whether the run is to stop; `grace_seconds` after it was asked to, KeyboardInterrupt is raised."""

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self._asked = False
        self._timer: threading.Timer | None = None

    def is_requested(self) -> bool:
        return self._asked

    def ask(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # A task in this very process holds the main thread: only a signal gets through to it. Where workers do the
        # work, run_tasks() has left long before.
        self._timer = threading.Timer(self.grace_seconds + 2.0, os.kill, (os.getpid(), signal.SIGINT))
        self._timer.daemon = True
        self._timer.start()

    def done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def stop_on_signals(grace_seconds: float) -> Iterator[StopRequest]:
    """Listen for SIGTERM and SIGINT; outside of the main thread nobody can."""
    stop = StopRequest(grace_seconds)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        stop.done()
        for number, handler in before.items():
            signal.signal(number, handler)
