"""The runner on a Dask cluster. Each task is assigned to one worker by name, and few are in flight.

Dask carries tasks and outcomes, never a voxel. The driver (execution/driver.py) holds the graph, the worker registry
knows which worker has which task, and the store what is done. So a scheduler or a worker may die at any moment, and
costs no more than the tasks that it had in flight.
"""

from __future__ import annotations

import time
import uuid
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Self

from membrain_cloud.errors import TransientError
from membrain_cloud.pipeline.runners.dask_cluster import SchedulerLost
from membrain_cloud.pipeline.runners.dask_connection import BundleEnded, DaskConnection, TaskEvent
from membrain_cloud.pipeline.runners.host_resources import worker_memory_bytes
from membrain_cloud.pipeline.runners.in_flight import Attempt, InFlightTasks, RunStatistics
from membrain_cloud.pipeline.runners.task_exchange import TaskExchange
from membrain_cloud.pipeline.runners.worker_monitor import WorkerMonitor
from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.execution.driver import Observer
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.runners.dask_connection import Event
    from membrain_cloud.pipeline.runners.kubernetes_scaling import Scaler
    from membrain_cloud.pipeline.tasks import Kind, Outcome, Task

# Time for the first worker of a scheduler to connect.
WORKER_WAIT_SECONDS = 120.0
# The same with a scaler: the worker may need a new machine, and that an image.
SCALE_WAIT_SECONDS = 1800.0


class DaskRunner:
    """A runner on a Dask cluster, used as a context manager; implements `execution.driver.Runner`.

    It is composed of a connection, an exchange of tasks and events, the tasks in flight, and a monitor of the workers.

    Parameters
    ----------
    workers : int
        Number of processes of a local cluster, which starts with the first task. Default: 0, with `scheduler`.
    scheduler : str, optional
        Address of a scheduler, to which the runner connects when its context is entered. Default: a local cluster.
    scaler : Scaler, optional
        Scales the scheduler's worker groups on Kubernetes: one worker of each at the beginning, none at the end.
        Default: the workers are as they are.

    Attributes
    ----------
    memory_bytes : int
        Memory of the smallest worker; of a scheduler's workers known once the context is entered.
    """

    def __init__(self, *, workers: int = 0, scheduler: str | None = None, scaler: Scaler | None = None) -> None:
        run_id = uuid.uuid4().hex[:12]
        self.memory_bytes = worker_memory_bytes(workers) if scheduler is None else 0
        self._connection = DaskConnection(
            f"membrain-cloud-{run_id}", scheduler=scheduler, workers=workers, memory_bytes=self.memory_bytes
        )
        self._scaler = scaler
        self._workers = WorkerRegistry(() if scaler is None else scaler.kinds)
        self._exchange = TaskExchange(run_id, self._connection)
        self._tasks = InFlightTasks(self._workers, self._exchange)
        self._monitor = WorkerMonitor(self._connection, self._workers, self._tasks)
        self._statistics = RunStatistics(self._workers, self._tasks, scaler)
        self._exit = ExitStack()
        self._exit.callback(self._connection.close)

    def __enter__(self) -> Self:
        """Connect to the scheduler, if there is one already, and wait for its first worker.

        Raises
        ------
        TransientError
            If the scheduler does not answer, or no worker connects to it.
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
        return self._workers.choose(kind, task.stage, self.now()) is not None

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
                self._exchange.post(self._workers)
        except SchedulerLost:
            self._lose_scheduler()
        return self._tasks.take_outcomes()

    def backlog(self, ready: Mapping[Kind, int]) -> None:
        """Take the number of tasks of each kind that wait for a worker, for the statistics and for scaling.

        Parameters
        ----------
        ready : mapping of {"gpu", "cpu"} to int
            Number of tasks of each kind that wait for a worker.
        """
        self._workers.note_ready(ready)
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
        """Connect to the scheduler and wait for its first worker, which tells the memory of a task."""
        self._open()
        wait_seconds = WORKER_WAIT_SECONDS
        if self._scaler is not None:
            self._exit.callback(self._scaler.end)
            self._scaler.start()
            wait_seconds = SCALE_WAIT_SECONDS
        deadline = self.now() + wait_seconds
        while not (connected := self._connection.workers()):
            if self.now() > deadline:
                scheduler = self._connection.scheduler
                cause = f"the Dask scheduler at {scheduler} has no worker"
                raise TransientError(cause, f"start some: `dask worker {scheduler} --nthreads 1`")
            time.sleep(0.5)
        self._monitor.poll(self.now())
        self.memory_bytes = min(facts.memory_bytes for facts in connected.values())

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
