"""The worker registry: which worker takes a task, what happens to the tasks of lost workers. Without Dask."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners.placement import (
    ABSENCE_SECONDS,
    MAX_PREFETCH,
    PREFETCH_SECONDS,
    QUEUE_NEXT_SECONDS,
)
from membrain_cloud.pipeline.runners.worker_registry import COMEBACK_SECONDS, WorkerRegistry, host_of
from membrain_cloud.pipeline.runners.worker_state import Assignment, WorkerFacts
from membrain_cloud.pipeline.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.tasks import Kind, Task
    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def tasks(project: Project, registry: Registry) -> tuple[Task, ...]:
    return plan(project, Settings(), registry).tasks


def facts(number: int, kind: Kind | None = None, slots: int = 1, name: str = "", seen: float = 0.0) -> WorkerFacts:
    address = f"tcp://10.0.0.{number}:4000"
    return WorkerFacts(address, name or f"w{number}", f"tcp://10.0.0.{number}:3999", kind, slots, 2**33, seen)


def by_address(*workers: WorkerFacts) -> Mapping[str, WorkerFacts]:
    return {worker.address: worker for worker in workers}


def registry_of(*workers: WorkerFacts) -> WorkerRegistry:
    registry = WorkerRegistry()
    registry.update(by_address(*workers), 0.0)
    return registry


def assign(workers: WorkerRegistry, task: Task, token: str, *, began: bool = True, alone: bool = False) -> Assignment:
    worker = workers.choose("cpu", task.stage, 0.0, alone=task.key if alone else None)
    assert worker is not None
    assignment = Assignment(task, token, "cpu", alone)
    workers.assign(worker, assignment)
    if began:
        workers.mark_started(token, 0.0)
    return assignment


def test_only_tasks_shorter_than_a_message_are_prefetched(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1), facts(2))
    assign(workers, tasks[0], "a")
    assign(workers, tasks[2], "b")
    assert {len(worker.assignments) for worker in workers.workers.values()} == {1}
    assert workers.choose("cpu", "mask", 0.0) is None
    workers.remove("a", PREFETCH_SECONDS / 5)
    assign(workers, tasks[0], "c")
    assert workers.choose("cpu", "mask", 0.0) is not None
    workers.remove("c", 1000.0)
    assign(workers, tasks[0], "d")
    assert workers.choose("cpu", "mask", 0.0) is None


def test_kinds_of_workers() -> None:
    workers = registry_of(facts(1, "gpu"))
    for kind in ("gpu", "cpu"):
        assert workers.choose(kind, "mask", 1.0) is not None, "a lone GPU worker takes all tasks"
    workers.update(by_address(facts(1, "gpu"), facts(2, "cpu")), 2.0)
    assert workers.choose("cpu", "mask", 3.0).facts.kind == "cpu"  # type: ignore[union-attr]
    workers.update(by_address(facts(1, "gpu")), 4.0)
    assert workers.choose("cpu", "mask", 5.0) is None, "the CPU worker may come back"
    assert workers.choose("cpu", "mask", 5.0 + ABSENCE_SECONDS) is not None
    assert WorkerRegistry(expected=("cpu",)).choose("cpu", "mask", 5.0) is None


def test_a_death_is_a_crash_when_the_worker_comes_back(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1, slots=2), facts(2, slots=2))
    for index, token in enumerate("abc"):
        assign(workers, tasks[2 * index], token)
    assert [len(worker.assignments) for worker in workers.workers.values()] == [2, 1]
    assert workers.update(by_address(facts(2, slots=2)), 10.0) == []
    assert workers.resolve_deaths(10.0) == []
    elsewhere = replace(facts(3, slots=2), name="w1")
    workers.update(by_address(facts(2, slots=2), elsewhere), 11.0)
    assert workers.resolve_deaths(11.0) == [], "a pod on another node has its name"
    workers.update(by_address(facts(2, slots=2)), 11.5)
    here = replace(facts(1, slots=2), address="tcp://10.0.0.1:4001")
    workers.update(by_address(facts(2, slots=2), here), 12.0)
    ((death, came_back),) = workers.resolve_deaths(12.0)
    assert came_back
    assert not death.alone
    assert {assignment.token for assignment in death.assignments} == {"a", "c"}


def test_a_lost_machine_is_no_crash(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1))
    assign(workers, tasks[0], "a")
    workers.update(by_address(facts(2)), 10.0)
    assert workers.resolve_deaths(10.0 + COMEBACK_SECONDS) == []
    ((death, came_back),) = workers.resolve_deaths(11.0 + COMEBACK_SECONDS)
    assert (death.alone, came_back) == (True, False)


def test_tasks_that_had_not_begun_are_returned(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1))
    for task, token in ((tasks[0], "a"), (tasks[2], "b")):
        workers.assign(workers.workers[facts(1).address], Assignment(task, token, "cpu"))
    workers.mark_started("a", 1.0)
    assert [assignment.token for assignment in workers.update({}, 2.0)] == ["b"]
    assert [assignment.token for assignment in workers.deaths[0].assignments] == ["a"]
    assert workers.deaths[0].certain


def test_a_task_that_must_be_alone_gets_its_own_worker(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1, slots=2))
    assign(workers, tasks[0], "a")
    assert workers.choose("cpu", "mask", 0.0, alone="suspect") is None
    assert workers.choose("cpu", "mask", 0.0) is None, "the worker is reserved"
    workers.remove("a", 100.0)
    worker = workers.choose("cpu", "mask", 0.0, alone="suspect")
    assert worker is not None
    workers.assign(worker, Assignment(replace(tasks[2], stage="suspect"), "b", "cpu", alone=True))
    assert workers.choose("cpu", "mask", 0.0) is None
    workers.remove("b")
    assert workers.choose("cpu", "mask", 0.0) is not None


def test_a_worker_that_is_leaving_gets_no_more_tasks(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1), facts(2))
    assign(workers, tasks[0], "a")
    workers.mark_leaving(facts(1).address)
    workers.mark_leaving(facts(2).address)
    assert workers.choose("cpu", "mask", 0.0) is None
    assert [assignment.token for assignment in workers.update({}, 1.0)] == ["a"]
    assert workers.deaths == []


def test_a_silent_worker_is_noticed_by_our_own_clock(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1, seen=1e9), facts(2, seen=5.0))
    assign(workers, tasks[0], "a")
    assign(workers, tasks[2], "b")
    minutes = tasks[0].job.limit("silent_minutes")
    workers.update(by_address(facts(1, seen=1e9), facts(2, seen=6.0)), 60 * minutes)
    assert [worker.facts.name for worker in workers.silent_workers(60 * minutes + 1)] == ["w1"]


def fill(workers: WorkerRegistry, task: Task, number: int = 0) -> int:
    """Assign a task as often as workers accept it, and return how often that was."""
    count = 0
    while (worker := workers.choose("cpu", "mask", 0.0)) is not None:
        workers.assign(worker, Assignment(task, f"{number}-{count}", "cpu"))
        count += 1
    return count


def registry_that_knows(task: Task, seconds: float) -> WorkerRegistry:
    """Return a registry of one worker that knows how long the task's stage takes."""
    workers = registry_of(facts(1))
    assign(workers, task, "known")
    workers.remove("known", seconds)
    return workers


def test_short_tasks_are_sent_several_at_a_time(tasks: tuple[Task, ...]) -> None:
    workers = registry_that_knows(tasks[0], 0.001)
    assert fill(workers, tasks[0]) == 1 + MAX_PREFETCH
    for done in range(MAX_PREFETCH // 2 - 1):
        workers.remove(f"0-{done}")
        assert workers.choose("cpu", "mask", 0.0) is None, "it has enough for a while"
    workers.remove(f"0-{MAX_PREFETCH // 2 - 1}")
    assert fill(workers, tasks[0], 1) == MAX_PREFETCH // 2


@pytest.mark.parametrize(
    ("seconds", "ready", "accepted"),
    [(1.0, 5, 2), (1.0, 1, 1), (QUEUE_NEXT_SECONDS + 1, 5, 1)],
    ids=["the next one is queued", "not where others may take it", "not behind a long one"],
)
def test_the_next_task_is_queued_where_many_wait(
    tasks: tuple[Task, ...], seconds: float, ready: int, accepted: int
) -> None:
    workers = registry_that_knows(tasks[0], seconds)
    workers.note_ready({"gpu": 0, "cpu": ready})
    assert fill(workers, tasks[0]) == accepted


def test_all_assignments_are_returned_when_the_scheduler_is_lost(tasks: tuple[Task, ...]) -> None:
    workers = registry_of(facts(1), facts(2))
    assign(workers, tasks[0], "a")
    assign(workers, tasks[2], "b")
    workers.update(by_address(facts(2)), 1.0)
    assert [assignment.token for assignment in workers.clear()] == ["b", "a"]
    assert (workers.workers, workers.deaths, workers.assignments()) == ({}, [], [])
    assert workers.remove("b") is None


def test_host_of_an_address() -> None:
    assert host_of("tcp://10.0.0.1:4000") == "10.0.0.1"
    assert host_of("tls://worker-3.cryo:4000") == "worker-3.cryo"
