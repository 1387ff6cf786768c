"""The runner on a Dask cluster. Each task is assigned to one worker by name, and few are in flight.

Dask carries tasks and outcomes, never a voxel. The driver (execution/driver.py) holds the graph, the worker registry
knows which worker has which task, and the store what is done. So a scheduler or a worker may die at any moment, and
costs no more than the tasks that it had in flight.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Self

from membrain_cloud.errors import TransientError
from membrain_cloud.pipeline.execution.runner import KINDS
from membrain_cloud.pipeline.planning.builder import memory_refusal
from membrain_cloud.pipeline.runners.dask_cluster import WORKER_COMMAND, SchedulerLost, gpu_count
from membrain_cloud.pipeline.runners.dask_connection import BundleEnded, DaskConnection, TaskEvent
from membrain_cloud.pipeline.runners.host_resources import (
    default_workers,
    equal_workers,
    fitting_workers,
    worker_memory_bytes,
)
from membrain_cloud.pipeline.runners.in_flight import Attempt, InFlightTasks, RunStatistics
from membrain_cloud.pipeline.runners.placement import Patience
from membrain_cloud.pipeline.runners.task_exchange import TaskExchange
from membrain_cloud.pipeline.runners.worker_monitor import WorkerMonitor
from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
from membrain_cloud.pipeline.tasks import Kind, Outcome
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.execution.runner import Demand, Observer
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.runners.dask_connection import Event
    from membrain_cloud.pipeline.runners.host_resources import LocalWorker
    from membrain_cloud.pipeline.runners.kubernetes.scaler import Scaler
    from membrain_cloud.pipeline.tasks import Task

# Time for the first worker of a scheduler to connect.
FIRST_WORKER_SECONDS = 120.0
# Time that ready tasks wait for a worker which may take them. With a scaler it may need a machine, and that an image.
WAIT_SECONDS = 600.0
SCALE_WAIT_SECONDS = 1800.0
# Time between two messages that tasks wait.
REMIND_SECONDS = 120.0
_LOGGER = logging.getLogger("membrain_cloud.runners")


class DaskRunner:
    """A runner on a Dask cluster, used as a context manager; implements `execution.runner.Runner`.

    It is composed of a connection, an exchange of tasks and events, the tasks in flight, and a monitor of the workers.

    Parameters
    ----------
    workers : int, optional
        Number of processes of a local cluster, which starts with the first task. Default: as many as fit.
    scheduler : str, optional
        Address of a scheduler, to which the runner connects when its context is entered. Default: a local cluster.
    scaler : Scaler, optional
        Scales the scheduler's worker groups on Kubernetes. Default: the workers are as they are.
    expected : iterable of {"gpu", "cpu"}
        Kinds of workers that connect sooner or later, beside those of the scaler: their tasks wait for them. Default:
        none.
    wait_seconds : float, optional
        Time that ready tasks wait for a worker which may take them. Default: `SCALE_WAIT_SECONDS` with a scaler or
        expected workers, else `WAIT_SECONDS`.

    Attributes
    ----------
    memory_limits : mapping of str to int, or None
        Memory of the largest worker for GPU and for CPU tasks; None where it depends on the workers that connect.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        scheduler: str | None = None,
        scaler: Scaler | None = None,
        expected: Iterable[Kind] = (),
        wait_seconds: float | None = None,
    ) -> None:
        run_id = uuid.uuid4().hex[:12]
        self._count, self._needs = workers, dict[Kind, int]()
        self.memory_limits: Mapping[Kind, int] | None = None
        others = frozenset(expected)
        if scheduler is None:
            self.memory_limits = dict.fromkeys(KINDS, worker_memory_bytes(workers or 1))
        elif scaler is not None:
            self.memory_limits = scaler.memory_limits(others)
        self._connection = DaskConnection(
            f"membrain-cloud-{run_id}", scheduler=scheduler, local_workers=self._local_workers
        )
        self._scaler = scaler
        self._workers = WorkerRegistry(others | frozenset(() if scaler is None else scaler.kinds))
        if wait_seconds is None:
            wait_seconds = SCALE_WAIT_SECONDS if self._workers.expected else WAIT_SECONDS
        self._patience, self._reminded_at = Patience(wait_seconds), dict[Kind, float]()
        self._exchange = TaskExchange(run_id, self._connection)
        self._tasks = InFlightTasks(self._workers, self._exchange)
        self._monitor = WorkerMonitor(self._connection, self._workers, self._tasks)
        self._statistics = RunStatistics(self._workers, self._tasks, scaler)
        self._exit = ExitStack()
        self._exit.callback(self._connection.close)

    def __enter__(self) -> Self:
        """Connect to the scheduler, if there is one already; wait for its first worker, or check that scaling works.

        Raises
        ------
        UsageError
            If the scheduler is not made for scaling.
        TransientError
            If the scheduler does not answer, no worker connects to it, or workers cannot be scaled.
        """
        if self._connection.scheduler is not None:
            try:
                self._connect_to_workers()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close the runner."""
        self.close()

    def close(self) -> None:
        """Scale worker groups to none, close the connection, and end a local cluster; may be called again."""
        self._exit.close()

    def prepare(self, tasks: Sequence[Task], registry: Registry) -> None:
        """Take the memory that the tasks of each kind need, by which the workers of a local cluster are made.

        Parameters
        ----------
        tasks : sequence of Task
            All tasks of the plan.
        registry : mapping of str to Stage
            The stages by name.
        """
        for task in tasks:
            kind: Kind = "gpu" if registry[task.stage].needs_gpu else "cpu"
            # Without an estimate the least memory of a worker does.
            self._needs[kind] = max(self._needs.get(kind, 0), task.memory_bytes or 1)

    def bind(self, attempts: CrashRecords, note: Observer) -> None:
        """Set where crashes are recorded, and who is notified of tasks that are retried.

        Parameters
        ----------
        attempts : CrashRecords
            The records of the project.
        note : callable
            Called with ("again", task, outcome) before another attempt.
        """
        self._tasks.bind(attempts, note)

    def now(self) -> float:
        """Return the time in seconds, by a clock that only this process knows."""
        return time.monotonic()

    def has_slot(self, task: Task, kind: Kind) -> bool:
        """Return whether a worker accepts this task now; a local cluster starts with the first call.

        Parameters
        ----------
        task : Task
            The task to start.
        kind : {"gpu", "cpu"}
            What it needs.
        """
        if not self._connection.is_open:
            if self._connection.is_lost:
                return False
            self._open()
        return self._workers.has_slot(task, kind, self.now())

    def refusal(self, task: Task, kind: Kind) -> Outcome | None:
        """Return the failure of a task that has waited too long for a worker with enough memory.

        Parameters
        ----------
        task : Task
            A task without a slot.
        kind : {"gpu", "cpu"}
            What it needs.

        Returns
        -------
        Outcome or None
            None while a worker may take it once it is idle, or may still connect.

        Raises
        ------
        TransientError
            If no worker for such tasks has been connected for the time to wait, and nothing is in flight.
        """
        if not self._connection.is_open:
            return None  # the connection has a patience of its own
        now = self.now()
        largest = self._workers.largest_memory(kind, now)
        if largest is not None and largest >= task.memory_bytes:
            return None
        waited, limit = self._patience.waited(kind, largest, now), self._patience.seconds
        if waited < limit or (largest is None and self._workers.assignments()):
            self._remind(task, kind, largest, waited, now)
            return None
        minutes = f"{limit / 60:.0f} min"
        if largest is not None:
            error = memory_refusal(task.stage, task.memory_bytes, largest)
            message = f"{error.message}; no larger one has connected in {minutes}"
            return Outcome(task.stage, task.run, task.part, "failed", message, error.next_step)
        groups = "" if self._scaler is None else f" ({self._scaler.describe(kind)})"
        raise TransientError(
            f"no worker for {kind.upper()} stages has been connected for {minutes}{groups}",
            "see why its machines do not start (`kubectl get pods`, the job queue), or wait longer; then run the same "
            "command again: finished tasks are kept",
        )

    def _remind(self, task: Task, kind: Kind, largest: int | None, waited: float, now: float) -> None:
        """Log now and then that a task waits for a worker that is not there."""
        if waited < REMIND_SECONDS or now - self._reminded_at.get(kind, -REMIND_SECONDS) < REMIND_SECONDS:
            return
        self._reminded_at[kind] = now
        what = "none is connected" if largest is None else f"the largest has {largest / GIB:.1f} GiB"
        need = f" with {task.memory_bytes / GIB:.1f} GiB" if task.memory_bytes else ""
        groups = "" if self._scaler is None else f"; {self._scaler.describe(kind)}"
        _LOGGER.warning(
            "%s of %s waits for a %s worker%s for %.0f min: %s%s",
            *(task.stage, task.run, kind.upper(), need, waited / 60, what, groups),
        )

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        """Assign a task to a worker; the next call of `finished` sends it.

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
        self._exchange.use_registry(registry)
        self._tasks.start(Attempt(task, kind, take_over=take_over), self.now())

    def finished(self, seconds: float) -> list[Outcome]:
        """Send tasks, handle events, and return the outcomes of the tasks that have ended.

        Parameters
        ----------
        seconds : float
            Longest time to wait for the first event.

        Returns
        -------
        list of Outcome
            Outcomes in the order of their arrival; empty while the scheduler is lost.

        Raises
        ------
        SchedulerLost
            If the scheduler has been lost for 15 minutes.
        """
        if not self._connection.is_open:
            self._reconnect(seconds)
        try:
            if self._connection.is_open:
                self._exchange.post(self._workers)
                for event in self._exchange.receive(0.0 if self._tasks.has_outcomes() else seconds):
                    self._handle(event)
                self._monitor.poll_if_due(self.now())
                self._tasks.resolve_deaths(self.now())
                self._tasks.assign_waiting(self.now())
                self._tasks.refuse_waiting(self.refusal)
                self._exchange.post(self._workers)
        except SchedulerLost:
            self._lose_scheduler()
        return self._tasks.take_outcomes()

    def backlog(self, ready: Mapping[Demand, int]) -> None:
        """Take the number of tasks that wait for a worker, for the statistics and for scaling.

        Parameters
        ----------
        ready : mapping of (kind, int) to int
            Number of tasks that wait for a worker, by kind and memory in bytes.
        """
        by_kind: Counter[Kind] = Counter()
        for (kind, _), count in ready.items():
            by_kind[kind] += count
        self._workers.note_ready(by_kind)
        self._statistics.update(ready, self.now())

    def snapshot(self) -> Mapping[str, Any]:
        """Return the numbers of workers, tasks in flight and waiting tasks, by kind; may be called from any thread."""
        return self._statistics.snapshot

    def report(self, file: str) -> AbstractContextManager[Any]:
        """Return a context that writes Dask's performance report of what executes within it.

        Parameters
        ----------
        file : str
            Path of the HTML page to write.

        Raises
        ------
        UsageError
            When the context is entered without bokeh, or left and the file cannot be written.
        """
        if not self._connection.is_open:
            self._open()
        return self._connection.report(file)

    def _connect_to_workers(self) -> None:
        """Connect to the scheduler; wait for its first worker, or check that workers can be scaled."""
        self._open()
        if self._scaler is not None:
            self._exit.callback(self._scaler.end)
            self._scaler.start(self._connection)
            return
        deadline = self.now() + FIRST_WORKER_SECONDS
        while not self._connection.workers() and not self._workers.expected:
            if self.now() > deadline:
                scheduler = self._connection.scheduler
                cause = f"the Dask scheduler at {scheduler} has no worker"
                raise TransientError(cause, WORKER_COMMAND.format(scheduler))
            time.sleep(0.5)
        self._monitor.poll(self.now())

    def _local_workers(self) -> Sequence[LocalWorker]:
        """Return the workers of the local cluster, for the tasks of the plan where it is known."""
        gpus = gpu_count()
        if not self._needs:
            return equal_workers(self._count or default_workers(), gpus)
        return fitting_workers(self._needs, gpus, count=self._count)

    def _open(self) -> None:
        self._connection.open()
        self._monitor.poll(self.now())
        self._connection.mark_working()

    def _reconnect(self, seconds: float) -> None:
        """Try once to connect to a scheduler that was lost, and wait `seconds` where it is not there."""
        self._connection.check_patience()
        if self._connection.is_lost:
            try:
                self._open()
                return
            except SchedulerLost:
                self._lose_scheduler()
        time.sleep(seconds)  # also before the first task, while nothing is connected

    def _lose_scheduler(self) -> None:
        self._connection.mark_lost()
        self._tasks.retry_all("scheduler_lost")

    def _handle(self, event: Event) -> None:
        if isinstance(event, TaskEvent):
            self._tasks.handle(event.content, self.now())
        elif isinstance(event, BundleEnded):
            self._tasks.end_bundle(event.tokens)
        else:
            self._monitor.request_poll()
