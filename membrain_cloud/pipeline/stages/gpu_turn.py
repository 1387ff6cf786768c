"""Turns at the GPU: one task computes, while the next one of the same process reads ahead.

A GPU worker holds two tasks. Both take statistics, read and decode; from its first window to its last a task has the
GPU for itself, so that two tasks do not share its memory and do not both finish late:

    TS_7   statistics | GPU GPU GPU GPU GPU | write
    TS_8                statistics, read    | GPU GPU GPU GPU GPU | write

A turn may be acquired and released by different threads.
"""

from __future__ import annotations

import threading
import time

_GPU = threading.Lock()


class GpuTurn:
    """The turn of one task at the GPU.

    Attributes
    ----------
    seconds : float
        How long the turn has lasted, once it is released.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def acquire(self) -> None:
        """Wait for the GPU and keep it until `release`; without effect while the turn lasts."""
        if self._since is None:
            _GPU.acquire()
            self._since = time.monotonic()

    def release(self) -> None:
        """Leave the GPU to the next task; without effect where the turn was not acquired."""
        if self._since is not None:
            self.seconds += time.monotonic() - self._since
            self._since = None
            _GPU.release()
