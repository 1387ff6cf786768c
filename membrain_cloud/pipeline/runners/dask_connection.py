"""The connection of a run to its Dask scheduler: opened, lost, opened again and closed; and the events it receives."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.pipeline.runners import dask_cluster as cluster
from membrain_cloud.pipeline.runners.dask_cluster import SchedulerLost
from membrain_cloud.pipeline.runners.dask_worker import LeaveNotice, work_bundle
from membrain_cloud.pipeline.runners.kubernetes import operator_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.runners.host_resources import LocalWorker
    from membrain_cloud.pipeline.runners.worker_state import WorkerFacts

# Time after which a lost scheduler ends the run.
RECONNECT_SECONDS = 900.0


@dataclass(frozen=True)
class TaskEvent:
    """An event that `dask_worker` sends.

    Attributes
    ----------
    content : mapping of str to Any
        "what": "began", "ended", "overdue" or "leaving"; with "token", "outcome", "next" or "worker".
    """

    content: Mapping[str, Any]


@dataclass(frozen=True)
class BundleEnded:
    """The end of a bundle, as Dask reports it.

    Attributes
    ----------
    tokens : tuple of str
        The tokens of its orders.
    """

    tokens: tuple[str, ...]


@dataclass(frozen=True)
class WorkersChanged:
    """The scheduler's notice that a worker has come or gone."""


Event = TaskEvent | BundleEnded | WorkersChanged


class DaskConnection:
    """A connection to a Dask scheduler, with the local cluster where the scheduler is this process's own.

    Parameters
    ----------
    topic : str
        Topic of the run's Dask events.
    scheduler : str or None
        Address of the scheduler; None for a local cluster, which is started by `open`.
    local_workers : callable, optional
        Returns the workers of a local cluster when it starts. Default: none, for a scheduler with an address.

    Attributes
    ----------
    events : queue.SimpleQueue of Event
        Events in the order in which they arrived.
    """

    def __init__(
        self, topic: str, *, scheduler: str | None, local_workers: Callable[[], Sequence[LocalWorker]] = tuple
    ) -> None:
        self.topic, self.scheduler = topic, scheduler
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._local_workers = local_workers
        self._client: Any = None
        self._cluster: Any = None
        self._configuration: ExitStack | None = None
        self._lost_since: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a client; the scheduler may be lost already, which the next request notices."""
        return self._client is not None

    @property
    def is_lost(self) -> bool:
        """Whether the scheduler was lost and has not answered since."""
        return self._lost_since is not None

    def open(self) -> None:
        """Connect to the scheduler, or start the local cluster, and subscribe to events.

        Raises
        ------
        SchedulerLost
            If the scheduler does not answer.
        """
        if self.scheduler is None:
            self._start_local_cluster()
        else:
            self._client = cluster.connect(self.scheduler)
        self._client.subscribe_topic(self.topic, lambda event: self.events.put(TaskEvent(event[1])))
        self._client.subscribe_topic("all", self._receive_scheduler_event)
        with cluster.scheduler_faults(self._client):
            self._client.register_plugin(LeaveNotice(self.topic))

    def mark_working(self) -> None:
        """Record that the scheduler answers: the time of a loss ends here."""
        self._lost_since = None

    def mark_lost(self) -> None:
        """Record the loss of the scheduler and close what is left of the connection."""
        if self._lost_since is None:
            self._lost_since = time.monotonic()
        self._close_client(timeout=2)

    def check_patience(self) -> None:
        """Raise SchedulerLost if the scheduler has been lost for `RECONNECT_SECONDS`."""
        if self._lost_since is not None and time.monotonic() - self._lost_since > RECONNECT_SECONDS:
            name = f"the Dask scheduler at {self.scheduler}" if self.scheduler else "the local Dask scheduler"
            raise SchedulerLost(f"{name} was lost", "run the same command again: finished tasks are kept")

    def close(self) -> None:
        """Close the client, the local cluster and its configuration; may be called again."""
        if self._client is not None and self._client.status == "running":
            for topic in (self.topic, "all"):
                self._client.unsubscribe_topic(topic)
        self._close_client()
        if self._configuration is not None:
            self._configuration.close()
            self._configuration = None

    def workers(self) -> dict[str, WorkerFacts]:
        """Return the scheduler's workers by address.

        Raises
        ------
        SchedulerLost
            If the scheduler does not answer.
        """
        return cluster.workers_of(self._client)

    def announce_leaving(self, names: Sequence[str], *, even_busy: bool = False) -> list[str]:
        """Announce to the scheduler which workers the Dask operator may remove.

        Parameters
        ----------
        names : sequence of str
            Names of workers; they replace earlier ones.
        even_busy : bool
            Whether those that execute a task, of any driver, are announced too. Default: they are left out.

        Returns
        -------
        list of str
            The names that are announced.

        Raises
        ------
        SchedulerLost
            If the scheduler does not answer.
        """
        with cluster.scheduler_faults(self._client):
            accepted: list[str] = self._client.run_on_scheduler(operator_endpoint.announce, list(names), even_busy)
        return accepted

    def operator_contact(self) -> Mapping[str, bool]:
        """Return whether the scheduler serves the operator's endpoint ("served") and was asked there ("asked").

        Raises
        ------
        SchedulerLost
            If the scheduler does not answer.
        """
        with cluster.scheduler_faults(self._client):
            contact: Mapping[str, bool] = self._client.run_on_scheduler(operator_endpoint.operator_contact)
        return contact

    def restart_worker(self, address: str) -> None:
        """Ask a worker's nanny for another process, without waiting for it; without a nanny nothing happens.

        Parameters
        ----------
        address : str
            Address of the worker.
        """
        threading.Thread(target=cluster.restart_worker, args=(self._client, address), daemon=True).start()

    def submit(self, bundle: bytes, tokens: tuple[str, ...], address: str) -> Any:
        """Send a bundle to a worker; its end is put into `events`.

        Parameters
        ----------
        bundle : bytes
            The bundle, as `Bundle.packed` returns it.
        tokens : tuple of str
            The tokens of its orders; the first is Dask's key.
        address : str
            Address of the worker, the only one that may execute it.

        Returns
        -------
        distributed.Future
            The bundle's future, which the caller keeps until the bundle has ended.

        Raises
        ------
        SchedulerLost
            If the connection is closed.
        """
        with cluster.scheduler_faults(self._client):
            future = self._client.submit(
                work_bundle,
                bundle,
                key=tokens[0],
                workers=[address],
                allow_other_workers=False,
                pure=False,
                retries=0,
            )
        future.add_done_callback(lambda _: self.events.put(BundleEnded(tokens)))
        return future

    def result(self, future: Any) -> dict[str, dict[str, Any]]:
        """Return the outcomes of a finished bundle, as dictionaries by token.

        Parameters
        ----------
        future : distributed.Future
            The future of the bundle, from `submit`.

        Returns
        -------
        dict of str to dict
            The outcomes as dictionaries, by token.

        Raises
        ------
        SchedulerLost
            If the scheduler does not answer within 30 s.
        """
        with cluster.scheduler_faults(self._client):
            outcomes: dict[str, dict[str, Any]] = future.result(timeout=30)
        return outcomes

    def report(self, file: str) -> AbstractContextManager[Any]:
        """Return a context that writes Dask's performance report to `file`.

        Parameters
        ----------
        file : str
            Path of the HTML page to write.
        """
        return cluster.performance_report(self._client, file)

    def _start_local_cluster(self) -> None:
        from distributed import Client

        workers = self._local_workers()
        if self._configuration is None:
            self._configuration = ExitStack()
            self._configuration.enter_context(cluster.local_configuration(len(workers)))
        self._cluster = cluster.local_cluster(workers)
        self._client = Client(self._cluster, set_as_default=False)

    def _receive_scheduler_event(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict) and event[1].get("action") in ("add-worker", "remove-worker"):
            self.events.put(WorkersChanged())

    def _close_client(self, **options: Any) -> None:
        for resource in (self._client, self._cluster):
            if resource is not None:
                with cluster.quiet_dask():
                    resource.close(**options)
        self._client = self._cluster = None
