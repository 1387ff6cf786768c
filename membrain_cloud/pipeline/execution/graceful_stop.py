"""Stop a run in order: after the first SIGTERM or Ctrl-C tasks in flight may end, the second one stops at once."""

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
    """Whether the run is to stop.

    Parameters
    ----------
    grace_seconds : float
        Time in seconds after a request when KeyboardInterrupt is raised in the main thread.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self._is_requested = False
        self._timer: threading.Timer | None = None

    def is_requested(self) -> bool:
        """Return whether the run is to stop."""
        return self._is_requested

    def request(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ask the run to stop; a signal handler. Raises KeyboardInterrupt at the second request."""
        if self._is_requested:
            raise KeyboardInterrupt
        self._is_requested = True
        # A task in this process occupies the main thread: only a signal gets through to it. Where workers do the work,
        # run_tasks() has returned long before.
        self._timer = threading.Timer(self.grace_seconds + 2.0, os.kill, (os.getpid(), signal.SIGINT))
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """Cancel the interrupt."""
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def stop_on_signals(grace_seconds: float) -> Iterator[StopRequest]:
    """Listen for SIGTERM and SIGINT, as far as this is the main thread.

    Parameters
    ----------
    grace_seconds : float
        Time in seconds that tasks in flight have to end.

    Yields
    ------
    StopRequest
        Whether the run is to stop.
    """
    request = StopRequest(grace_seconds)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        request.close()
        for number, handler in before.items():
            signal.signal(number, handler)
