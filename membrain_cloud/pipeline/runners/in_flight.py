"""Tasks in flight: assigned to workers, ended, or waiting for another attempt after their worker was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.pipeline.execution.crash_records import Cause, Crash, CrashRecords
from membrain_cloud.pipeline.execution.runner import KINDS
from membrain_cloud.pipeline.runners.worker_state import Assignment
from membrain_cloud.pipeline.tasks import Outcome, timeout_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.execution.runner import Demand, Observer
    from membrain_cloud.pipeline.runners.kubernetes.scaler import Scaler
    from membrain_cloud.pipeline.runners.task_exchange import TaskExchange
    from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
    from membrain_cloud.pipeline.runners.worker_state import WorkerDeath
    from membrain_cloud.pipeline.tasks import Kind, Task

# Least time between two updates of the statistics.
STATISTICS_SECONDS = 0.5


@dataclass(frozen=True)
class Attempt:
    """An attempt at a task that waits for a worker.

    Attributes
    ----------
    task : Task
        The task.
    kind : {"gpu", "cpu"}
        The queue that it comes from.
    alone : bool
        Whether it must execute on a worker that executes nothing else meanwhile.
    take_over : str
        Token of an earlier attempt that is known to have ended; empty without one.
    """

    task: Task
    kind: Kind
    alone: bool = False
    take_over: str = ""


class InFlightTasks:
    """Assigns tasks to workers, takes their outcomes, and retries what was lost with a worker.

    Parameters
    ----------
    workers : WorkerRegistry
        The workers and their assignments.
    exchange : TaskExchange
        Sends assigned tasks.

    Attributes
    ----------
    deaths : int
        Number of workers that were lost while they executed tasks, so far.
    """

    def __init__(self, workers: WorkerRegistry, exchange: TaskExchange) -> None:
        self.deaths = 0
        self._workers, self._exchange = workers, exchange
        self._crashes = CrashRecords(None)
        self._observe: Observer = lambda *_: None
        self._outcomes: list[Outcome] = []
        self._waiting: list[Attempt] = []

    def bind(self, crashes: CrashRecords, observe: Observer) -> None:
        """Set where crashes are recorded, and who is notified of tasks that are retried.

        Parameters
        ----------
        crashes : CrashRecords
            The records of the project.
        observe : callable
            Called with ("again", task, outcome) before another attempt.
        """
        self._crashes, self._observe = crashes, observe

    def start(self, attempt: Attempt, now: float) -> None:
        """Assign a task to a worker, or keep it for `assign_waiting` where no worker accepts it any more.

        Parameters
        ----------
        attempt : Attempt
            The task to assign.
        now : float
            The time in seconds, by our own clock.
        """
        if not self._assign(attempt, now):
            self._waiting.append(attempt)

    def assign_waiting(self, now: float) -> None:
        """Assign the tasks that wait for another attempt, as far as workers accept them.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.
        """
        waiting, self._waiting = self._waiting, []
        without_slot: set[tuple[Kind, str, int]] = set()
        for attempt in waiting:
            like = attempt.kind, attempt.task.stage, attempt.task.memory_bytes
            if attempt.alone or like not in without_slot:
                if self._assign(attempt, now):
                    continue
                without_slot.add(like)
            self._waiting.append(attempt)

    def waiting(self) -> Sequence[Attempt]:
        """Return the attempts that wait for a worker."""
        return self._waiting

    def refuse_waiting(self, refusal: Callable[[Task, Kind], Outcome | None]) -> None:
        """End the attempts that no worker will take.

        Parameters
        ----------
        refusal : callable
            Returns the failure of a task that no worker takes, or None while there is one or one may come.
        """
        waiting, self._waiting = self._waiting, []
        for attempt in waiting:
            failure = refusal(attempt.task, attempt.kind)
            if failure is None:
                self._waiting.append(attempt)
            else:
                self._outcomes.append(failure)

    def has_outcomes(self) -> bool:
        """Return whether `take_outcomes` has something to return."""
        return bool(self._outcomes)

    def take_outcomes(self) -> list[Outcome]:
        """Remove and return the outcomes of the tasks that have ended."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def handle(self, event: Mapping[str, Any], now: float) -> None:
        """Handle an event that `dask_worker` sent.

        Parameters
        ----------
        event : mapping of str to Any
            Content of a `TaskEvent`.
        now : float
            The time in seconds, by our own clock.
        """
        token = event.get("token", "")
        match event["what"]:
            case "began":
                self._workers.mark_started(token, now)
            case "leaving":
                self._workers.mark_leaving(event["worker"])
            case "overdue":
                self.end_overdue(token)
            case "ended":
                self._end(token, Outcome.from_dict(event["outcome"]))
                if "next" in event:
                    self._workers.mark_started(event["next"], now)

    def end_bundle(self, tokens: Sequence[str]) -> None:
        """Take what Dask reports of a bundle; tasks that events have reported are left alone.

        Parameters
        ----------
        tokens : sequence of str
            The tokens of the bundle.

        Raises
        ------
        SchedulerLost
            If the bundle was cancelled, or its result cannot be fetched.
        """
        result = self._exchange.bundle_result(tokens)
        if result is None:
            return
        if result.error:
            started = [token for token in result.tokens if self._workers.has_started(token)]
            for token in started or result.tokens:
                task = self._workers.task_of(token)
                if task is not None:
                    next_step = "this is a bug: please report it"
                    self._end(token, Outcome(task.stage, task.run, task.part, "failed", result.error, next_step))
        for token in result.tokens:
            if token in result.outcomes:
                self._end(token, Outcome.from_dict(result.outcomes[token]))
        for token in result.tokens:
            entry = self._workers.remove(token)
            if entry is not None:  # left out by a worker that shut down
                self.retry(entry[1], "worker_left")

    def end_overdue(self, token: str) -> None:
        """Fail a task whose time is up. Its worker is ending; the worker's other tasks are not the cause of that.

        Parameters
        ----------
        token : str
            The token of the assignment.
        """
        entry = self._workers.remove(token)
        if entry is not None:
            worker, assignment = entry
            self._workers.mark_leaving(worker.facts.address)
            self._exchange.forget(token)
            limit_hours = assignment.task.job.limit("task_hours")
            self._outcomes.append(timeout_outcome(assignment.task, limit_hours).at(worker.facts.address))

    def retry(self, assignment: Assignment, cause: str, *, alone: bool = False, take_over: str = "") -> None:
        """Keep a task for another attempt and notify the observer.

        Parameters
        ----------
        assignment : Assignment
            The attempt that was lost, already removed from its worker.
        cause : str
            The cause that the observer is told.
        alone : bool
            Whether the task must execute alone from now on. Default: as before.
        take_over : str
            The attempt's token if it is known to have ended. Default: its lease is respected.
        """
        self._exchange.forget(assignment.token)
        task = assignment.task
        self._waiting.append(Attempt(task, assignment.kind, alone or assignment.alone, take_over))
        self._observe("again", task, Outcome(task.stage, task.run, task.part, "again", cause))

    def retry_all(self, cause: str) -> None:
        """Retry all tasks after the loss of the scheduler, without recording crashes; live workers keep leases.

        Parameters
        ----------
        cause : str
            The cause that the observer gets.
        """
        self._exchange.clear()
        for assignment in self._workers.clear():
            self.retry(assignment, cause)

    def resolve_deaths(self, now: float) -> None:
        """Record the deaths whose cause is known, and retry their tasks or fail those that crashed too often.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.
        """
        resolved = self._workers.resolve_deaths(now)
        if not resolved:
            return
        self.deaths += len(resolved)
        lost = [
            (assignment, Crash(assignment.task, _cause(death, came_back), death.alone, death.worker.address))
            for death, came_back in resolved
            for assignment in death.assignments
        ]
        records = self._crashes.record_all([crash for _, crash in lost])
        for (assignment, crash), record in zip(lost, records, strict=True):
            failure = record.failure()
            if failure is None:
                alone = crash.cause == "worker_died"
                self.retry(assignment, crash.cause, alone=alone, take_over=assignment.token)
            else:
                self._exchange.forget(assignment.token)
                self._outcomes.append(failure.at(crash.worker))

    def _assign(self, attempt: Attempt, now: float) -> bool:
        """Assign a task to the worker that accepts it; return whether there was one."""
        task = attempt.task
        alone = attempt.alone or self._workers.must_be_alone(task, attempt.kind, now)
        key = task.key if alone else None
        worker = self._workers.choose(attempt.kind, task.stage, now, alone=key, memory_bytes=task.memory_bytes)
        if worker is None:
            return False
        assignment = Assignment(task, self._exchange.new_token(), attempt.kind, alone)
        self._workers.assign(worker, assignment)
        self._exchange.put(worker, assignment, attempt.take_over)
        return True

    def _end(self, token: str, outcome: Outcome) -> None:
        self._exchange.forget(token)
        entry = self._workers.remove(token, outcome.seconds if outcome.state == "done" else None)
        if entry is not None:  # otherwise its worker was given up, and the task is retried
            self._outcomes.append(outcome.at(entry[0].facts.address))


def _cause(death: WorkerDeath, came_back: bool) -> Cause:
    return "worker_died" if came_back and death.certain else "machine_lost"


class RunStatistics:
    """Counts workers and tasks by kind, and scales worker groups with them.

    Parameters
    ----------
    workers : WorkerRegistry
        The workers and their assignments.
    tasks : InFlightTasks
        The tasks that wait for another attempt.
    scaler : Scaler or None
        Scales worker groups on Kubernetes.

    Attributes
    ----------
    snapshot : mapping of str to Any
        The latest counts, as `execution.runner.Runner.snapshot` returns them; replaced, never changed.
    """

    def __init__(self, workers: WorkerRegistry, tasks: InFlightTasks, scaler: Scaler | None) -> None:
        self._workers, self._tasks, self._scaler = workers, tasks, scaler
        self._updated_at: float | None = None
        self._gpu_worker_seconds = 0.0
        self.snapshot: Mapping[str, Any] = {
            **{name: dict.fromkeys(KINDS, 0) for name in ("workers", "in_flight", "pending")},
            "deaths": 0,
            "gpu_worker_seconds": 0.0,
        }

    def update(self, ready: Mapping[Demand, int], now: float) -> None:
        """Count and scale anew, at most every `STATISTICS_SECONDS`.

        Parameters
        ----------
        ready : mapping of (kind, int) to int
            Number of tasks that wait for a worker, by kind and memory in bytes.
        now : float
            The time in seconds, by our own clock.
        """
        if self._updated_at is not None and now - self._updated_at < STATISTICS_SECONDS:
            return
        in_flight = Counter(assignment.kind for assignment in self._workers.assignments())
        demand = Counter(dict(ready))
        demand.update((attempt.kind, attempt.task.memory_bytes) for attempt in self._tasks.waiting())
        pending: Counter[Kind] = Counter()
        for (kind, _), count in demand.items():
            pending[kind] += count
        gpu_workers = self._workers.count("gpu")
        self._gpu_worker_seconds += 0.0 if self._updated_at is None else gpu_workers * (now - self._updated_at)
        self._updated_at = now
        self.snapshot = {
            "workers": {kind: self._workers.count(kind) for kind in KINDS},
            "in_flight": {kind: in_flight[kind] for kind in KINDS},
            "pending": {kind: pending[kind] for kind in KINDS},
            "deaths": self._tasks.deaths,
            "gpu_worker_seconds": self._gpu_worker_seconds,
        }
        if self._scaler is not None:
            self._scaler.follow(demand, self._workers, now)
