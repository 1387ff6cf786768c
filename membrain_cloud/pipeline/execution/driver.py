"""Driving a plan: which task is handed to the runner next, and what a failure blocks. Knows no Dask.

Tasks that are ready wait in two queues, for GPU and for CPU stages, in the plan's order; one that could not be done
for the moment goes behind the others. The runner says whether it has room for the first of a queue. What is in flight
is bounded by that room, so nothing in a scheduler grows with the number of tasks.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from membrain_cloud.pipeline.execution.crash_records import CrashRecords
from membrain_cloud.pipeline.execution.failure_log import FailureLog
from membrain_cloud.pipeline.execution.outcome_store import OutcomeStore
from membrain_cloud.pipeline.execution.stale_leases import remove_stale_leases
from membrain_cloud.pipeline.tasks import Kind, Outcome, Task
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project

# event is "started" (outcome None), "finished", "again" (tried again later), or "held" (another run is at it).
Observer = Callable[[str, Task, Outcome | None], None]

KINDS: tuple[Kind, ...] = ("gpu", "cpu")


class Runner(Protocol):
    """Does tasks. `memory_bytes` is what the smallest of its workers has."""

    memory_bytes: int

    def bind(self, attempts: CrashRecords, note: Observer) -> None:
        """Learn where attempts are counted, and who is told of tasks that are tried again."""

    def now(self) -> float:
        """Seconds, by the clock that it waits by."""

    def has_slot(self, task: Task, kind: Kind) -> bool:
        """Whether this task could be started now."""

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        """Hand a task over. take_over : the lease of another run that is not kept up any more."""

    def finished(self, seconds: float) -> list[Outcome]:
        """What has ended; waits for the first at most so long."""

    def backlog(self, ready: Mapping[Kind, int]) -> None:
        """Be told how many tasks of each kind could start, were there room."""

    def snapshot(self) -> Mapping[str, Any]:
        """For people: by kind "workers", "in_flight", "pending"; and "deaths", "gpu_worker_seconds". Any thread."""

    def report(self, file: str) -> AbstractContextManager[Any]:
        """Write Dask's performance report of what is done meanwhile. Raises UsageError where there is none."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for what passes.

    requeues : times that a task whose fault passes is queued again, after its worker has tried it several times.
    again_seconds : before it is; doubled each time, with jitter, so that many do not come back at once.
    held_seconds : between two looks at a task that another run is at.
    lease_seconds : a lease that has not moved for so long, by our own clock, is taken over.
    grace_seconds : for tasks in flight, once the run is to stop.
    """

    requeues: int = 2
    again_seconds: float = 20.0
    held_seconds: float = 5.0
    lease_seconds: float = 300.0
    grace_seconds: float = 20.0


def run_tasks(
    plan: Plan,
    runner: Runner,
    registry: Registry,
    observe: Observer = lambda *_: None,
    *,
    poisoned: Mapping[str, Outcome] | None = None,
    patience: RetryPolicy | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> OutcomeStore:
    """Do all tasks of a plan in the order their needs allow; a failure blocks what hangs on it and nothing else.

    observe : called with ("started", task, None) and ("finished", task, outcome), blocked tasks included.
    poisoned : failures that are known before, by the tasks' keys.
    stop : once it says so nothing more is handed out, and what is in flight is waited for for a while.
    Returns the outcomes of the plan's tasks, in the plan's order; when stopped, of those that were settled.
    """
    driving = _Dispatcher(plan, runner, registry, observe, patience or RetryPolicy())
    for failure in (poisoned or {}).values():
        driving.fail(failure)
    leave_at: float | None = None
    while driving.is_unsettled():
        if stop():
            leave_at = runner.now() + driving.patience.grace_seconds if leave_at is None else leave_at
            if not driving.in_flight or runner.now() >= leave_at:
                break
        else:
            driving.hand_out()
        for outcome in runner.finished(driving.seconds_to_wait()):
            driving.settle(outcome)
    return driving.outcomes


@dataclass
class _Later:
    """Tasks that wait for a time. sightings : what lease was met on a task, and when it was first seen like that."""

    due: list[tuple[float, int]] = field(default_factory=list)
    requeued: dict[int, int] = field(default_factory=dict)
    sightings: dict[int, tuple[str, float]] = field(default_factory=dict)
    take_over: dict[int, str] = field(default_factory=dict)

    def put(self, index: int, when: float) -> None:
        heapq.heappush(self.due, (when, index))

    def pop(self, now: float) -> Iterator[int]:
        while self.due and self.due[0][0] <= now:
            yield heapq.heappop(self.due)[1]


class _Dispatcher:
    """The state of a run: what waits for what, what is ready, what is in flight. Tasks are known by their index."""

    def __init__(
        self, plan: Plan, runner: Runner, registry: Registry, observe: Observer, patience: RetryPolicy
    ) -> None:
        self.tasks, self.runner, self.registry = plan.tasks, runner, registry
        self.observe, self.patience = observe, patience
        self.in_flight = 0
        self._index = {task.key: index for index, task in enumerate(plan.tasks)}
        self._waits = [len(set(task.needs)) for task in plan.tasks]
        self._followers: dict[int, list[int]] = {}
        self.outcomes = OutcomeStore(plan.tasks)
        self._left = len(plan.tasks)
        self._ready: dict[Kind, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
        self._later = _Later()
        self._jitter = random.Random(0)
        for index, task in enumerate(plan.tasks):
            for need in set(task.needs):
                self._followers.setdefault(self._index[need], []).append(index)
        for index, waits in enumerate(self._waits):
            if not waits:
                self._make_ready(index)

    def is_unsettled(self) -> bool:
        return self._left > 0

    def hand_out(self) -> None:
        """Start what is ready, as far as there is room."""
        for index in self._later.pop(self.runner.now()):
            self._make_ready(index)
        for kind in KINDS:
            ready = self._ready[kind]
            while ready:
                index = ready[0][1]
                task = self.tasks[index]
                if self.outcomes.has(index):  # failed before it began
                    heapq.heappop(ready)
                    continue
                if not self.runner.has_slot(task, kind):
                    break
                heapq.heappop(ready)
                self.observe("started", task, None)
                self.runner.start(task, self.registry, kind, take_over=self._later.take_over.pop(index, ""))
                self.in_flight += 1
        self.runner.backlog({kind: len(ready) for kind, ready in self._ready.items()})

    def seconds_to_wait(self) -> float:
        """Until there is something to do beside waiting for tasks: a second at most, to notice what changes."""
        if not self._later.due:
            return 1.0
        return min(1.0, max(0.0, self._later.due[0][0] - self.runner.now()))

    def settle(self, outcome: Outcome) -> None:
        """Note what became of a task that was in flight, and what follows from it."""
        self.in_flight -= 1
        index = self._index[outcome.key]
        if outcome.state == "held":
            self._look_again(index, outcome)
            return
        self._later.sightings.pop(index, None)
        if outcome.state == "failed" and outcome.passing and self._requeue(index, outcome):
            return
        if outcome.state == "failed":
            self.fail(outcome)
            return
        self._close(index, outcome)
        for follower in self._followers.get(index, ()):
            self._waits[follower] -= 1
            if not self._waits[follower] and not self.outcomes.has(follower):
                self._make_ready(follower)

    def fail(self, outcome: Outcome) -> None:
        """A task has failed for good; what hangs on it is blocked."""
        index = self._index[outcome.key]
        if not self.outcomes.has(index):
            self._close(index, outcome)
            self._block_followers(index, outcome)

    def _make_ready(self, index: int) -> None:
        kind: Kind = "gpu" if self.registry[self.tasks[index].stage].needs_gpu else "cpu"
        heapq.heappush(self._ready[kind], (self._later.requeued.get(index, 0), index))

    def _close(self, index: int, outcome: Outcome) -> None:
        self.outcomes.put(index, outcome)
        self._left -= 1
        self.observe("finished", self.tasks[index], outcome)

    def _requeue(self, index: int, outcome: Outcome) -> bool:
        times = self._later.requeued.get(index, 0)
        if times >= self.patience.requeues:
            return False
        self._later.requeued[index] = times + 1
        seconds = self.patience.again_seconds * 2**times * self._jitter.uniform(0.75, 1.5)
        self._later.put(index, self.runner.now() + seconds)
        self.observe("again", self.tasks[index], outcome)
        return True

    def _look_again(self, index: int, outcome: Outcome) -> None:
        """Another run is at it. Its lease moves while it lives; one that has stood still for long is taken over."""
        now, lease = self.runner.now(), outcome.message
        seen, since = self._later.sightings.get(index, ("", now))
        if seen != lease:
            since = now
        self._later.sightings[index] = (lease, since)
        if now - since >= self.patience.lease_seconds:
            self._later.take_over[index] = lease
        self._later.put(index, now + self.patience.held_seconds * self._jitter.uniform(0.8, 1.2))
        self.observe("held", self.tasks[index], outcome)

    def _block_followers(self, index: int, outcome: Outcome) -> None:
        """What a failure leaves undoable: everything that follows, each once."""
        stack = list(self._followers.get(index, ()))
        while stack:
            follower = stack.pop(0)
            if self.outcomes.has(follower):
                continue
            stack += self._followers.get(follower, ())
            task, why = self.tasks[follower], f"{outcome.stage} failed"
            blocked = Outcome(task.stage, task.run, task.part, "blocked", why, "see the failure of that stage")
            self._close(follower, blocked)


def execute_plan(
    project: Project,
    settings: Settings,
    plan: Plan,
    runner: Runner,
    registry: Registry,
    observe: Observer = lambda *_: None,
    *,
    retry_poison: bool = False,
    stop: Callable[[], bool] = lambda: False,
    grace_seconds: float = 20.0,
) -> OutcomeStore:
    """Do a plan: declare the objects it writes, drive its tasks, keep its failures where `failures` finds them.

    retry_poison : try what was set aside because processes died at it.
    stop, grace_seconds : once `stop` says so nothing more is begun; so long is waited for what is in flight.
    Returns all outcomes, those settled by the plan first; when stopped, of those tasks that were settled.
    Raises StorageError before anything is begun where results could not be written.
    """
    ledger = FailureLog(project.receipts)
    ledger.settle(plan.outcomes)
    attempts = CrashRecords(project.receipts.sibling("attempts"))
    poisoned = attempts.read(plan.tasks)
    if retry_poison:
        for task in plan.tasks:
            if task.key in poisoned:
                attempts.forget(task)
        poisoned = {}
    if plan.tasks:
        _check_writable(project, settings, {registry[task.stage].keeps_receipts_in for task in plan.tasks})
        for name in plan.stages:
            registry[name].declare(project, settings)

    def note(event: str, task: Task, outcome: Outcome | None) -> None:
        if outcome is not None and event == "finished":
            ledger.note(outcome, completes=task.completes)
            if outcome.state in ("done", "skipped"):
                attempts.forget(task)
        observe(event, task, outcome)

    runner.bind(attempts, note)
    chosen = settings.run
    patience = RetryPolicy(
        requeues=chosen.requeues, lease_seconds=60 * chosen.lease_minutes, grace_seconds=grace_seconds
    )
    outcomes = run_tasks(plan, runner, registry, note, poisoned=poisoned, patience=patience, stop=stop)
    remove_stale_leases([project.receipts, open_tables(project, settings.output.tables).receipts])
    return outcomes.after(plan.outcomes)


def _check_writable(project: Project, settings: Settings, stores: set[str]) -> None:
    """Rather one error now than one for each of thousands of tasks."""
    if "project" in stores:
        project.check_writable()
    if "tables" in stores:
        open_tables(project, settings.output.tables).check_writable()
