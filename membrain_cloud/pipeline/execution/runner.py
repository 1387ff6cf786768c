"""What a runner is: it executes tasks, in this process or on workers. Knows no Dask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from membrain_cloud.pipeline.tasks import Kind, Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.planning.digests import Registry

Observer = Callable[[str, Task, Outcome | None], None]
"""Called with an event, its task and its outcome.

Events: "started" (outcome None), "finished", "again" (retried later), "held" (another run has the task's lease).
"""

KINDS: tuple[Kind, ...] = ("gpu", "cpu")

Demand = tuple[Kind, int]
"""The workers that tasks prefer, and the memory in bytes that each of them takes."""


class Runner(Protocol):
    """Executes tasks: in this process, or on workers.

    Attributes
    ----------
    memory_limits : mapping of str to int, or None
        "gpu" and "cpu" -> memory in bytes of the largest worker that such tasks may get; tasks that need more are
        refused when the plan is made. None where larger workers may connect later.
    """

    memory_limits: Mapping[Kind, int] | None

    def prepare(self, tasks: Sequence[Task], registry: Registry) -> None:
        """Take the tasks of the plan, before the first one starts: local workers are made for them.

        Parameters
        ----------
        tasks : sequence of Task
            All tasks of the plan.
        registry : mapping of str to Stage
            All stages.
        """

    def bind(self, attempts: CrashRecords, note: Observer) -> None:
        """Connect the runner to a run, before its first task.

        Parameters
        ----------
        attempts : CrashRecords
            Where attempts that killed their worker are counted.
        note : callable
            Observer of tasks that the runner itself retries.
        """

    def now(self) -> float:
        """Return the time in seconds, by the clock on which the runner waits."""

    def has_slot(self, task: Task, kind: Kind) -> bool:
        """Return whether a task could start now.

        Parameters
        ----------
        task : Task
            The task.
        kind : str
            "gpu" or "cpu": the workers that it prefers.
        """

    def refusal(self, task: Task, kind: Kind) -> Outcome | None:
        """Return the failure of a task without a slot that no worker can take; None while one can, or may come.

        Parameters
        ----------
        task : Task
            The task.
        kind : str
            "gpu" or "cpu": the workers that it prefers.

        Raises
        ------
        TransientError
            If no worker has been there for tasks of this kind for long, and nothing else is in flight.
        """

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        """Start a task.

        Parameters
        ----------
        task : Task
            The task.
        registry : mapping of str to Stage
            All stages.
        kind : str
            "gpu" or "cpu": the workers that it prefers.
        take_over : str
            State of another run's lease on the task that is no longer renewed. Default: none.
        """

    def finished(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of tasks that have ended.

        Parameters
        ----------
        seconds : float
            Time to wait for the first one.
        """

    def backlog(self, ready: Mapping[Demand, int]) -> None:
        """Take the number of tasks that could start if there were slots.

        Parameters
        ----------
        ready : mapping of (str, int) to int
            "gpu" or "cpu", and the memory of a task in bytes -> number of such tasks.
        """

    def snapshot(self) -> Mapping[str, Any]:
        """Return numbers for display, in any thread.

        By kind: "workers", "in_flight", "pending"; in all: "deaths", "gpu_worker_seconds".
        """

    def report(self, file: str) -> AbstractContextManager[Any]:
        """Return a context in which Dask's performance report is recorded, written to a file at its end.

        Parameters
        ----------
        file : str
            Path of the HTML file.

        Raises
        ------
        UsageError
            If the runner has no Dask.
        """

    def close(self) -> None:
        """Release workers and connections."""
