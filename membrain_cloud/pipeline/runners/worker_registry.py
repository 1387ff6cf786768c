"""Who works on what: workers that come and go, their slots, and who is to blame when one dies. Knows no Dask.

Every task is given to one worker by name, so it is known what a worker had in hand when it died:

    GPU worker, 2 slots   [ TS_7 computing | TS_8 reading ahead ]
    CPU worker, 1 slot    [ TS_3 ]  (+ some on their way, where tasks take no longer than a message)

Nobody is blamed for what may have been another's fault: a task that was not alone when its worker died is only
suspected, and goes on alone, on a worker that does nothing else meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from membrain_cloud.pipeline.tasks import Kind, Task

# Where tasks take no longer than a message, some more are sent before the last ones are back.
AHEAD_SECONDS = 0.1
MOST_AHEAD = 16
# Of a stage whose tasks take no longer than this the next one waits at its worker, which would stand idle until it
# hears of it (some 10 ms). It is bound to that worker then, so only while there is enough for all the others.
NEXT_SECONDS = 5.0
# As long as a kind of worker has been away, its tasks go to the other kind (a lone GPU worker meshes as well).
ABSENCE_SECONDS = 600.0
# A worker that died is back under its name or its nanny within this time, or its machine is gone.
VERDICT_SECONDS = 45.0


@dataclass(frozen=True)
class Facts:
    """What a worker says of itself. kind : None takes everything.  last_seen : its last heartbeat, by any clock."""

    address: str
    name: str
    nanny: str | None
    kind: Kind | None
    slots: int
    memory_bytes: int
    last_seen: float = 0.0


@dataclass
class Seat:
    """A task given to a worker. `started` is when the worker said so; None while it is on its way."""

    task: Task
    token: str
    sent: float
    alone: bool = False
    started: float | None = None


@dataclass
class Worker:
    facts: Facts
    seats: dict[str, Seat] = field(default_factory=dict)
    leaving: bool = False
    reserved_for: str | None = None
    heard: float = 0.0
    full: bool = False

    def has_room(self, ahead: int) -> bool:
        """Whether it may get another task, with so many ahead of its need.

        Once it is full it gets no more until half of what was ahead is done: so they come several at a time.
        """
        if len(self.seats) >= self.facts.slots + ahead:
            self.full = True
        elif len(self.seats) <= self.facts.slots + ahead // 2:
            self.full = False
        return not self.full and self.reserved_for is None

    def at_work(self) -> list[Seat]:
        """What it was doing: what it said it began. If it said nothing, what it was to begin with."""
        seats = list(self.seats.values())
        return [seat for seat in seats if seat.started is not None] or seats[: self.facts.slots]


@dataclass
class Death:
    """A worker that died with tasks in hand.

    alone : it was at one task only.  certain : it had said so; else it may have died before that task reached it.
    """

    worker: Facts
    seats: list[Seat]
    when: float

    @property
    def alone(self) -> bool:
        return len(self.seats) == 1

    @property
    def certain(self) -> bool:
        return all(seat.started is not None for seat in self.seats)


@dataclass
class Changes:
    """What a look at the cluster brought to light."""

    joined: list[Worker] = field(default_factory=list)
    left: list[Worker] = field(default_factory=list)
    given_back: list[Seat] = field(default_factory=list)


class Roster:
    """Workers by address, and where a task can go.

    expected : kinds that exist even while no such worker is there (they are scaled up when needed).
    """

    def __init__(self, expected: Iterable[Kind] = ()) -> None:
        self.workers: dict[str, Worker] = {}
        self.deaths: list[Death] = []
        self._expected: frozenset[Kind] = frozenset(expected)
        self._seen: dict[Kind, float] = {}
        self._seconds: dict[str, float] = {}
        self._ready: Mapping[Kind, int] = {}
        self._by_token: dict[str, str] = {}

    # -- workers

    def update(self, there: Mapping[str, Facts], now: float) -> Changes:
        """Compare with who is there. Those who left without notice become deaths, with what they had at work."""
        changes = Changes()
        for address, facts in there.items():
            worker = self.workers.get(address)
            if worker is None:
                worker = self.workers[address] = Worker(facts, heard=now)
                changes.joined.append(worker)
            elif worker.facts.last_seen != facts.last_seen:
                worker.heard = now
            worker.facts = facts
        for address in [address for address in self.workers if address not in there]:
            worker = self.workers.pop(address)
            changes.left.append(worker)
            changes.given_back += self._bury(worker, now)
        for kind in ("gpu", "cpu"):
            if any(worker.facts.kind == kind for worker in self.workers.values()):
                self._seen[kind] = now
        return changes

    def _bury(self, worker: Worker, now: float) -> list[Seat]:
        for seat in worker.seats.values():
            self._by_token.pop(seat.token, None)
        suspects = [] if worker.leaving else worker.at_work()
        if suspects:
            self.deaths.append(Death(worker.facts, suspects, now))
        return [seat for seat in worker.seats.values() if seat not in suspects]

    def verdicts(self, now: float) -> list[tuple[Death, bool]]:
        """Deaths that are understood by now, and whether the machine outlived its worker.

        The worker is back under its name or its nanny: its process died by itself. Nobody came back: a machine was lost
        (preempted, most likely), and that is nobody's fault.
        """
        known = []
        for death in list(self.deaths):
            came_back = any(
                worker.facts.address != death.worker.address
                and (worker.facts.name == death.worker.name or _same(worker.facts.nanny, death.worker.nanny))
                for worker in self.workers.values()
            )
            if came_back or now - death.when > VERDICT_SECONDS:
                self.deaths.remove(death)
                known.append((death, came_back))
        return known

    def silent(self, now: float) -> list[Worker]:
        """Workers at work whose heartbeat has not changed for too long, by our own clock."""
        return [
            worker
            for worker in self.workers.values()
            for seat in list(worker.seats.values())[:1]
            if not worker.leaving and now - worker.heard > 60 * seat.task.job.limit("silent_minutes")
        ]

    def leaving(self, address: str) -> None:
        """It was told to go: it gets nothing more, and what it has in hand is not to blame for its end."""
        if address in self.workers:
            self.workers[address].leaving = True

    def count(self, kind: Kind) -> int:
        """Workers of a kind; those that take everything count as CPU workers."""
        return sum((worker.facts.kind or "cpu") == kind for worker in self.workers.values())

    def slots(self, kind: Kind) -> int:
        """Tasks that a worker of a kind has in hand at once; 1 while none is there."""
        slots = [worker.facts.slots for worker in self.workers.values() if (worker.facts.kind or "cpu") == kind]
        return max(slots, default=1)

    def on_host(self, host: str) -> int:
        """Workers that share a machine."""
        return sum(f"://{host}:" in address for address in self.workers)

    # -- tasks

    def choose(self, kind: Kind, stage: str, now: float, *, alone: str | None = None) -> Worker | None:
        """The worker for a task: the one with most free slots; None while there is room nowhere.

        alone : key of a task that must have a worker for itself; one is kept free for it.
        """
        able = [worker for worker in self._able(kind, now) if not worker.leaving]
        if alone is not None:
            return self._for_one(able, alone)
        ahead = self._ahead(kind, stage)
        best: Worker | None = None
        for worker in able:
            if worker.has_room(ahead) and (best is None or _load(worker) < _load(best)):
                best = worker
        return best

    def _for_one(self, able: list[Worker], key: str) -> Worker | None:
        reserved = next((worker for worker in able if worker.reserved_for == key), None)
        if reserved is None:
            free = [worker for worker in able if worker.reserved_for is None]
            if not free:
                return None
            reserved = min(free, key=_load)
            reserved.reserved_for = key
        return None if reserved.seats else reserved

    def _able(self, kind: Kind, now: float) -> list[Worker]:
        other: Kind = "cpu" if kind == "gpu" else "gpu"
        fitting = [worker for worker in self.workers.values() if worker.facts.kind in (kind, None)]
        # A GPU stage runs on a CPU where there is no GPU at all; a CPU stage only holds a GPU where nobody else is.
        away = kind in self._expected or now - self._seen.get(kind, -ABSENCE_SECONDS) < ABSENCE_SECONDS
        if fitting or away:
            return fitting
        return [worker for worker in self.workers.values() if worker.facts.kind == other]

    def _ahead(self, kind: Kind, stage: str) -> int:
        seconds = self._seconds.get(stage)
        if seconds is None:
            return 0
        short = min(MOST_AHEAD, int(AHEAD_SECONDS / max(seconds, 1e-3)))
        is_plenty = self._ready.get(kind, 0) > len(self.workers)
        return max(short, int(seconds <= NEXT_SECONDS and is_plenty))

    def backlog(self, ready: Mapping[Kind, int]) -> None:
        """Be told how many tasks of each kind could start, were there room."""
        self._ready = ready

    def seat(self, worker: Worker, seat: Seat) -> None:
        worker.seats[seat.token] = seat
        self._by_token[seat.token] = worker.facts.address
        if seat.alone:
            worker.reserved_for = seat.task.key

    def started(self, token: str, now: float) -> None:
        found = self._find(token)
        if found is not None:
            found[1].started = now

    def take(self, token: str, seconds: float | None = None) -> tuple[Worker, Seat] | None:
        """A task's end: its seat is free again. `seconds`: what it took, if it was done."""
        found = self._find(token)
        if found is None:
            return None
        worker, seat = found
        del worker.seats[token], self._by_token[token]
        if worker.reserved_for == seat.task.key:
            worker.reserved_for = None
        if seconds is not None:
            before = self._seconds.get(seat.task.stage, seconds)
            self._seconds[seat.task.stage] = 0.8 * before + 0.2 * seconds
        return found

    def release(self, key: str) -> None:
        """Nobody is kept free for this task any more."""
        for worker in self.workers.values():
            if worker.reserved_for == key:
                worker.reserved_for = None

    def overdue(self, now: float, seconds: float) -> list[tuple[Worker, Seat]]:
        """Tasks that have been at work for so long beyond their time."""
        return [
            (worker, seat)
            for worker in self.workers.values()
            for seat in worker.seats.values()
            if seat.started is not None and now - seat.started > 3600 * seat.task.job.limit("task_hours") + seconds
        ]

    def seats(self) -> list[Seat]:
        """All that is in flight; with it, what waits for a verdict on a worker that died."""
        held = [seat for worker in self.workers.values() for seat in worker.seats.values()]
        return held + [seat for death in self.deaths for seat in death.seats]

    def task_of(self, token: str) -> Task | None:
        found = self._find(token)
        return found[1].task if found else None

    def drop_all(self) -> list[Seat]:
        """Everything in flight, given back: the scheduler is gone, and who works on what is no longer known."""
        seats = self.seats()
        self.workers, self.deaths, self._by_token = {}, [], {}
        return seats

    def begun(self, tokens: Iterable[str]) -> list[str]:
        """Those of them that their worker has said it began."""
        found = [(token, self._find(token)) for token in tokens]
        return [token for token, there in found if there is not None and there[1].started is not None]

    def _find(self, token: str) -> tuple[Worker, Seat] | None:
        address = self._by_token.get(token)
        worker = None if address is None else self.workers.get(address)
        return None if worker is None else (worker, worker.seats[token])


def _load(worker: Worker) -> float:
    return len(worker.seats) / worker.facts.slots


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and one == other
