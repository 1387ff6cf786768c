"""The choice of a worker for a task, by kind, memory and load, in a time that hardly grows with the number of workers.

Workers of one kind with the same slots and the same memory form a pool. A pool keeps its workers in a heap by their
number of assignments, so the least loaded worker is found without looking at the others.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from membrain_cloud.pipeline.runners.worker_state import Worker
    from membrain_cloud.pipeline.tasks import Kind

# Tasks shorter than this are prefetched: a worker would wait longer for the next message than it computes.
PREFETCH_SECONDS = 0.1
MAX_PREFETCH = 16
# One task is queued at a worker behind tasks up to this duration: otherwise the worker idles for some 10 ms between
# two of them. A queued task is bound to its worker, so only while there are enough for all the others.
QUEUE_NEXT_SECONDS = 5.0
# Tasks of a kind wait this long for workers of that kind to come back, then they go to the other kind.
ABSENCE_SECONDS = 600.0
# Without a question for this time no task has waited.
GAP_SECONDS = 60.0

_PoolKey = tuple["Kind | None", int, int]


class _Pool:
    """Workers of one kind with the same slots and the same memory.

    Parameters
    ----------
    kind : {"gpu", "cpu"} or None
        Their kind; None for workers for all tasks.
    slots : int
        Number of tasks that each of them executes at the same time.
    memory_bytes : int
        Memory of each of them, shared by its slots.
    """

    def __init__(self, kind: Kind | None, slots: int, memory_bytes: int) -> None:
        self.kind, self.memory_bytes, self.share_bytes = kind, memory_bytes, memory_bytes // slots
        self.workers: dict[str, Worker] = {}
        self._heap: list[tuple[int, int, int, Worker]] = []
        self._numbers = count()

    def touch(self, worker: Worker) -> None:
        """Put a worker at its place after a change of its assignments or flags."""
        worker.version += 1
        if worker.is_open:
            heapq.heappush(self._heap, (len(worker.assignments), next(self._numbers), worker.version, worker))
        if len(self._heap) > 4 * len(self.workers) + 64:  # outdated entries of busy workers stay at the bottom
            self._heap = [entry for entry in self._heap if entry[2] == entry[3].version]
            heapq.heapify(self._heap)

    def discard(self, worker: Worker) -> None:
        """Remove a worker."""
        worker.version += 1
        self.workers.pop(worker.facts.address, None)

    def least_loaded(self) -> Worker | None:
        """Return the worker with the fewest assignments among those that get tasks; None without one."""
        while self._heap:
            _, _, version, worker = self._heap[0]
            if version == worker.version:
                return worker
            heapq.heappop(self._heap)
        return None

    def accepting(self, prefetch: int) -> Worker | None:
        """Return the least loaded worker that accepts a task with `prefetch` tasks queued beyond its slots."""
        while (worker := self.least_loaded()) is not None:
            if worker.accepts(prefetch):
                return worker
            if len(worker.assignments) >= worker.facts.slots + prefetch:
                return None  # all others have as many
            heapq.heappop(self._heap)  # it works off what was prefetched: `touch` brings it back with each task done
        return None


class Placement:
    """The choice of a worker for a task.

    Parameters
    ----------
    expected : iterable of {"gpu", "cpu"}
        Kinds of workers that exist even while no such worker is connected, because they are scaled up when needed or
        are about to start.
    """

    def __init__(self, expected: Iterable[Kind] = ()) -> None:
        self._expected: frozenset[Kind] = frozenset(expected)
        self._last_present: dict[Kind, float] = {}
        self._mean_seconds: dict[str, float] = {}
        self._ready: Mapping[Kind, int] = {}
        self._pools: dict[_PoolKey, _Pool] = {}
        self._reserved: dict[str, Worker] = {}
        self._n_workers = 0

    # -- workers

    def add(self, worker: Worker) -> None:
        """Add a connected worker.

        Parameters
        ----------
        worker : Worker
            The worker.
        """
        pool = self._pool_of(worker)
        pool.workers[worker.facts.address] = worker
        self._n_workers += 1
        pool.touch(worker)

    def discard(self, worker: Worker) -> None:
        """Remove a worker that is gone.

        Parameters
        ----------
        worker : Worker
            The worker.
        """
        self._pool_of(worker).discard(worker)
        self._n_workers -= 1
        if worker.reserved_for is not None:
            self._reserved.pop(worker.reserved_for, None)

    def touch(self, worker: Worker) -> None:
        """Take note of a change of a worker's assignments, or that it leaves.

        Parameters
        ----------
        worker : Worker
            The worker.
        """
        self._pool_of(worker).touch(worker)

    def reserve(self, worker: Worker, key: str | None) -> None:
        """Reserve a worker for the task with this key, or end its reservation.

        Parameters
        ----------
        worker : Worker
            The worker.
        key : str or None
            Key of the task; None ends the reservation.
        """
        if worker.reserved_for is not None:
            self._reserved.pop(worker.reserved_for, None)
        worker.reserved_for = key
        if key is not None:
            self._reserved[key] = worker
        self.touch(worker)

    def note_present(self, now: float) -> None:
        """Record which kinds of workers are connected at `now`.

        Parameters
        ----------
        now : float
            The time in seconds, by our own clock.
        """
        for pool in self._pools.values():
            if pool.workers and pool.kind is not None:
                self._last_present[pool.kind] = now

    # -- tasks

    def note_duration(self, stage: str, seconds: float) -> None:
        """Update the running mean of a stage's task duration.

        Parameters
        ----------
        stage : str
            Name of the stage.
        seconds : float
            Duration of a task that succeeded.
        """
        mean = self._mean_seconds.get(stage, seconds)
        self._mean_seconds[stage] = 0.8 * mean + 0.2 * seconds

    def note_ready(self, ready: Mapping[Kind, int]) -> None:
        """Record the number of tasks of each kind that wait for a worker.

        Parameters
        ----------
        ready : mapping of {"gpu", "cpu"} to int
            Number of tasks of each kind that wait for a worker.
        """
        self._ready = ready

    def choose(
        self, kind: Kind, stage: str, now: float, *, alone: str | None = None, memory_bytes: int = 0
    ) -> Worker | None:
        """Return the least loaded worker that may take a task, or None; see `WorkerRegistry.choose`.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            What the task needs.
        stage : str
            The task's stage.
        now : float
            The time in seconds, by our own clock.
        alone : str, optional
            Key of a task that needs a worker for itself. Default: the task shares a worker.
        memory_bytes : int
            Memory of the task: at most a slot's share of the worker's, or all of it where the task is alone.
        """
        if alone is not None:
            return self._choose_alone(kind, now, alone, memory_bytes)
        prefetch = self._prefetch(kind, stage)
        best: Worker | None = None
        for pool in self._candidates(kind, now):
            if pool.share_bytes >= memory_bytes:
                worker = pool.accepting(prefetch)
                if worker is not None and (best is None or worker.load < best.load):
                    best = worker
        return best

    def must_be_alone(self, kind: Kind, now: float, memory_bytes: int) -> bool:
        """Return whether a task fits into no slot's share of the memory, but into the whole memory of a worker.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            What the task needs.
        now : float
            The time in seconds, by our own clock.
        memory_bytes : int
            Memory of the task.
        """
        pools = [pool for pool in self._candidates(kind, now) if pool.workers and pool.memory_bytes >= memory_bytes]
        return bool(pools) and all(pool.share_bytes < memory_bytes for pool in pools)

    def can_reserve(self, kind: Kind, now: float, memory_bytes: int) -> bool:
        """Return whether a worker can be reserved for a task that must be alone; see `must_be_alone`."""
        return self._reservable(kind, now, memory_bytes) is not None

    def largest_memory(self, kind: Kind, now: float) -> int | None:
        """Return the memory in bytes of the largest connected worker that takes tasks of a kind; None without one.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            What the tasks need.
        now : float
            The time in seconds, by our own clock.
        """
        return max((pool.memory_bytes for pool in self._candidates(kind, now) if pool.workers), default=None)

    def _choose_alone(self, kind: Kind, now: float, key: str, memory_bytes: int) -> Worker | None:
        """Return the worker reserved for the task with this key once it is empty; reserve one where none is."""
        reserved = self._reserved.get(key)
        if reserved is not None and reserved.leaving:
            self.reserve(reserved, None)
            reserved = None
        if reserved is None:
            reserved = self._reservable(kind, now, memory_bytes)
            if reserved is None:
                return None
            self.reserve(reserved, key)
        return None if reserved.assignments else reserved

    def _reservable(self, kind: Kind, now: float, memory_bytes: int) -> Worker | None:
        """Return the least loaded worker that may be reserved for a task."""
        best: Worker | None = None
        for pool in self._candidates(kind, now):
            if pool.memory_bytes < memory_bytes:
                continue
            worker = pool.least_loaded()
            if worker is None:  # its workers work off what was prefetched, or are reserved
                open_workers = (worker for worker in pool.workers.values() if worker.is_open)
                worker = min(open_workers, key=lambda worker: worker.load, default=None)
            if worker is not None and (best is None or worker.load < best.load):
                best = worker
        return best

    def _candidates(self, kind: Kind, now: float) -> Iterator[_Pool]:
        """Yield the pools whose workers take tasks of a kind now."""
        fitting = [pool for pool in self._pools.values() if pool.workers and pool.kind in (kind, None)]
        if fitting or kind in self._expected:
            yield from fitting
            return
        # GPU stages run on CPU workers where there is no GPU, CPU stages on GPU workers where there is no CPU worker.
        if now - self._last_present.get(kind, -ABSENCE_SECONDS) >= ABSENCE_SECONDS:
            yield from (pool for pool in self._pools.values() if pool.workers)

    def _prefetch(self, kind: Kind, stage: str) -> int:
        """Return the number of tasks to queue at a worker beyond its slots."""
        seconds = self._mean_seconds.get(stage)
        if seconds is None:
            return 0
        by_message = min(MAX_PREFETCH, int(PREFETCH_SECONDS / max(seconds, 1e-3)))
        are_enough_for_all = self._ready.get(kind, 0) > self._n_workers
        return max(by_message, int(seconds <= QUEUE_NEXT_SECONDS and are_enough_for_all))

    def _pool_of(self, worker: Worker) -> _Pool:
        facts = worker.facts
        key: _PoolKey = facts.kind, facts.slots, facts.memory_bytes
        if worker.pool != key:
            before, worker.pool = worker.pool, key
            pool = self._pools.setdefault(key, _Pool(*key))
            if before is not None:  # it reports other facts than before
                self._pools[before].discard(worker)
                pool.workers[facts.address] = worker
        return self._pools[key]


class Patience:
    """For how long tasks of a kind have had no worker that could take them, now or once it is idle.

    Parameters
    ----------
    seconds : float
        How long they wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waits: dict[Kind, tuple[float, float, int | None]] = {}

    def waited(self, kind: Kind, largest_bytes: int | None, now: float) -> float:
        """Return the time in seconds that such tasks have waited; it begins anew when workers change.

        Parameters
        ----------
        kind : {"gpu", "cpu"}
            What the tasks need.
        largest_bytes : int or None
            Memory of the largest worker for them, which is not enough; None without a worker.
        now : float
            The time in seconds, by our own clock. While a task waits this is called at least every `GAP_SECONDS`.
        """
        since, asked_at, largest = self._waits.get(kind, (now, now, largest_bytes))
        if largest != largest_bytes or now - asked_at > GAP_SECONDS:
            since = now
        self._waits[kind] = since, now, largest_bytes
        return now - since
