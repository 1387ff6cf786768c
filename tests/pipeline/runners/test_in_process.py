"""The runner in this process: one task at a time, its counts, and what it cannot do."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import in_process
from membrain_cloud.pipeline.runners.in_process import InProcessRunner
from membrain_cloud.pipeline.settings import Settings

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def test_one_task_is_in_flight_at_a_time(project: Project, registry: Registry) -> None:
    first, second = plan(project, Settings(), registry, stages=["mask"]).tasks[:2]
    with InProcessRunner() as runner:
        assert runner.has_slot(first, "cpu")
        runner.start(first, registry, "cpu")
        runner.backlog({("cpu", 5): 1, ("cpu", 7): 1})
        assert not runner.has_slot(second, "cpu")
        assert runner.snapshot()["in_flight"] == {"gpu": 0, "cpu": 1}
        assert runner.snapshot()["pending"] == {"gpu": 0, "cpu": 2}
        (outcome,) = runner.finished(0.0)
        assert (outcome.key, outcome.state) == (first.key, "done")
        assert runner.has_slot(second, "cpu")
        assert runner.finished(0.0) == []


def test_a_report_of_dask_is_refused() -> None:
    with pytest.raises(UsageError, match="this run is in process"):
        InProcessRunner().report("report.html")


def test_the_time_limit_holds_on_the_main_thread_only() -> None:
    with pytest.raises(in_process._Overdue), in_process._time_limit(0.05):
        time.sleep(5.0)
    ended: list[bool] = []

    def work() -> None:
        with in_process._time_limit(0.01):
            time.sleep(0.1)
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
