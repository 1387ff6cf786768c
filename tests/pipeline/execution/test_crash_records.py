"""Counts of attempts that killed their worker, kept beyond the driver's life."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.pipeline.execution.crash_records import Crash, CrashRecords
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import load_settings

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.tasks import Task
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.run_state.receipts import Receipts


@pytest.fixture
def task(project: Project, registry: Registry) -> Task:
    return plan(project, load_settings(None, ["run.deaths=2", "run.losses=3"]), registry).tasks[0]


@pytest.mark.parametrize(
    ("cause", "alone", "attempts", "message"),
    [
        ("worker_died", True, 2, "out of memory"),
        ("machine_lost", True, 3, "was lost 3 times"),
        ("worker_died", False, 9, None),
    ],
)
def test_a_task_fails_at_its_limit_and_is_poisoned_for_later_runs(
    project: Project, task: Task, cause: str, alone: bool, attempts: int, message: str | None
) -> None:
    store = project.receipts.sibling("attempts")
    for number in range(attempts):
        record = CrashRecords(store).record(Crash(task, cause, alone, "w1"))  # type: ignore[arg-type]
        assert (record.failure() is None) == (number < attempts - 1 or message is None)
    poisoned = CrashRecords(store).read([task])
    assert (task.key in poisoned) == (message is not None)
    if message is not None:
        assert message in poisoned[task.key].message
        assert "retry_poison" in poisoned[task.key].next_step
    changed = replace(task, digest="0" * 64)
    assert CrashRecords(store).read([changed]) == {}, "other inputs or settings start anew"


def test_a_record_is_removed_when_its_task_is_done(project: Project, task: Task) -> None:
    store = project.receipts.sibling("attempts")
    records = CrashRecords(store)
    records.record(Crash(task, "worker_died", True, "w1"))
    assert records.count(task) == 1
    records.forget(task)
    assert (records.count(task), store.names()) == (0, set())


def test_without_a_store_records_last_as_long_as_the_run(task: Task) -> None:
    records = CrashRecords(None)
    records.record(Crash(task, "worker_died", True, "w1"))
    assert records.record(Crash(task, "worker_died", True, "w1")).failure() is not None
    assert CrashRecords(None).count(task) == 0


def test_the_loss_of_many_workers_costs_few_rounds_of_requests(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = plan(project, load_settings(None, []), registry).tasks
    store = project.receipts.sibling("attempts")
    at_once, most, lock = 0, 0, threading.Lock()
    all_there = threading.Barrier(len(tasks), timeout=30)
    read = type(store).read

    def counted(receipts: Receipts, name: str) -> dict[str, Any] | None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        all_there.wait()  # a sequence of requests would wait here for good
        with lock:
            at_once -= 1
        return read(receipts, name)

    monkeypatch.setattr(type(store), "read", counted)
    records = CrashRecords(store).record_all([Crash(task, "machine_lost", True, "w1") for task in tasks])
    monkeypatch.undo()
    assert most == len(tasks)
    assert [(record.stage, record.run, record.losses) for record in records] == [(t.stage, t.run, 1) for t in tasks]
    assert len(store.names()) == len(tasks)


def test_crashes_of_one_task_are_counted_one_after_the_other(project: Project, registry: Registry) -> None:
    first, second, *_ = plan(project, load_settings(None, []), registry).tasks
    records = CrashRecords(project.receipts.sibling("attempts"))
    records.record_all([Crash(task, "machine_lost", False, "w") for task in (first, second, first)])
    assert (records.count(first), records.count(second)) == (2, 1)
