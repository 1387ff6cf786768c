"""The counts of a run, fed with what the driver reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from membrain_cloud.pipeline.monitoring.progress import ProgressCounter
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Outcome

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def test_a_run_counts_tomograms_tasks_and_time_left(project: Project, registry: Registry) -> None:
    made, now = plan(project, Settings(), registry), [0.0]
    progress = ProgressCounter(made, clock=lambda: now[0])
    assert progress.tomograms == {"pending": 3}
    assert progress.eta_seconds() is None
    mask, size = made.tasks[:2]
    progress.observe("started", mask, None)
    assert (progress.tomograms["running"], progress.tomograms["pending"]) == (1, 2)
    now[0] = 10.0
    done = Outcome("mask", "TS_1", "whole", "done", seconds=10.0, measured={"gpu_seconds": 4.0, "voxels": 960})
    progress.observe("finished", mask, done)
    assert progress.voxels["mask"] == 960
    assert progress.eta_seconds() == pytest.approx(50.0), "five tasks are left, one at a time"
    assert progress.tasks_per_hour() == pytest.approx(360.0)
    progress.observe("again", size, Outcome("size", "TS_1", "whole", "again", "worker_died"))
    progress.observe("finished", size, Outcome("size", "TS_1", "whole", "done", seconds=1.0, measured={"retries": 2}))
    assert (progress.tomograms["done"], progress.gpu_seconds) == (1, 4.0)
    assert progress.retries == {("size", "worker_died"): 1, ("size", "store"): 2}
    for task, state in zip(made.tasks[2:4], ("failed", "blocked"), strict=True):
        progress.observe("finished", task, Outcome(task.stage, task.run, "whole", state))  # type: ignore[arg-type]
    assert (progress.tomograms["failed"], progress.tomograms["blocked"], progress.tomograms["pending"]) == (1, 0, 1)
    assert sum(progress.tomograms.values()) == 3


def test_tomograms_that_the_plan_refuses_are_counted(project: Project, registry: Registry) -> None:
    made = plan(project, Settings(), registry, worker_memory_bytes=1)
    assert made.tasks == ()
    assert ProgressCounter(made).tomograms == {"failed": 3}
