"""Decisions of run_tasks(), with a runner whose clock is simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.pipeline.execution.driver import RetryPolicy, run_tasks
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Kind, Outcome, Task

if TYPE_CHECKING:
    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.execution.runner import Demand, Observer
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project

Answer = Callable[[Task, float, str], Outcome]


class SimulatedRunner:
    """A runner with `slots` slots on which each task takes a second; `answer` gives the outcome."""

    memory_limits: Mapping[Kind, int] | None = None

    def __init__(self, answer: Answer, slots: int = 1) -> None:
        self.answer, self.slots, self.time = answer, slots, 0.0
        self.log: list[tuple[str, float, str]] = []
        self._busy: list[tuple[Task, str]] = []

    def prepare(self, tasks: Sequence[Task], registry: Registry) -> None: ...

    def bind(self, attempts: CrashRecords, note: Observer) -> None: ...

    def refusal(self, task: Task, kind: Kind) -> Outcome | None:
        return None

    def now(self) -> float:
        return self.time

    def has_slot(self, task: Task, kind: Kind) -> bool:
        return len(self._busy) < self.slots

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        self.log.append((task.key, self.time, take_over))
        self._busy.append((task, take_over))

    def finished(self, seconds: float) -> list[Outcome]:
        self.time += 1.0 if self._busy else max(seconds, 0.01)
        ended = [self.answer(task, self.time, take_over) for task, take_over in self._busy]
        self._busy = []
        return ended

    def backlog(self, ready: Mapping[Demand, int]) -> None: ...

    def snapshot(self) -> Mapping[str, Any]:
        return {}

    def report(self, file: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def close(self) -> None: ...


def outcome(task: Task, state: str = "done", message: str = "", *, passing: bool = False) -> Outcome:
    return Outcome(task.stage, task.run, task.part, state, message, passing=passing)  # type: ignore[arg-type]


@pytest.fixture
def made(project: Project, registry: Registry) -> Plan:
    return plan(project, Settings(), registry)


def test_a_transient_error_is_requeued_behind_the_others_and_given_up(made: Plan, registry: Registry) -> None:
    def answer(task: Task, now: float, take_over: str) -> Outcome:
        bad = task.run == "TS_1"
        return outcome(task, "failed" if bad else "done", "503", passing=bad)

    runner, events = SimulatedRunner(answer), []
    outcomes = run_tasks(made, runner, registry, lambda event, task, _: events.append((event, task.key)))
    times = [when for key, when, _ in runner.log if key == "mask/TS_1/whole"]
    assert len(times) == 1 + RetryPolicy().requeues
    assert times[1] - times[0] >= 15
    assert times[2] - times[1] >= 30
    assert max(when for key, when, _ in runner.log if "TS_1" not in key) < times[1]
    assert events.count(("again", "mask/TS_1/whole")) == 2
    states = {one.key: one.state for one in outcomes}
    assert (states["mask/TS_1/whole"], states["size/TS_1/whole"]) == ("failed", "blocked")


def test_a_task_that_another_run_holds_is_waited_for(made: Plan, registry: Registry) -> None:
    """The lease is renewed for 500 s, longer than a lease lasts; then the receipt is there."""

    def answer(task: Task, now: float, take_over: str) -> Outcome:
        assert not take_over
        if task.key == "mask/TS_1/whole" and now < 500:
            return outcome(task, "held", f"other:{int(now / 15)}")
        return outcome(task, "skipped" if task.run == "TS_1" else "done")

    runner = SimulatedRunner(answer)
    assert {one.state for one in run_tasks(made, runner, registry)} == {"done", "skipped"}
    assert len([key for key, *_ in runner.log if key == "mask/TS_2/whole"]) == 1


def test_a_lease_that_is_not_renewed_is_taken_over(made: Plan, registry: Registry) -> None:
    def answer(task: Task, now: float, take_over: str) -> Outcome:
        held = task.key == "mask/TS_1/whole" and take_over != "other:7"
        return outcome(task, "held", "other:7") if held else outcome(task)

    runner = SimulatedRunner(answer)
    outcomes = run_tasks(made, runner, registry, policy=RetryPolicy(lease_seconds=60))
    assert {one.state for one in outcomes} == {"done"}
    ((_, when, _),) = [entry for entry in runner.log if entry[2]]
    assert 60 <= when < 90


def test_poisoned_tasks_are_not_tried_and_block_their_followers(made: Plan, registry: Registry) -> None:
    poisoned = {"mask/TS_2/whole": outcome(made.tasks[2], "failed", "poison")}
    runner = SimulatedRunner(lambda task, *_: outcome(task))
    outcomes = {one.key: one.state for one in run_tasks(made, runner, registry, poisoned=poisoned)}
    assert (outcomes["mask/TS_2/whole"], outcomes["size/TS_2/whole"]) == ("failed", "blocked")
    assert not any("TS_2" in key for key, *_ in runner.log)
    parallel = SimulatedRunner(lambda task, *_: outcome(task), slots=9)
    run_tasks(made, parallel, registry, poisoned=poisoned)
    assert len(parallel.log) == 4


def test_begun_tomograms_are_finished_first(made: Plan, registry: Registry) -> None:
    runner = SimulatedRunner(lambda task, *_: outcome(task))
    run_tasks(made, runner, registry)
    assert [key.split("/")[1] for key, *_ in runner.log] == ["TS_1", "TS_1", "TS_2", "TS_2", "TS_3", "TS_3"]


def test_a_large_task_that_waits_keeps_no_small_one_waiting(made: Plan, registry: Registry) -> None:
    """A task without a worker of its size fails when the runner says so; the others have been done before."""
    large = made.tasks[0].run
    tasks = [replace(task, memory_bytes=2**40 if task.run == large else 2**30) for task in made.tasks]

    class Small(SimulatedRunner):
        def has_slot(self, task: Task, kind: Kind) -> bool:
            return task.memory_bytes < 2**40 and super().has_slot(task, kind)

        def refusal(self, task: Task, kind: Kind) -> Outcome | None:
            return outcome(task, "failed", "too large") if task.memory_bytes == 2**40 and self.time > 50 else None

    runner = Small(lambda task, *_: outcome(task))
    outcomes = {each.key: each for each in run_tasks(replace(made, tasks=tuple(tasks)), runner, registry)}
    assert {each.state for each in outcomes.values() if each.run != large} == {"done"}
    assert [each.state for each in outcomes.values() if each.run == large] == ["failed", "blocked"]
    assert max(when for _, when, _ in runner.log) < 50
