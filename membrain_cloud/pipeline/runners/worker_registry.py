"""The workers of a run: which tasks each one has, which worker takes a task, and what a worker's death means.

Knows no Dask. Every task is assigned to one worker by name, so the tasks of a worker that dies are known:

    GPU worker, 2 slots   [ TS_7 computing | TS_8 reading ahead ]
    CPU worker, 1 slot    [ TS_3 ]  (and prefetched ones, where tasks are shorter than a message)

A death is attributed to a task only where that task executed alone. Tasks that shared a worker which died are only
suspects: each is executed again alone, on a worker that executes nothing else meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.pipeline.runners.worker_state import Worker, WorkerDeath

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from membrain_cloud.pipeline.runners.worker_state import Assignment, WorkerFacts
    from membrain_cloud.pipeline.tasks import Kind, Task

# Tasks shorter than this are prefetched: a worker would wait longer for the next message than it computes.
PREFETCH_SECONDS = 0.1
MAX_PREFETCH = 16
# One task is queued at a worker behind tasks up to this duration: otherwise the worker idles for some 10 ms between
# two of them. A queued task is bound to its worker, so only while there are enough for all the others.
QUEUE_NEXT_SECONDS = 5.0
# Tasks of a kind wait this long for workers of that kind to come back, then they go to the other kind.
ABSENCE_SECONDS = 600.0
# A dead worker that is not back within this time, under its name or its nanny, has lost its machine.
COMEBACK_SECONDS = 45.0


class PlacementPolicy:
    """The choice of a worker for a task.

    Parameters
    ----------
    expected : iterable of {"gpu", "cpu"}
        Kinds of workers that exist even while no such worker is connected, because they are scaled up when needed.
    """

    def __init__(self, expected: Iterable[Kind] = ()) -> None:
        self._expected: frozenset[Kind] = frozenset(expected)
        self._last_present: dict[Kind, float] = {}
        self._mean_seconds: dict[str, float] = {}
        self._ready: Mapping[Kind, int] = {}

    def choose(
        self, workers: Mapping[str, Worker], kind: Kind, stage: str, now: float, *, alone: str | None = None
    ) -> Worker | None:
        """Return the least loaded worker that may take a task, or None; see `WorkerRegistry.choose`.

        Parameters
        ----------
        workers : mapping of str to Worker
            The connected workers by address.
        kind : {"gpu", "cpu"}
            What the task needs.
        stage : str
            The task's stage.
        now : float
            The time in seconds, by our own clock.
        alone : str, optional
            Key of a task that needs a worker for itself. Default: the task shares a worker.
        """
        candidates = [worker for worker in self._candidates(workers, kind, now) if not worker.leaving]
        if alone is not None:
            return _reserve(candidates, alone)
        prefetch = self._prefetch(kind, stage, len(workers))
        best: Worker | None = None
        for worker in candidates:
            if worker.accepts(prefetch) and (best is None or worker.load < best.load):
                best = worker
        return best

    def note_present(self, workers: Mapping[str, Worker], now: float) -> None:
        """Record which kinds of workers are connected at `now`.

        Parameters
        ----------
        workers : mapping of str to Worker
            The connected workers by address.
        now : float
            The time in seconds, by our own clock.
        """
        for kind in ("gpu", "cpu"):
            if any(worker.facts.kind == kind for worker in workers.values()):
                self._last_present[kind] = now

    def note_duration(self, stage: str, seconds: float) -> None:
        """Update the running mean of a stage's task duration.

        Parameters
        ----------
        stage : str
            Name of the stage.
        seconds : float
            Duration of a task that succeeded.
        """
        mean = self._mean_seconds.get(stage, seconds)
        self._mean_seconds[stage] = 0.8 * mean + 0.2 * seconds

    def note_ready(self, ready: Mapping[Kind, int]) -> None:
        """Record the number of tasks of each kind that wait for a worker.

        Parameters
        ----------
        ready : mapping of {"gpu", "cpu"} to int
            Number of tasks of each kind that wait for a worker.
        """
        self._ready = ready

    def _candidates(self, workers: Mapping[str, Worker], kind: Kind, now: float) -> list[Worker]:
        other: Kind = "cpu" if kind == "gpu" else "gpu"
        fitting = [worker for worker in workers.values() if worker.facts.kind in (kind, None)]
        # GPU stages run on CPU workers where there is no GPU, CPU stages on GPU workers where there is no CPU worker.
        last_present = self._last_present.get(kind, -ABSENCE_SECONDS)
        is_absent_for_now = kind in self._expected or now - last_present < ABSENCE_SECONDS
        if fitting or is_absent_for_now:
            return fitting
        return [worker for worker in workers.values() if worker.facts.kind == other]

    def _prefetch(self, kind: Kind, stage: str, workers: int) -> int:
        """Return the number of tasks to queue at a worker beyond its slots."""
        seconds = self._mean_seconds.get(stage)
        if seconds is None:
            return 0
        by_message = min(MAX_PREFETCH, int(PREFETCH_SECONDS / max(seconds, 1e-3)))
        are_enough_for_all = self._ready.get(kind, 0) > workers
        return max(by_message, int(seconds <= QUEUE_NEXT_SECONDS and are_enough_for_all))


def _reserve(candidates: list[Worker], key: str) -> Worker | None:
    """Return the worker reserved for the task with this key once it is empty; reserve one where none is."""
    reserved = next((worker for worker in candidates if worker.reserved_for == key), None)
    if reserved is None:
        unreserved = [worker for worker in candidates if worker.reserved_for is None]
        if not unreserved:
            return None
        reserved = min(unreserved, key=lambda worker: worker.load)
        reserved.reserved_for = key
    return None if reserved.assignments else reserved


class WorkerRegistry:
    """The workers of a run by address, their assignments, and the deaths that are not yet understood.

    Parameters
    ----------
    expected : iterable of {"gpu", "cpu"}
        Kinds of workers that exist even while no such worker is connected, because they are scaled up when needed.

    Attributes
    ----------
    workers : dict of str to Worker
        Connected workers by address.
    deaths : list of WorkerDeath
        Deaths for which `resolve_deaths` has not yet decided between a crash and a lost machine.
    """

    def __init__(self, expected: Iterable[Kind] = ()) -> None:
        self.workers: dict[str, Worker] = {}
        self.deaths: list[WorkerDeath] = []
        self._placement = PlacementPolicy(expected)
        self._address_of: dict[str, str] = {}

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
                worker = self.workers[address] = Worker(facts, heartbeat_at=now)
            elif worker.facts.last_seen != facts.last_seen:
                worker.heartbeat_at = now
            worker.facts = facts
        for address in [address for address in self.workers if address not in connected]:
            returned += self._remove_lost(self.workers.pop(address), now)
        self._placement.note_present(self.workers, now)
        return returned

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
            Each death, and whether the worker came back under its name or its nanny: then its process died by itself.
            Otherwise its machine was lost (preempted, most likely), and no task is the cause.
        """
        resolved = []
        for death in list(self.deaths):
            came_back = any(_replaces(worker.facts, death.worker) for worker in self.workers.values())
            if came_back or now - death.when > COMEBACK_SECONDS:
                self.deaths.remove(death)
                resolved.append((death, came_back))
        return resolved

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
        if address in self.workers:
            self.workers[address].leaving = True

    def count(self, kind: Kind) -> int:
        """Return the number of workers of a kind; workers for all tasks count as CPU workers.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            The kind of workers.
        """
        return sum((worker.facts.kind or "cpu") == kind for worker in self.workers.values())

    def slots(self, kind: Kind) -> int:
        """Return the largest number of slots of a worker of a kind; 1 while there is no such worker.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            The kind of workers.
        """
        slots = [worker.facts.slots for worker in self.workers.values() if (worker.facts.kind or "cpu") == kind]
        return max(slots, default=1)

    def count_on_host(self, host: str) -> int:
        """Return the number of workers on the machine with this host name or IP address."""
        return sum(f"://{host}:" in address for address in self.workers)

    # -- assignments

    def choose(self, kind: Kind, stage: str, now: float, *, alone: str | None = None) -> Worker | None:
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

        Returns
        -------
        Worker or None
            The worker, or None while no worker accepts the task.
        """
        return self._placement.choose(self.workers, kind, stage, now, alone=alone)

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
            worker.reserved_for = assignment.task.key

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
            worker.reserved_for = None
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
        self.workers, self.deaths, self._address_of = {}, [], {}
        return assignments

    def _find(self, token: str) -> tuple[Worker, Assignment] | None:
        address = self._address_of.get(token)
        worker = None if address is None else self.workers.get(address)
        return None if worker is None else (worker, worker.assignments[token])


def _replaces(worker: WorkerFacts, dead: WorkerFacts) -> bool:
    """Return whether a worker is the process that was started in place of a dead one."""
    if worker.address == dead.address:
        return False
    return worker.name == dead.name or (worker.nanny is not None and worker.nanny == dead.nanny)
