"""Driving a plan: which task is handed to the runner next, and what a failure blocks."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from membrain_cloud.pipeline.chain import Registry
from membrain_cloud.pipeline.ledger import FailureLedger
from membrain_cloud.pipeline.plan import Plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Outcome, Task
from membrain_cloud.store.project import Project

Observe = Callable[[str, Task, Outcome | None], None]


class Runner(Protocol):
    """Does tasks. `start` hands one over, `finished` waits for at least one; `room` is how many more may be started."""

    memory_bytes: int

    def room(self) -> int: ...
    def start(self, task: Task, registry: Registry) -> None: ...
    def finished(self) -> list[Outcome]: ...
    def close(self) -> None: ...


def drive(plan: Plan, runner: Runner, registry: Registry, observe: Observe = lambda *_: None) -> list[Outcome]:
    """Do all tasks of a plan in the order their needs allow; a failure blocks what hangs on it and nothing else.

    observe : called with ("started", task, None) and ("finished", task, outcome), blocked tasks included.
    Returns the outcomes of the plan's tasks, in the plan's order.
    """
    tasks = {task.key: task for task in plan.tasks}
    order = {key: index for index, key in enumerate(tasks)}
    waiting = {key: set(task.needs) for key, task in tasks.items()}
    followers: dict[str, list[str]] = {}
    for task in plan.tasks:
        for need in task.needs:
            followers.setdefault(need, []).append(task.key)
    ready = [order[key] for key, needs in waiting.items() if not needs]
    heapq.heapify(ready)
    outcomes: dict[str, Outcome] = {}
    in_flight = 0
    while ready or in_flight:
        while ready and (in_flight == 0 or runner.room() > 0):
            task = plan.tasks[heapq.heappop(ready)]
            observe("started", task, None)
            runner.start(task, registry)
            in_flight += 1
        for outcome in runner.finished():
            in_flight -= 1
            for settled in (outcome, *_blocked(outcome, tasks, followers, outcomes)):
                outcomes[settled.key] = settled
                observe("finished", tasks[settled.key], settled)
            if outcome.state != "done":
                continue
            for follower in followers.get(outcome.key, ()):
                waiting[follower].discard(outcome.key)
                if not waiting[follower] and follower not in outcomes:
                    heapq.heappush(ready, order[follower])
    return sorted(outcomes.values(), key=lambda outcome: order[outcome.key])


def _blocked(
    outcome: Outcome, tasks: Mapping[str, Task], followers: Mapping[str, Sequence[str]], settled: Mapping[str, Outcome]
) -> Iterator[Outcome]:
    """What a failure leaves undoable: everything that follows, each once."""
    if outcome.state != "failed":
        return
    reached, stack = set(settled), list(followers.get(outcome.key, ()))
    while stack:
        key = stack.pop(0)
        if key in reached:
            continue
        reached.add(key)
        stack += followers.get(key, ())
        task = tasks[key]
        yield Outcome(
            task.stage, task.run, task.part, "blocked", f"{outcome.stage} failed", "see the failure of that stage"
        )


def carry_out(
    project: Project,
    settings: Settings,
    plan: Plan,
    runner: Runner,
    registry: Registry,
    observe: Observe = lambda *_: None,
) -> list[Outcome]:
    """Do a plan: declare the objects it writes, drive its tasks, keep its failures where `failures` finds them.

    Returns all outcomes, those settled by the plan first.
    """
    ledger = FailureLedger(project.receipts)
    ledger.settle(plan.settled)
    if plan.tasks:
        for name in plan.stages:
            registry[name].declare(project, settings)

    def note(event: str, task: Task, outcome: Outcome | None) -> None:
        if outcome is not None:
            ledger.note(outcome, completes=task.completes)
        observe(event, task, outcome)

    return [*plan.settled, *drive(plan, runner, registry, note)]
