"""How tasks travel to a worker: one that takes long by itself, short ones several together, done one after the other.

For Dask a bundle is one task and some bytes, so that its scheduler, which takes about a millisecond for a task of any
size, is not what bounds a run of many short ones. For us each is a task of its own as before: with its token, its seat
in the roster, its lease, and word of its beginning and its end.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from distributed.protocol import pickle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.runners.worker_roster import Seat, Worker
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Task

_T = TypeVar("_T")


@dataclass(frozen=True)
class Order:
    """A task for a worker. token : of this attempt.  take_over : token of an attempt that is known to be gone."""

    task: Task
    token: str
    take_over: str = ""


@dataclass(frozen=True)
class Bundle:
    """Orders for one slot of a worker.

    run_id, topic : of the run, and of its events.  neighbours : workers on that machine.  registry : packed.
    """

    run_id: str
    topic: str
    neighbours: int
    registry: bytes
    orders: tuple[Order, ...]

    def packed(self) -> bytes:
        """What its orders share is in it once."""
        packed: bytes = pickle.dumps(self)
        return packed

    @classmethod
    def unpacked(cls, content: bytes) -> Bundle:
        found = pickle.loads(content)
        assert isinstance(found, Bundle)
        return found


def packed_registry(registry: Registry) -> bytes:
    packed: bytes = pickle.dumps(dict(registry))
    return packed


@functools.lru_cache(maxsize=2)
def unpacked_registry(content: bytes) -> Mapping[str, Stage]:
    """The same bytes give the same stages, once a process."""
    found: dict[str, Stage] = pickle.loads(content)
    return found


class Outbox:
    """What has a seat and is about to be sent."""

    def __init__(self) -> None:
        self._orders: dict[str, tuple[Worker, list[Order]]] = {}

    def put(self, worker: Worker, seat: Seat, take_over: str) -> None:
        _, orders = self._orders.setdefault(worker.facts.address, (worker, []))
        orders.append(Order(seat.task, seat.token, take_over))

    def empty(self) -> Iterator[tuple[Worker, tuple[Order, ...]]]:
        """Bundles by worker; what is for one worker is shared out among its slots."""
        waiting, self._orders = self._orders, {}
        for worker, orders in waiting.values():
            for part in _dealt(orders, worker.facts.slots):
                yield worker, tuple(part)

    def clear(self) -> None:
        self._orders = {}


def _dealt(things: Sequence[_T], hands: int) -> list[Sequence[_T]]:
    return [things[hand::hands] for hand in range(min(hands, len(things)))]
