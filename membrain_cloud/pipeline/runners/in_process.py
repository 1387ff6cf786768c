"""The runner that executes one task after the other in this process."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Self

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.execution.execute_task import Claim, execute_task
from membrain_cloud.pipeline.execution.runner import KINDS
from membrain_cloud.pipeline.runners.host_resources import worker_memory_bytes
from membrain_cloud.pipeline.tasks import Kind, Outcome, Task, timeout_outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.execution.runner import Demand, Observer
    from membrain_cloud.pipeline.planning.digests import Registry


class InProcessRunner:
    """A runner without workers, for a single process; implements `execution.runner.Runner`.

    A task that kills the process leaves its lease behind, from which the next run learns of the crash.

    Attributes
    ----------
    memory_limits : mapping of str to int
        Memory that a task may plan with: 90 % of the machine's or the container's.
    """

    def __init__(self) -> None:
        self.memory_limits: Mapping[Kind, int] | None = dict.fromkeys(KINDS, worker_memory_bytes())
        self._id = uuid.uuid4().hex[:12]
        self._task: tuple[Task, Registry, str] | None = None
        self._ready: Mapping[Demand, int] = {}

    def __enter__(self) -> Self:
        """Return the runner itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the runner."""
        self.close()

    def prepare(self, tasks: Sequence[Task], registry: Registry) -> None:
        """Do nothing: there are no workers to make.

        Parameters
        ----------
        tasks : sequence of Task
            The tasks, not used.
        registry : mapping of str to Stage
            The stages, not used.
        """

    def bind(self, attempts: CrashRecords, note: Observer) -> None:
        """Do nothing: a crash ends this process, so no crash is recorded by it.

        Parameters
        ----------
        attempts : CrashRecords
            The records of the project, not used.
        note : callable
            The observer of retries, not used.
        """

    def now(self) -> float:
        """Return the time in seconds, by a clock that only this process knows."""
        return time.monotonic()

    def has_slot(self, task: Task, kind: Kind) -> bool:
        """Return whether a task can be started: none is waiting for `finished`.

        Parameters
        ----------
        task : Task
            The task to start.
        kind : {"gpu", "cpu"}
            What it needs.
        """
        return self._task is None

    def refusal(self, task: Task, kind: Kind) -> Outcome | None:
        """Return None: this process takes all tasks.

        Parameters
        ----------
        task : Task
            The task, not used.
        kind : {"gpu", "cpu"}
            What it needs, not used.
        """
        return None

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        """Keep a task for the next call of `finished`, which executes it.

        Parameters
        ----------
        task : Task
            The task.
        registry : mapping of str to Stage
            The stages by name.
        kind : {"gpu", "cpu"}
            What it needs.
        take_over : str
            Another run's lease of this task that has expired. Default: there is none.
        """
        self._task = (task, registry, take_over)

    def finished(self, seconds: float) -> list[Outcome]:
        """Execute the task that was started and return its outcome; without a task, wait `seconds`.

        Parameters
        ----------
        seconds : float
            Time to wait without a task.

        Returns
        -------
        list of Outcome
            The outcome of the task, or an empty list.
        """
        if self._task is None:
            time.sleep(seconds)
            return []
        (task, registry, take_over), self._task = self._task, None
        claim = Claim(f"{self._id}-{task.digest[:12]}", self._id, f"process {os.getpid()}", True, take_over)
        limit_hours = task.job.limit("task_hours")
        try:
            with _time_limit(limit_hours * 3600):
                return [execute_task(task, registry, claim=claim)]
        except _Overdue:
            return [timeout_outcome(task, limit_hours)]

    def backlog(self, ready: Mapping[Demand, int]) -> None:
        """Record the numbers of tasks that wait, for `snapshot`.

        Parameters
        ----------
        ready : mapping of (kind, int) to int
            Number of tasks that wait, by kind and memory in bytes.
        """
        self._ready = ready

    def snapshot(self) -> Mapping[str, Any]:
        """Return the numbers of workers (none), tasks in flight and waiting tasks, by kind."""
        return {
            "workers": {"gpu": 0, "cpu": 0},
            "in_flight": {"gpu": 0, "cpu": int(self._task is not None)},
            "pending": {
                kind: sum(count for (other, _), count in self._ready.items() if other == kind) for kind in KINDS
            },
            "deaths": 0,
            "gpu_worker_seconds": 0.0,
        }

    def report(self, file: str) -> AbstractContextManager[Any]:
        """Raise UsageError: there is no Dask cluster to report on.

        Parameters
        ----------
        file : str
            Path of the page, not used.
        """
        raise UsageError("Dask's report needs a Dask cluster, and this run is in process", "leave one of them out")

    def close(self) -> None:
        """Do nothing: the runner holds no resources."""


class _Overdue(BaseException):
    """The time limit of a task; no Exception, so that no code in between takes it for an error of its own."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _Overdue in the main thread after `seconds`; on other threads there is no limit, as none can be kept."""
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
