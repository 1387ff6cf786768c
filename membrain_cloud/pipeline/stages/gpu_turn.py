"""Whose turn it is at the GPU: one task computes there, the next one of the process reads ahead meanwhile.

A GPU worker holds two tasks. Both take statistics, read and decode; from its first window to its last a task has the
GPU for itself, so that two do not share its memory nor finish late together:

    TS_7   statistics | GPU GPU GPU GPU GPU | write
    TS_8                statistics, read    | GPU GPU GPU GPU GPU | write

The turn is taken and ended by whichever thread makes the slabs.
"""

from __future__ import annotations

import threading
import time

_GPU = threading.Lock()


class GpuTurn:
    """One task's turn. `seconds` is how long it has had it, once it has ended."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def acquire(self) -> None:
        """Wait for the GPU, and keep it until `release`."""
        if self._since is None:
            _GPU.acquire()
            self._since = time.monotonic()

    def release(self) -> None:
        """The next one's turn; without effect where it was never taken."""
        if self._since is not None:
            self.seconds += time.monotonic() - self._since
            self._since = None
            _GPU.release()
