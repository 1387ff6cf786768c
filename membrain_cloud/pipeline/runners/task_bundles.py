"""Bundles: how tasks travel to a worker. A long task travels alone, short ones several together.

For Dask a bundle is one task with some bytes. Its scheduler spends about a millisecond on a task of any size, and so
does not limit a run of many short tasks. For the driver each task keeps its own token, assignment, lease and events.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from distributed.protocol import pickle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.runners.worker_state import Assignment, Worker
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Task

_T = TypeVar("_T")


@dataclass(frozen=True)
class Order:
    """A task to execute on a worker.

    Attributes
    ----------
    task : Task
        The task.
    token : str
        Identifier of this attempt.
    take_over : str
        Token of an earlier attempt that is known to have ended, whose lease may be taken over; empty without one.
    """

    task: Task
    token: str
    take_over: str = ""


@dataclass(frozen=True)
class Bundle:
    """Orders for one slot of a worker, executed one after the other.

    Attributes
    ----------
    run_id : str
        Identifier of the run.
    topic : str
        Topic of the run's Dask events.
    neighbours : int
        Number of workers on that worker's machine, which share its cores.
    registry : bytes
        The pickled stages, from `packed_registry`.
    orders : tuple of Order
        The tasks, in the order of execution.
    """

    run_id: str
    topic: str
    neighbours: int
    registry: bytes
    orders: tuple[Order, ...]

    def packed(self) -> bytes:
        """Return the bundle pickled; what its orders share (the settings) is contained once."""
        packed: bytes = pickle.dumps(self)
        return packed

    @classmethod
    def unpacked(cls, content: bytes) -> Bundle:
        """Return the bundle from the bytes of `packed`.

        Parameters
        ----------
        content : bytes
            The pickled bundle.

        Returns
        -------
        Bundle
            The bundle.
        """
        bundle = pickle.loads(content)
        assert isinstance(bundle, Bundle)
        return bundle


def packed_registry(registry: Registry) -> bytes:
    """Return the stages by name pickled, for `Bundle.registry`.

    Parameters
    ----------
    registry : mapping of str to Stage
        The stages by name.

    Returns
    -------
    bytes
        The pickled stages.
    """
    packed: bytes = pickle.dumps(dict(registry))
    return packed


@functools.lru_cache(maxsize=2)
def unpacked_registry(content: bytes) -> Mapping[str, Stage]:
    """Return the stages from the bytes of `packed_registry`; a process unpickles the same bytes once.

    Parameters
    ----------
    content : bytes
        The pickled stages.

    Returns
    -------
    mapping of str to Stage
        The stages by name.
    """
    registry: dict[str, Stage] = pickle.loads(content)
    return registry


class Outbox:
    """Orders that are assigned to workers and not yet sent."""

    def __init__(self) -> None:
        self._orders: dict[str, tuple[Worker, list[Order]]] = {}

    def put(self, worker: Worker, assignment: Assignment, take_over: str = "") -> None:
        """Add an assignment for a worker.

        Parameters
        ----------
        worker : Worker
            The worker that executes it.
        assignment : Assignment
            The task with the token of this attempt.
        take_over : str
            Token of an earlier attempt that is known to have ended. Default: there is none.
        """
        _, orders = self._orders.setdefault(worker.facts.address, (worker, []))
        orders.append(Order(assignment.task, assignment.token, take_over))

    def empty(self) -> Iterator[tuple[Worker, tuple[Order, ...]]]:
        """Remove all orders and yield them by worker, divided among the worker's slots."""
        waiting, self._orders = self._orders, {}
        for worker, orders in waiting.values():
            for part in _dealt(orders, worker.facts.slots):
                yield worker, tuple(part)

    def clear(self) -> None:
        """Discard all orders."""
        self._orders = {}


def _dealt(items: Sequence[_T], hands: int) -> list[Sequence[_T]]:
    """Return the items dealt in turn to `hands` lists, without empty ones."""
    return [items[hand::hands] for hand in range(min(hands, len(items)))]
