"""Drive a plan: which task is handed to the runner next, and what a failure blocks. Knows no Dask.

Tasks that are ready wait in queues, for GPU and for CPU stages and by their memory, in the plan's order; a task that is
retried goes behind the others. The runner says whether it has a free slot for the first task of a queue. What is in
flight is bounded by these slots, so nothing in a scheduler grows with the number of tasks.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from membrain_cloud.pipeline.execution.crash_records import CrashRecords
from membrain_cloud.pipeline.execution.failure_log import FailureLog
from membrain_cloud.pipeline.execution.outcome_store import OutcomeStore
from membrain_cloud.pipeline.execution.runner import KINDS
from membrain_cloud.pipeline.execution.stale_leases import remove_stale_leases
from membrain_cloud.pipeline.tasks import Outcome
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from membrain_cloud.pipeline.execution.runner import Observer, Runner
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Kind, Task
    from membrain_cloud.store.projects.project import Project

# Tasks of a kind whose memory differs by less than this factor wait in one queue.
_QUEUE_FACTOR = 1.25


@dataclass(frozen=True)
class RetryPolicy:
    """When tasks are retried and how long is waited for them.

    Attributes
    ----------
    requeues : int
        Maximum number of times a task with a transient error is queued again, after the attempts on its worker.
    again_seconds : float
        Pause before it is, doubled each time, with jitter, so that tasks do not return all at once.
    held_seconds : float
        Pause between two looks at a task whose lease another run has.
    lease_seconds : float
        A lease that has not changed for this time, by our clock, is taken over.
    grace_seconds : float
        Time that tasks in flight have to end once the run is to stop.
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
    policy: RetryPolicy | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> OutcomeStore:
    """Execute all tasks of a plan in the order that their needs allow.

    A failure blocks what depends on the task, and nothing else.

    Parameters
    ----------
    plan : Plan
        The plan.
    runner : Runner
        Executes the tasks.
    registry : mapping of str to Stage
        All stages.
    observe : callable
        Observer of every task; blocked ones are "finished" too. Default: none.
    poisoned : mapping of str to Outcome or None
        Keys of tasks that are not tried -> their failures. Default: none.
    policy : RetryPolicy or None
        Retries and pauses. Default: `RetryPolicy()`.
    stop : callable
        Once it returns True no task is started, and tasks in flight have the policy's grace time. Default: never.

    Returns
    -------
    OutcomeStore
        Outcomes of the plan's tasks, in the plan's order; if stopped, of those that have ended.
    """
    dispatcher = _Dispatcher(plan, runner, registry, observe, policy or RetryPolicy())
    for failure in (poisoned or {}).values():
        dispatcher.fail(failure)
    leave_at: float | None = None
    while dispatcher.has_open_tasks():
        if stop():
            leave_at = runner.now() + dispatcher.policy.grace_seconds if leave_at is None else leave_at
            if not dispatcher.in_flight or runner.now() >= leave_at:
                break
        else:
            dispatcher.start_ready_tasks()
        for outcome in runner.finished(dispatcher.seconds_to_wait()):
            dispatcher.process(outcome)
    return dispatcher.outcomes


@dataclass
class _DelayedTasks:
    """Tasks that wait for a time, by their index.

    Attributes
    ----------
    due : list of (float, int)
        Heap of times and tasks.
    requeued : dict of int to int
        How often each task was queued again.
    sightings : dict of int to (str, float)
        State of another run's lease on a task, and when it was first seen in that state.
    take_over : dict of int to str
        State of the lease that is taken over when the task starts.
    """

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
    """The state of a run: what waits for what, what is ready, what is in flight. Tasks go by their index."""

    def __init__(self, plan: Plan, runner: Runner, registry: Registry, observe: Observer, policy: RetryPolicy) -> None:
        self.tasks, self.runner, self.registry = plan.tasks, runner, registry
        self.observe, self.policy = observe, policy
        self.in_flight = 0
        self.outcomes = OutcomeStore(plan.tasks)
        self._index = {task.key: index for index, task in enumerate(plan.tasks)}
        self._open_needs = [len(set(task.needs)) for task in plan.tasks]
        self._followers: dict[int, list[int]] = {}
        self._n_open = len(plan.tasks)
        # Heaps of (times requeued, index), by the logarithm of the tasks' memory: a large task that waits for a large
        # worker does not keep small ones from the others.
        self._ready: dict[Kind, dict[int, list[tuple[int, int]]]] = {kind: {} for kind in KINDS}
        self._kinds: dict[str, Kind] = {
            stage: "gpu" if registry[stage].needs_gpu else "cpu" for stage in {task.stage for task in plan.tasks}
        }
        self._delayed = _DelayedTasks()
        self._jitter = random.Random(0)
        for index, task in enumerate(plan.tasks):
            for need in set(task.needs):
                self._followers.setdefault(self._index[need], []).append(index)
        for index, count in enumerate(self._open_needs):
            if not count:
                self._make_ready(index)

    def has_open_tasks(self) -> bool:
        """Return whether a task has no final outcome yet."""
        return self._n_open > 0

    def start_ready_tasks(self) -> None:
        """Start tasks that are ready, as far as there are slots."""
        for index in self._delayed.pop(self.runner.now()):
            self._make_ready(index)
        for kind in KINDS:
            queues = [queue for queue in self._ready[kind].values() if queue]
            while queues:
                queue = min(queues)
                if not self._start_first(queue, kind):
                    queues.remove(queue)
                elif not queue:
                    queues = [queue for queue in queues if queue]
        self.runner.backlog(
            {
                (kind, self.tasks[queue[0][1]].memory_bytes): len(queue)
                for kind in KINDS
                for queue in self._ready[kind].values()
                if queue
            }
        )

    def _start_first(self, queue: list[tuple[int, int]], kind: Kind) -> bool:
        """Start the first task of a queue; return False where it has to wait."""
        index = queue[0][1]
        task = self.tasks[index]
        if self.outcomes.has(index):  # failed before it began
            heapq.heappop(queue)
            return True
        if not self.runner.has_slot(task, kind):
            failure = self.runner.refusal(task, kind)
            if failure is None:
                return False
            heapq.heappop(queue)
            self.fail(failure)
            return True
        heapq.heappop(queue)
        self.observe("started", task, None)
        self.runner.start(task, self.registry, kind, take_over=self._delayed.take_over.pop(index, ""))
        self.in_flight += 1
        return True

    def seconds_to_wait(self) -> float:
        """Return the seconds until the next retry is due, at most 1."""
        if not self._delayed.due:
            return 1.0
        return min(1.0, max(0.0, self._delayed.due[0][0] - self.runner.now()))

    def process(self, outcome: Outcome) -> None:
        """Take the outcome of a task that was in flight: retry it, fail it, or make its followers ready."""
        self.in_flight -= 1
        index = self._index[outcome.key]
        if outcome.state == "held":
            self._retry_held(index, outcome)
            return
        self._delayed.sightings.pop(index, None)
        if outcome.state == "failed" and outcome.passing and self._requeue(index, outcome):
            return
        if outcome.state == "failed":
            self.fail(outcome)
            return
        self._close(index, outcome)
        for follower in self._followers.get(index, ()):
            self._open_needs[follower] -= 1
            if not self._open_needs[follower] and not self.outcomes.has(follower):
                self._make_ready(follower)

    def fail(self, outcome: Outcome) -> None:
        """Close a failed task and block all that depends on it."""
        index = self._index[outcome.key]
        if not self.outcomes.has(index):
            self._close(index, outcome)
            self._block_followers(index, outcome)

    def _make_ready(self, index: int) -> None:
        task = self.tasks[index]
        size = int(math.log(max(1, task.memory_bytes), _QUEUE_FACTOR))
        queue = self._ready[self._kinds[task.stage]].setdefault(size, [])
        heapq.heappush(queue, (self._delayed.requeued.get(index, 0), index))

    def _close(self, index: int, outcome: Outcome) -> None:
        self.outcomes.put(index, outcome)
        self._n_open -= 1
        self.observe("finished", self.tasks[index], outcome)

    def _requeue(self, index: int, outcome: Outcome) -> bool:
        """Queue a task again after a pause; return False where its retries are used up."""
        times = self._delayed.requeued.get(index, 0)
        if times >= self.policy.requeues:
            return False
        self._delayed.requeued[index] = times + 1
        seconds = self.policy.again_seconds * 2**times * self._jitter.uniform(0.75, 1.5)
        self._delayed.put(index, self.runner.now() + seconds)
        self.observe("again", self.tasks[index], outcome)
        return True

    def _retry_held(self, index: int, outcome: Outcome) -> None:
        """Look again later at a task whose lease another run has.

        A lease changes while its holder lives. One that has not changed for the policy's time is taken over.
        """
        now, lease = self.runner.now(), outcome.message
        last_lease, since = self._delayed.sightings.get(index, ("", now))
        if last_lease != lease:
            since = now
        self._delayed.sightings[index] = (lease, since)
        if now - since >= self.policy.lease_seconds:
            self._delayed.take_over[index] = lease
        self._delayed.put(index, now + self.policy.held_seconds * self._jitter.uniform(0.8, 1.2))
        self.observe("held", self.tasks[index], outcome)

    def _block_followers(self, index: int, outcome: Outcome) -> None:
        """Close everything that depends on a failed task as blocked, each task once."""
        waiting = list(self._followers.get(index, ()))
        while waiting:
            follower = waiting.pop(0)
            if self.outcomes.has(follower):
                continue
            waiting += self._followers.get(follower, ())
            task, why = self.tasks[follower], f"{outcome.stage} failed"
            blocked = Outcome(task.stage, task.run, task.part, "blocked", why, "see the failure of that stage")
            self._close(follower, blocked)


def execute_plan(  # noqa: PLR0913 (what is run, on what, and three options)
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
    """Execute a plan: declare the objects that it writes, run its tasks, and keep its failures in the project.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of all stages.
    plan : Plan
        The plan.
    runner : Runner
        Executes the tasks.
    registry : mapping of str to Stage
        All stages.
    observe : callable
        Observer of every task. Default: none.
    retry_poison : bool
        Whether tasks that were given up because their processes died are tried again. Default: False.
    stop : callable
        Once it returns True no task is started. Default: never.
    grace_seconds : float
        Time in seconds that tasks in flight then have. Default: 20.

    Returns
    -------
    OutcomeStore
        The plan's own outcomes, then those of its tasks; if stopped, of the tasks that have ended.

    Raises
    ------
    StorageError
        If results could not be written; nothing has been started then.
    """
    failures = FailureLog(project.receipts)
    failures.record_all(plan.outcomes)
    crashes = CrashRecords(project.receipts.sibling("attempts"))
    poisoned = crashes.read(plan.tasks)
    if retry_poison:
        for task in plan.tasks:
            if task.key in poisoned:
                crashes.forget(task)
        poisoned = {}
    if plan.tasks:
        _check_writable(project, settings, {registry[task.stage].keeps_receipts_in for task in plan.tasks})
        for name in plan.stages:
            registry[name].declare(project, settings)

    def record(event: str, task: Task, outcome: Outcome | None) -> None:
        if outcome is not None and event == "finished":
            failures.record(outcome, completes=task.completes)
            if outcome.state in ("done", "skipped"):
                crashes.forget(task)
        observe(event, task, outcome)

    runner.prepare(plan.tasks, registry)
    runner.bind(crashes, record)
    policy = RetryPolicy(
        requeues=settings.run.requeues,
        lease_seconds=60 * settings.run.lease_minutes,
        grace_seconds=grace_seconds,
    )
    outcomes = run_tasks(plan, runner, registry, record, poisoned=poisoned, policy=policy, stop=stop)
    remove_stale_leases([project.receipts, open_tables(project, settings.output.tables).receipts])
    return outcomes.after(plan.outcomes)


def _check_writable(project: Project, settings: Settings, stores: set[str]) -> None:
    """Fail now and once, and not in each of thousands of tasks."""
    if "project" in stores:
        project.check_writable()
    if "tables" in stores:
        open_tables(project, settings.output.tables).check_writable()
