"""Serve Prometheus metrics of a run, beside Dask's own, as text at http://driver:PORT/metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.execution.runner import KINDS
from membrain_cloud.pipeline.monitoring.progress import TOMOGRAM_STATES, ProgressCounter

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task

# From a second to a day, for stages of any size.
_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
Snapshot = Callable[[], Mapping[str, Any]]


class Metrics:
    """The metrics of one run, in a registry of its own.

    Parameters
    ----------
    plan : Plan
        The plan.
    progress : ProgressCounter
        Counts of the run, kept up to date by another observer.
    snapshot : callable
        The runner's `Runner.snapshot`.
    """

    def __init__(self, plan: Plan, progress: ProgressCounter, snapshot: Snapshot) -> None:
        self.registry = CollectorRegistry()
        self._progress, self._snapshot = progress, snapshot
        self._add_counters()
        self._add_gauges()
        for stage in plan.stages:
            self._seconds.labels(stage)
        for outcome in plan.outcomes:
            self._tasks.labels(outcome.stage, outcome.state).inc()

    def _add_counters(self) -> None:
        own: dict[str, Any] = {"registry": self.registry}
        self._tasks = Counter("membrain_tasks", "Tasks that have ended.", ("stage", "outcome"), **own)
        self._seconds = Histogram("membrain_task_seconds", "Time a task took.", ("stage",), buckets=_SECONDS, **own)
        self._voxels = Counter("membrain_voxels", "Voxels of tomograms done.", ("stage",), **own)
        self._read = Counter("membrain_bytes_read", "Bytes read from the store.", ("stage",), **own)
        self._written = Counter("membrain_bytes_written", "Bytes written to the store.", ("stage",), **own)
        self._retries = Counter("membrain_retries", "Retries of tasks, by cause.", ("stage", "cause"), **own)
        self._deaths = Counter("membrain_worker_deaths", "Workers that died or were lost at work.", **own)
        self._gpu = Counter("membrain_gpu_busy_seconds", "Time for which tasks had a GPU.", **own)

    def _add_gauges(self) -> None:
        own: dict[str, Any] = {"registry": self.registry}
        tomograms = Gauge("membrain_tomograms", "Tomograms by state.", ("state",), **own)
        for state in TOMOGRAM_STATES:
            tomograms.labels(state).set_function(partial(self._progress.tomograms.__getitem__, state))
        for name, text, key in (
            ("membrain_workers", "Workers of the cluster.", "workers"),
            ("membrain_tasks_in_flight", "Tasks that workers have.", "in_flight"),
            ("membrain_tasks_pending", "Tasks that could start if a worker were free.", "pending"),
        ):
            gauge = Gauge(name, text, ("kind",), **own)
            for kind in KINDS:
                gauge.labels(kind).set_function(partial(self._count, key, kind))
        Gauge("membrain_gpu_busy_ratio", "Share of GPU workers' time that GPUs were busy.", **own).set_function(
            self._busy_ratio
        )
        Gauge("membrain_eta_seconds", "Time left; NaN while unknown.", **own).set_function(
            lambda: float("nan") if (eta := self._progress.eta_seconds()) is None else eta
        )
        self._last_end = Gauge("membrain_last_progress_timestamp_seconds", "When a task last ended.", **own)
        self._last_end.set(time.time())

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        """Count an event of a task; an `execution.runner.Observer`.

        Parameters
        ----------
        event : str
            "started", "finished", "again" or "held".
        task : Task
            The task.
        outcome : Outcome or None
            Its outcome; None for "started".
        """
        deaths = self._snapshot()["deaths"] - self._deaths._value.get()
        if deaths > 0:
            self._deaths.inc(deaths)
        if outcome is None:
            return
        if event == "again":
            self._retries.labels(task.stage, outcome.message if outcome.state == "again" else "requeued").inc()
        elif event == "finished":
            self._end(task, outcome)

    def _end(self, task: Task, outcome: Outcome) -> None:
        measured = outcome.measured
        self._last_end.set(time.time())
        self._tasks.labels(task.stage, outcome.state).inc()
        if outcome.state == "done":
            self._seconds.labels(task.stage).observe(outcome.seconds)
        self._voxels.labels(task.stage).inc(measured.get("voxels", 0))
        self._read.labels(task.stage).inc(measured.get("bytes_read", 0))
        self._written.labels(task.stage).inc(measured.get("bytes_written", 0))
        self._gpu.inc(measured.get("gpu_seconds", 0.0))
        if measured.get("retries"):
            self._retries.labels(task.stage, "store").inc(measured["retries"])

    def _count(self, key: str, kind: str) -> float:
        return float(self._snapshot()[key][kind])

    def _busy_ratio(self) -> float:
        """Return the share of the GPU workers' time so far; tasks count when they end."""
        available = self._snapshot().get("gpu_worker_seconds", 0.0)
        return min(1.0, self._progress.gpu_seconds / available) if available else 0.0

    def serve(self, port: int) -> Callable[[], None]:
        """Serve the metrics.

        Parameters
        ----------
        port : int
            The port.

        Returns
        -------
        callable
            Ends the server.

        Raises
        ------
        UsageError
            If the port is taken.
        """
        try:
            server, thread = start_http_server(port, registry=self.registry)
        except OSError as error:
            cause = f"metrics port {port}: it cannot be opened ({error.strerror})"
            raise UsageError(cause, "give another one") from None

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end
