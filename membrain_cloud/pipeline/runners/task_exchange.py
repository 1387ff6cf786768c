"""The exchange of tasks and outcomes with workers: bundles go out, events and results come back."""

from __future__ import annotations

import contextlib
import queue
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from membrain_cloud.pipeline.runners.dask_cluster import SchedulerLost
from membrain_cloud.pipeline.runners.task_bundles import Bundle, Outbox, packed_registry
from membrain_cloud.pipeline.runners.worker_registry import host_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.runners.dask_connection import DaskConnection, Event
    from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
    from membrain_cloud.pipeline.runners.worker_state import Assignment, Worker


@dataclass(frozen=True)
class BundleResult:
    """The result of a bundle, for the tasks whose events have not arrived.

    Attributes
    ----------
    tokens : sequence of str
        Tokens of the bundle whose end has not been reported by an event.
    outcomes : mapping of str to dict
        Outcomes of the executed tasks as dictionaries, by token.
    error : str
        The exception that ended the bundle; empty without one.
    """

    tokens: Sequence[str]
    outcomes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""


class TaskExchange:
    """Sends assigned tasks to their workers in bundles and receives events and results.

    Parameters
    ----------
    run_id : str
        Identifier of the run, with which all tokens begin.
    connection : DaskConnection
        The connection to the scheduler.
    """

    def __init__(self, run_id: str, connection: DaskConnection) -> None:
        self._run_id, self._connection = run_id, connection
        self._tokens = 0
        self._registry: tuple[Registry, bytes] = ({}, b"")
        self._outbox = Outbox()
        self._futures: dict[str, Any] = {}

    def use_registry(self, registry: Registry) -> None:
        """Set the stages that execute the tasks put from now on.

        Parameters
        ----------
        registry : mapping of str to Stage
            The stages by name.
        """
        if self._registry[0] is not registry:
            self._registry = registry, packed_registry(registry)

    def new_token(self) -> str:
        """Return a token for another attempt."""
        self._tokens += 1
        return f"{self._run_id}-{self._tokens}"

    def put(self, worker: Worker, assignment: Assignment, take_over: str = "") -> None:
        """Add an assignment to those that `post` sends.

        Parameters
        ----------
        worker : Worker
            The worker that executes it.
        assignment : Assignment
            The task with the token of this attempt.
        take_over : str
            Token of an earlier attempt that is known to have ended. Default: there is none.
        """
        self._outbox.put(worker, assignment, take_over)

    def post(self, workers: WorkerRegistry) -> None:
        """Send all assignments that were put, in bundles.

        Parameters
        ----------
        workers : WorkerRegistry
            Tells how many workers share a machine.

        Raises
        ------
        SchedulerLost
            If the connection is closed.
        """
        for worker, orders in self._outbox.empty():
            address, tokens = worker.facts.address, tuple(order.token for order in orders)
            neighbours = workers.count_on_host(host_of(address))
            bundle = Bundle(self._run_id, self._connection.topic, neighbours, self._registry[1], orders)
            future = self._connection.submit(bundle.packed(), tokens, address)
            # Each token holds the future; Dask forgets the bundle with the last of them.
            self._futures |= dict.fromkeys(tokens, future)

    def receive(self, seconds: float) -> list[Event]:
        """Return all events that have arrived; wait up to `seconds` for the first.

        Parameters
        ----------
        seconds : float
            Longest time to wait for the first event.

        Returns
        -------
        list of Event
            The events in the order of their arrival.
        """
        events: list[Event] = []
        arrived = self._connection.events
        with contextlib.suppress(queue.Empty):
            events.append(arrived.get(timeout=seconds) if seconds > 0 else arrived.get_nowait())
            while True:
                events.append(arrived.get_nowait())
        return events

    def bundle_result(self, tokens: Sequence[str]) -> BundleResult | None:
        """Return what Dask reports of a bundle that has ended.

        Parameters
        ----------
        tokens : sequence of str
            The tokens of the bundle.

        Returns
        -------
        BundleResult or None
            None where events have reported the end of all its tasks.

        Raises
        ------
        SchedulerLost
            If the bundle was cancelled, or its result cannot be fetched.
        """
        pending = [token for token in tokens if token in self._futures]
        if not pending:
            return None
        future = self._futures[pending[0]]
        if future.status == "cancelled":
            raise SchedulerLost("the Dask scheduler was lost", "run the same command again: finished tasks are kept")
        if future.status == "error":
            error = future.exception()
            return BundleResult(pending, error=f"{type(error).__name__}: {error}")
        if future.status == "finished":
            return BundleResult(pending, self._connection.result(future))
        return None

    def forget(self, token: str) -> None:
        """Stop waiting for a task; an unknown token is ignored.

        Parameters
        ----------
        token : str
            The assignment.
        """
        self._futures.pop(token, None)

    def clear(self) -> None:
        """Discard everything that is sent or to be sent: the scheduler was lost."""
        self._futures.clear()
        self._outbox.clear()
