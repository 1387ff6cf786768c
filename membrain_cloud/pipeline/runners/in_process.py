"""One task after the other, in this process."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.execution.execute_task import Claim, execute_task
from membrain_cloud.pipeline.runners.host_resources import total_memory_bytes
from membrain_cloud.pipeline.tasks import Kind, Outcome, Task, timeout_outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.execution.driver import Observer
    from membrain_cloud.pipeline.planning.digests import Registry


class InProcessRunner:
    """A runner without workers. A task that kills the process leaves its lease behind, by which the next run knows."""

    def __init__(self) -> None:
        self.memory_bytes = int(total_memory_bytes() * 0.9)
        self._id = uuid.uuid4().hex[:12]
        self._task: tuple[Task, Registry, str] | None = None
        self._ready: Mapping[Kind, int] = {"gpu": 0, "cpu": 0}

    def bind(self, attempts: CrashRecords, note: Observer) -> None:
        """Nothing to learn: who would notice a death here is dead."""

    def now(self) -> float:
        return time.monotonic()

    def has_slot(self, task: Task, kind: Kind) -> bool:
        return self._task is None

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        self._task = (task, registry, take_over)

    def finished(self, seconds: float) -> list[Outcome]:
        if self._task is None:
            time.sleep(seconds)
            return []
        (task, registry, take_over), self._task = self._task, None
        claim = Claim(f"{self._id}-{task.digest[:12]}", self._id, f"process {os.getpid()}", True, take_over)
        limit_hours = task.job.limit("task_hours")
        try:
            with _limited(limit_hours * 3600):
                return [execute_task(task, registry, claim=claim)]
        except _Overdue:
            return [timeout_outcome(task, limit_hours)]

    def backlog(self, ready: Mapping[Kind, int]) -> None:
        self._ready = ready

    def snapshot(self) -> Mapping[str, Any]:
        nothing = {"gpu": 0, "cpu": 0}
        busy = {"gpu": 0, "cpu": int(self._task is not None)}
        return {
            "workers": nothing,
            "in_flight": busy,
            "pending": dict(self._ready),
            "deaths": 0,
            "gpu_worker_seconds": 0.0,
        }

    def report(self, file: str) -> AbstractContextManager[Any]:
        raise UsageError("--dask-report needs Dask, and this run is in process", "leave out --in-process")

    def close(self) -> None:
        pass


class _Overdue(BaseException):
    """Not an Exception: nothing between here and there may take it for a fault of its own."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise _Overdue in the main thread after so long; elsewhere there is no limit, since nothing could keep it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _Overdue

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
