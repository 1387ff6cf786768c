"""Records of workers and of the tasks assigned to them. Plain data without Dask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from membrain_cloud.pipeline.tasks import Kind, Task


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker reports of itself to the scheduler.

    Attributes
    ----------
    address : str
        Its address, which changes when its process starts again.
    name : str
        Its name, which a nanny keeps for the process that it starts in place of a dead one.
    nanny : str or None
        The nanny's address, or None where the worker has no nanny.
    kind : {"gpu", "cpu"} or None
        The tasks that the worker is for; None for all of them.
    slots : int
        Number of tasks that it executes at the same time.
    memory_bytes : int
        Its memory limit.
    last_seen : float
        Time of its last heartbeat by the scheduler's clock; only changes of it are used.
    """

    address: str
    name: str
    nanny: str | None
    kind: Kind | None
    slots: int
    memory_bytes: int
    last_seen: float = 0.0


@dataclass
class Assignment:
    """A task assigned to one worker.

    Attributes
    ----------
    task : Task
        The task.
    token : str
        Identifier of this attempt, unique among all attempts of all runs.
    kind : {"gpu", "cpu"}
        The queue that the task comes from.
    alone : bool
        Whether the worker must execute nothing else meanwhile.
    started : float or None
        When the worker reported that the task began; None while the task is on its way or queued there.
    """

    task: Task
    token: str
    kind: Kind
    alone: bool = False
    started: float | None = None


@dataclass
class Worker:
    """A worker of the cluster and the tasks assigned to it.

    Attributes
    ----------
    facts : WorkerFacts
        The worker's latest report.
    assignments : dict of str to Assignment
        Its assignments by token, in the order in which they were made.
    leaving : bool
        Whether the worker is shutting down by request, and takes no more tasks.
    reserved_for : str or None
        Key of a task that must execute alone and for which the worker is kept free.
    heartbeat_at : float
        When a new heartbeat was last noticed, by our own clock.
    full : bool
        Whether the worker takes no more tasks until it has fewer.
    version : int
        Number of changes so far, by which `placement` knows outdated entries.
    pool : tuple or None
        The pool of `placement` that the worker is in.
    """

    facts: WorkerFacts
    assignments: dict[str, Assignment] = field(default_factory=dict)
    leaving: bool = False
    reserved_for: str | None = None
    heartbeat_at: float = 0.0
    full: bool = False
    version: int = 0
    pool: tuple[Kind | None, int, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the worker may get tasks of any sort: it neither leaves nor is reserved."""
        return not self.leaving and self.reserved_for is None

    @property
    def load(self) -> float:
        """Assignments per slot."""
        return len(self.assignments) / self.facts.slots

    def accepts(self, prefetch: int) -> bool:
        """Return whether the worker may get another task, with `prefetch` tasks queued beyond its slots.

        A worker that has become full accepts tasks again once half of the prefetched ones are done, so that several are
        sent at a time.

        Parameters
        ----------
        prefetch : int
            Number of tasks that may be queued beyond the slots.
        """
        if len(self.assignments) >= self.facts.slots + prefetch:
            self.full = True
        elif len(self.assignments) <= self.facts.slots + prefetch // 2:
            self.full = False
        return not self.full and self.reserved_for is None

    def executing(self) -> list[Assignment]:
        """Return the assignments reported as begun, or else the first ones, one for each slot."""
        assignments = list(self.assignments.values())
        started = [assignment for assignment in assignments if assignment.started is not None]
        return started or assignments[: self.facts.slots]


@dataclass
class WorkerDeath:
    """A worker that disappeared without notice while it executed tasks.

    Attributes
    ----------
    worker : WorkerFacts
        Its last report.
    assignments : list of Assignment
        The tasks that it executed.
    when : float
        When it was found missing, by our own clock.
    """

    worker: WorkerFacts
    assignments: list[Assignment]
    when: float

    @property
    def alone(self) -> bool:
        """Whether the worker executed one task only, to which its death can be attributed."""
        return len(self.assignments) == 1

    @property
    def certain(self) -> bool:
        """Whether all tasks were reported as begun; otherwise the worker may have died before they arrived."""
        return all(assignment.started is not None for assignment in self.assignments)
