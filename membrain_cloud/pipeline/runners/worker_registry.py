"""The workers of a run: which tasks each one has, which worker takes a task, and what a worker's death means.

Knows no Dask. Every task is assigned to one worker by name, so the tasks of a worker that dies are known:

    GPU worker, 2 slots   [ TS_7 computing | TS_8 reading ahead ]
    CPU worker, 1 slot    [ TS_3 ]  (and prefetched ones, where tasks are shorter than a message)

A death is attributed to a task only where that task executed alone. Tasks that shared a worker which died are only
suspects: each is executed again alone, on a worker that executes nothing else meanwhile.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from membrain_cloud.pipeline.runners.placement import Placement
from membrain_cloud.pipeline.runners.worker_state import Worker, WorkerDeath

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from membrain_cloud.pipeline.runners.worker_state import Assignment, WorkerFacts
    from membrain_cloud.pipeline.tasks import Kind, Task

# A dead worker that is not back within this time, under its name or its nanny, has lost its machine.
COMEBACK_SECONDS = 45.0


class WorkerRegistry:
    """The workers of a run by address, their assignments, and the deaths that are not yet understood.

    Parameters
    ----------
    expected : iterable of {"gpu", "cpu"}
        Kinds of workers that exist even while no such worker is connected, because they are scaled up when needed.

    Attributes
    ----------
    expected : frozenset of {"gpu", "cpu"}
        The same.
    workers : dict of str to Worker
        Connected workers by address.
    deaths : list of WorkerDeath
        Deaths for which `resolve_deaths` has not yet decided between a crash and a lost machine.
    """

    def __init__(self, expected: Iterable[Kind] = ()) -> None:
        self.expected = frozenset(expected)
        self.workers: dict[str, Worker] = {}
        self.deaths: list[WorkerDeath] = []
        self._placement = Placement(self.expected)
        self._address_of: dict[str, str] = {}
        self._on_host: Counter[str] = Counter()
        # Addresses of connected workers by their name and by their nanny's address.
        self._reached_by: dict[str, str] = {}

    # -- workers

    def update(self, connected: Mapping[str, WorkerFacts], now: float) -> list[Assignment]:
        """Compare the registry with the workers that the scheduler lists.

        Workers that disappeared without notice are added to `deaths` with the tasks that they executed.

        Parameters
        ----------
        connected : mapping of str to WorkerFacts
            The scheduler's workers by address.
        now : float
            The time in seconds, by our own clock.

        Returns
        -------
        list of Assignment
            Assignments to send elsewhere at once: tasks of lost workers that had not begun, and all tasks of workers
            that left by request.
        """
        returned: list[Assignment] = []
        for address, facts in connected.items():
            worker = self.workers.get(address)
            if worker is None:
                self._add(Worker(facts, heartbeat_at=now))
                continue
            if worker.facts.last_seen != facts.last_seen:
                worker.heartbeat_at = now
            worker.facts = facts
        for address in [address for address in self.workers if address not in connected]:
            returned += self._remove_lost(self._discard(address), now)
        self._placement.note_present(now)
        return returned

    def _add(self, worker: Worker) -> None:
        facts = worker.facts
        self.workers[facts.address] = worker
        self._placement.add(worker)
        self._on_host[host_of(facts.address)] += 1
        self._reached_by |= dict.fromkeys(filter(None, (facts.name, facts.nanny)), facts.address)

    def _discard(self, address: str) -> Worker:
        worker = self.workers.pop(address)
        self._placement.discard(worker)
        self._on_host[host_of(address)] -= 1
        for label in filter(None, (worker.facts.name, worker.facts.nanny)):
            if self._reached_by.get(label) == address:
                del self._reached_by[label]
        return worker

    def _remove_lost(self, worker: Worker, now: float) -> list[Assignment]:
        """Record the death of a worker that had tasks; return the assignments that are not suspects."""
        for token in worker.assignments:
            self._address_of.pop(token, None)
        suspects = [] if worker.leaving else worker.executing()
        if suspects:
            self.deaths.append(WorkerDeath(worker.facts, suspects, now))
        tokens = {suspect.token for suspect in suspects}
        return [assignment for token, assignment in worker.assignments.items() if token not in tokens]

    def resolve_deaths(self, now: float) -> list[tuple[WorkerDeath, bool]]:
        """Remove and return the deaths whose cause is known by now.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.

        Returns
        -------
        list of (WorkerDeath, bool)
            Each death, and whether the worker came back on its machine, under its name or its nanny: then its process
            died by itself. Otherwise its machine was lost (preempted, most likely), and no task is the cause.
        """
        resolved, open_deaths = [], []
        for death in self.deaths:
            came_back = self._has_come_back(death.worker)
            if came_back or now - death.when > COMEBACK_SECONDS:
                resolved.append((death, came_back))
            else:
                open_deaths.append(death)
        self.deaths = open_deaths
        return resolved

    def _has_come_back(self, dead: WorkerFacts) -> bool:
        """Return whether a process has been started in place of a dead worker's, on the same machine.

        It has the same name or nanny, and another port. On Kubernetes a pod on another node has the same name too.
        """
        addresses = (self._reached_by.get(label, dead.address) for label in filter(None, (dead.name, dead.nanny)))
        return any(address != dead.address and host_of(address) == host_of(dead.address) for address in addresses)

    def silent_workers(self, now: float) -> list[Worker]:
        """Return the workers with tasks whose heartbeat has not changed for `run.silent_minutes`, by our own clock.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.

        Returns
        -------
        list of Worker
            The workers to restart.
        """
        silent = []
        for worker in self.workers.values():
            first = next(iter(worker.assignments.values()), None)
            if first is None or worker.leaving:
                continue
            if now - worker.heartbeat_at > 60 * first.task.job.limit("silent_minutes"):
                silent.append(worker)
        return silent

    def mark_leaving(self, address: str) -> None:
        """Record that a worker shuts down by request: it gets no more tasks, and its end is attributed to none.

        Parameters
        ----------
        address : str
            Address of the worker; an unknown one is ignored.
        """
        worker = self.workers.get(address)
        if worker is not None:
            worker.leaving = True
            self._placement.touch(worker)

    def mark_staying(self, address: str) -> None:
        """Record that a worker which was to leave stays, and gets tasks again.

        Parameters
        ----------
        address : str
            Address of the worker; an unknown one is ignored.
        """
        worker = self.workers.get(address)
        if worker is not None:
            worker.leaving = False
            self._placement.touch(worker)

    def count(self, kind: Kind) -> int:
        """Return the number of workers of a kind; workers for all tasks count as CPU workers.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            The kind of workers.
        """
        return sum((worker.facts.kind or "cpu") == kind for worker in self.workers.values())

    def count_on_host(self, host: str) -> int:
        """Return the number of workers on the machine with this host name or IP address."""
        return self._on_host[host]

    # -- assignments

    def choose(
        self, kind: Kind, stage: str, now: float, *, alone: str | None = None, memory_bytes: int = 0
    ) -> Worker | None:
        """Choose the worker for a task: the one with the fewest assignments for each of its slots.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            What the task needs. Where workers of this kind are absent for long, the other kind is taken.
        stage : str
            The task's stage; short stages are queued at their worker.
        now : float
            The time in seconds, by our own clock.
        alone : str, optional
            Key of a task that needs a worker for itself. A worker is then reserved for that key and returned once it
            has finished everything else. Default: any worker that is not reserved.
        memory_bytes : int
            Memory of the task: at most a slot's share of the worker's, or all of it where the task is alone. Default:
            0, which fits everywhere.

        Returns
        -------
        Worker or None
            The worker, or None while no worker accepts the task.
        """
        return self._placement.choose(kind, stage, now, alone=alone, memory_bytes=memory_bytes)

    def has_slot(self, task: Task, kind: Kind, now: float) -> bool:
        """Return whether a task can be assigned now, or a worker reserved for it where it needs all its memory.

        Parameters
        ----------
        task : Task
            The task.
        kind : {"gpu", "cpu"}
            What it needs.
        now : float
            The time in seconds, by our own clock.
        """
        memory_bytes = task.memory_bytes
        if self._placement.choose(kind, task.stage, now, memory_bytes=memory_bytes) is not None:
            return True
        must_be_alone = self._placement.must_be_alone(kind, now, memory_bytes)
        return must_be_alone and self._placement.can_reserve(kind, now, memory_bytes)

    def must_be_alone(self, task: Task, kind: Kind, now: float) -> bool:
        """Return whether a task needs more memory than a slot's share of any worker, but no more than a whole worker's.

        Parameters
        ----------
        task : Task
            The task.
        kind : {"gpu", "cpu"}
            What it needs.
        now : float
            The time in seconds, by our own clock.
        """
        return self._placement.must_be_alone(kind, now, task.memory_bytes)

    def largest_memory(self, kind: Kind, now: float) -> int | None:
        """Return the memory in bytes of the largest connected worker that takes tasks of a kind; None without one.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            What the tasks need.
        now : float
            The time in seconds, by our own clock.
        """
        return self._placement.largest_memory(kind, now)

    def note_ready(self, ready: Mapping[Kind, int]) -> None:
        """Record the number of tasks of each kind that wait for a worker; tasks are queued only where many wait.

        Parameters
        ----------
        ready : mapping of {"gpu", "cpu"} to int
            Number of tasks of each kind that wait for a worker.
        """
        self._placement.note_ready(ready)

    def assign(self, worker: Worker, assignment: Assignment) -> None:
        """Add an assignment to a worker; one that must be alone reserves the worker.

        Parameters
        ----------
        worker : Worker
            The worker, from `choose`.
        assignment : Assignment
            The task with the token of this attempt.
        """
        worker.assignments[assignment.token] = assignment
        self._address_of[assignment.token] = worker.facts.address
        if assignment.alone:
            self._placement.reserve(worker, assignment.task.key)
        else:
            self._placement.touch(worker)

    def mark_started(self, token: str, now: float) -> None:
        """Record that the worker reported the beginning of a task; an unknown token is ignored.

        Parameters
        ----------
        token : str
            The token of the assignment.
        now : float
            The time in seconds, by our own clock.
        """
        entry = self._find(token)
        if entry is not None:
            entry[1].started = now

    def remove(self, token: str, seconds: float | None = None) -> tuple[Worker, Assignment] | None:
        """Remove an assignment that has ended and free its slot.

        Parameters
        ----------
        token : str
            The assignment's token.
        seconds : float, optional
            Duration of a task that succeeded, from which the stage's mean is updated. Default: no update.

        Returns
        -------
        (Worker, Assignment) or None
            The removed assignment and its worker; None for a token that is not assigned (any more).
        """
        entry = self._find(token)
        if entry is None:
            return None
        worker, assignment = entry
        del worker.assignments[token], self._address_of[token]
        if worker.reserved_for == assignment.task.key:
            self._placement.reserve(worker, None)
        else:
            self._placement.touch(worker)
        if seconds is not None:
            self._placement.note_duration(assignment.task.stage, seconds)
        return entry

    def overdue(self, now: float, seconds: float) -> list[tuple[Worker, Assignment]]:
        """Return the assignments that execute for `seconds` longer than `run.task_hours`, with their workers.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.
        seconds : float
            Time beyond the task's limit.

        Returns
        -------
        list of (Worker, Assignment)
            The assignments with their workers.
        """
        return [
            (worker, assignment)
            for worker in self.workers.values()
            for assignment in worker.assignments.values()
            if assignment.started is not None
            and now - assignment.started > 3600 * assignment.task.job.limit("task_hours") + seconds
        ]

    def assignments(self) -> list[Assignment]:
        """Return all assignments, those of dead workers whose death is not yet resolved included."""
        assigned = [assignment for worker in self.workers.values() for assignment in worker.assignments.values()]
        return assigned + [assignment for death in self.deaths for assignment in death.assignments]

    def task_of(self, token: str) -> Task | None:
        """Return the task of an assignment, or None for a token that is not assigned.

        Parameters
        ----------
        token : str
            The assignment.
        """
        entry = self._find(token)
        return None if entry is None else entry[1].task

    def has_started(self, token: str) -> bool:
        """Return whether a worker has reported the beginning of this assignment.

        Parameters
        ----------
        token : str
            The assignment.
        """
        entry = self._find(token)
        return entry is not None and entry[1].started is not None

    def clear(self) -> list[Assignment]:
        """Forget all workers and return all assignments: after a lost scheduler their state is unknown."""
        assignments = self.assignments()
        for address in list(self.workers):
            self._discard(address)
        self.deaths, self._address_of = [], {}
        return assignments

    def _find(self, token: str) -> tuple[Worker, Assignment] | None:
        address = self._address_of.get(token)
        worker = None if address is None else self.workers.get(address)
        return None if worker is None else (worker, worker.assignments[token])


def host_of(address: str) -> str:
    """Return the host name or IP address of a worker's address, e.g. 10.0.0.1 of ``tcp://10.0.0.1:4000``.

    Parameters
    ----------
    address : str
        Address of a worker, e.g. ``tcp://10.0.0.1:4000``.

    Returns
    -------
    str
        The part between ``://`` and the port.
    """
    return address.partition("://")[2].rpartition(":")[0]
