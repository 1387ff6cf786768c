"""What the store tells of runs elsewhere."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.monitoring.activity import LEFT_SECONDS, read_activity
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def test_leases_and_receipts_tell_what_is_at_work_and_how_fast(project: Project, registry: Registry) -> None:
    settings = Settings()
    first = plan(project, settings, registry, runs=["TS_1", "TS_2"])
    execute_plan(project, settings, first, InProcessRunner(), registry)
    now = time.time()
    receipts = sorted((Path(project.root_url) / "membrain-cloud/receipts").rglob("*.json"))
    assert len(receipts) == 4
    for number, receipt in enumerate(receipts):  # one task in six minutes
        os.utime(receipt, (now - 360 * number, now - 360 * number))
    rest = plan(project, settings, registry)
    holder = {"token": "t", "count": 3, "process": "another-machine/1/1.0"}
    leases = project.receipts.beside("leases")
    for task in rest.tasks:
        facts = {"run": task.run, "stage": task.stage, "worker": "w1"}
        leases.write(f"{task.address}/{task.part}.json", json.dumps({**holder, "facts": facts}).encode())
    assert len(rest.tasks) == 2
    abandoned = Path(project.root_url) / "membrain-cloud/leases" / f"{rest.tasks[1].address}/whole.json"
    os.utime(abandoned, (now - LEFT_SECONDS - 10, now - LEFT_SECONDS - 10))
    activity = read_activity(project, settings, rest)
    assert [(row["stage"], row["run"], row["worker"]) for row in activity.at_work] == [("mask", "TS_3", "w1")]
    assert [row["stage"] for row in activity.left] == ["size"]
    assert activity.tasks_per_hour == pytest.approx(10.0, rel=0.01)
    assert activity.eta_seconds == pytest.approx(720.0, rel=0.01)


def test_without_a_run_there_is_no_rate(project: Project, registry: Registry) -> None:
    activity = read_activity(project, Settings(), plan(project, Settings(), registry))
    assert (list(activity.at_work), activity.tasks_per_hour, activity.eta_seconds) == ([], None, None)
