"""Prometheus metrics of a run, beside Dask's own: served as text at http://driver:PORT/metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.execution.driver import KINDS
from membrain_cloud.pipeline.monitoring.progress import TOMOGRAM_STATES, ProgressCounter

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task

# From a second to a day, for stages of any size.
_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
Snapshot = Callable[[], Mapping[str, Any]]


class Metrics:
    """All metrics of one run in a registry of its own.

    tally : counted by somebody else.  snapshot : of the runner, as `Runner.snapshot`.
    """

    def __init__(self, plan: Plan, tally: ProgressCounter, snapshot: Snapshot) -> None:
        self.registry = CollectorRegistry()
        self._tally, self._snapshot = tally, snapshot
        self._counters()
        self._gauges()
        for stage in plan.stages:
            self._seconds.labels(stage)
        for outcome in plan.outcomes:
            self._tasks.labels(outcome.stage, outcome.state).inc()

    def _counters(self) -> None:
        own: dict[str, Any] = {"registry": self.registry}
        self._tasks = Counter("membrain_tasks", "Tasks that have ended.", ("stage", "outcome"), **own)
        self._seconds = Histogram("membrain_task_seconds", "Time a task took.", ("stage",), buckets=_SECONDS, **own)
        self._voxels = Counter("membrain_voxels", "Voxels of tomograms done.", ("stage",), **own)
        self._read = Counter("membrain_bytes_read", "Bytes read from the store.", ("stage",), **own)
        self._written = Counter("membrain_bytes_written", "Bytes written to the store.", ("stage",), **own)
        self._retries = Counter("membrain_retries", "Tasks tried again, by cause.", ("stage", "cause"), **own)
        self._deaths = Counter("membrain_worker_deaths", "Workers that died or were lost at work.", **own)
        self._gpu = Counter("membrain_gpu_busy_seconds", "Time that tasks had a GPU for themselves.", **own)

    def _gauges(self) -> None:
        own: dict[str, Any] = {"registry": self.registry}
        tomograms = Gauge("membrain_tomograms", "Tomograms by state.", ("state",), **own)
        for state in TOMOGRAM_STATES:
            tomograms.labels(state).set_function(partial(self._tally.tomograms.__getitem__, state))
        for name, text, key in (
            ("membrain_workers", "Workers of the cluster.", "workers"),
            ("membrain_tasks_in_flight", "Tasks that workers have in hand.", "in_flight"),
            ("membrain_tasks_pending", "Tasks that could start, were there a worker free.", "pending"),
        ):
            gauge = Gauge(name, text, ("kind",), **own)
            for kind in KINDS:
                gauge.labels(kind).set_function(partial(self._shown, key, kind))
        Gauge("membrain_gpu_busy_ratio", "Share of GPU workers' time that GPUs were busy.", **own).set_function(
            self._busy_ratio
        )
        Gauge("membrain_eta_seconds", "Time left; NaN while unknown.", **own).set_function(
            lambda: float("nan") if (eta := self._tally.eta_seconds()) is None else eta
        )
        self._progress = Gauge("membrain_last_progress_timestamp_seconds", "When a task last ended.", **own)
        self._progress.set(time.time())

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        """As run_tasks() tells it."""
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
        self._progress.set(time.time())
        self._tasks.labels(task.stage, outcome.state).inc()
        if outcome.state == "done":
            self._seconds.labels(task.stage).observe(outcome.seconds)
        self._voxels.labels(task.stage).inc(measured.get("voxels", 0))
        self._read.labels(task.stage).inc(measured.get("bytes_read", 0))
        self._written.labels(task.stage).inc(measured.get("bytes_written", 0))
        self._gpu.inc(measured.get("gpu_seconds", 0.0))
        if measured.get("retries"):
            self._retries.labels(task.stage, "store").inc(measured["retries"])

    def _shown(self, key: str, kind: str) -> float:
        return float(self._snapshot()[key][kind])

    def _busy_ratio(self) -> float:
        """Of GPU workers' time so far; tasks that are not done yet have not told theirs."""
        available = self._snapshot().get("gpu_worker_seconds", 0.0)
        return min(1.0, self._tally.gpu_seconds / available) if available else 0.0

    def serve(self, port: int) -> Callable[[], None]:
        """Serve them; returns what ends it. Raises UsageError for a port that is taken."""
        try:
            server, thread = start_http_server(port, registry=self.registry)
        except OSError as error:
            cause = f"--metrics-port {port} cannot be opened ({error.strerror})"
            raise UsageError(cause, "give another one") from None

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end
