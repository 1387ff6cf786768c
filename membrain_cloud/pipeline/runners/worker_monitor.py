"""The watch over a run's workers: which are connected, and which hang and must be replaced."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from membrain_cloud.pipeline.runners.dask_connection import DaskConnection
    from membrain_cloud.pipeline.runners.in_flight import InFlightTasks
    from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
    from membrain_cloud.pipeline.runners.worker_state import Worker

# Time between two requests for the list of workers; notices of changes cause one at once.
POLL_SECONDS = 2.0
# The list takes the scheduler 0.15 ms a worker, in which it does nothing else: requests are so far apart that it spends
# at most one part in so many on them.
POLL_PAUSE = 20.0
# A worker ends itself when its task's time is up. If it has not after this time, it is restarted from here.
OVERDUE_SECONDS = 60.0
# A worker that is still there after this time has no nanny that restarts it.
RESTART_SECONDS = 90.0


class WorkerMonitor:
    """Keeps the worker registry up to date and restarts workers that hang.

    Parameters
    ----------
    connection : DaskConnection
        The connection to the scheduler.
    workers : WorkerRegistry
        The registry to update.
    tasks : InFlightTasks
        Takes the tasks of workers that are gone.
    """

    def __init__(self, connection: DaskConnection, workers: WorkerRegistry, tasks: InFlightTasks) -> None:
        self._connection, self._workers, self._tasks = connection, workers, tasks
        self._polled_at: float | None = None
        self._is_requested = False
        self._duration = 0.0
        self._restarted_at: dict[str, float] = {}
        self._given_up: dict[str, float] = {}

    def request_poll(self) -> None:
        """Make the next call of `poll_if_due` poll, if the last one was long enough ago for its own duration."""
        self._is_requested = True

    def poll_if_due(self, now: float) -> None:
        """Poll if the last poll was `POLL_SECONDS` ago, or one is requested; see `poll`.

        A poll that took long is followed by a longer pause, of `POLL_PAUSE` times its duration.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.
        """
        pause = max(0.0 if self._is_requested else POLL_SECONDS, POLL_PAUSE * self._duration)
        if self._polled_at is None or now - self._polled_at >= pause:
            self.poll(now)

    def poll(self, now: float) -> None:
        """Update the registry from the scheduler's list of workers, and restart workers that hang.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.

        Raises
        ------
        SchedulerLost
            If the scheduler does not answer.
        """
        self._polled_at, self._is_requested = now, False
        began = time.perf_counter()
        connected = self._connection.workers()
        self._duration = time.perf_counter() - began
        self._given_up = {address: seen for address, seen in self._given_up.items() if address in connected}
        for address, last_seen in self._given_up.items():
            if connected[address].last_seen == last_seen:  # still silent
                del connected[address]
        for assignment in self._workers.update(connected, now):
            self._tasks.retry(assignment, "worker_left", take_over=assignment.token)
        for worker, assignment in self._workers.overdue(now, OVERDUE_SECONDS):
            self._tasks.end_overdue(assignment.token)
            self._restart(worker, now)
        for worker in self._workers.silent_workers(now):
            self._restart(worker, now)

    def _restart(self, worker: Worker, now: float) -> None:
        """Have a worker's nanny restart it; give the worker up if that has not helped."""
        address = worker.facts.address
        asked_at = self._restarted_at.get(address)
        if asked_at is None:
            self._restarted_at[address] = now
            self._connection.restart_worker(address)
        elif now - asked_at > RESTART_SECONDS:
            self._given_up[address] = worker.facts.last_seen
            self._restarted_at.pop(address)
