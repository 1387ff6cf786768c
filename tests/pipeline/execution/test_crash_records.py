"""Counts of attempts that killed their worker, kept beyond the driver's life."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.pipeline.execution.crash_records import CrashRecords
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import load_settings

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.tasks import Task
    from membrain_cloud.store.projects.project import Project


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
        record = CrashRecords(store).record(task, cause, alone=alone, worker="w1")  # type: ignore[arg-type]
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
    records.record(task, "worker_died", alone=True, worker="w1")
    assert records.count(task) == 1
    records.forget(task)
    assert (records.count(task), store.names()) == (0, set())


def test_without_a_store_records_last_as_long_as_the_run(task: Task) -> None:
    records = CrashRecords(None)
    records.record(task, "worker_died", alone=True, worker="w1")
    assert records.record(task, "worker_died", alone=True, worker="w1").failure() is not None
    assert CrashRecords(None).count(task) == 0
