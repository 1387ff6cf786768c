"""Metrics of a run, and the observers set up together."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import generate_latest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.monitoring.observers import observe_run
from membrain_cloud.pipeline.monitoring.progress import ProgressCounter
from membrain_cloud.pipeline.monitoring.prometheus import Metrics
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Outcome

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project

SNAPSHOT = {
    "workers": {"gpu": 1, "cpu": 4},
    "in_flight": {"gpu": 0, "cpu": 2},
    "pending": {"gpu": 0, "cpu": 7},
    "deaths": 2,
    "gpu_worker_seconds": 40.0,
}


def test_metrics_follow_the_events_of_a_run(project: Project, registry: Registry) -> None:
    made = plan(project, Settings(), registry)
    progress = ProgressCounter(made)
    metrics = Metrics(made, progress, lambda: SNAPSHOT)
    measured = {"voxels": 960, "bytes_read": 5, "gpu_seconds": 10.0, "retries": 1}
    done = Outcome("mask", "TS_1", "whole", "done", seconds=3.0, measured=measured)
    for observer in (progress.observe, metrics.observe):
        observer("started", made.tasks[0], None)
        observer("finished", made.tasks[0], done)
    text = generate_latest(metrics.registry).decode()
    for line in (
        'membrain_tasks_total{outcome="done",stage="mask"} 1.0',
        'membrain_task_seconds_bucket{le="5.0",stage="mask"} 1.0',
        'membrain_voxels_total{stage="mask"} 960.0',
        'membrain_retries_total{cause="store",stage="mask"} 1.0',
        'membrain_tasks_pending{kind="cpu"} 7.0',
        'membrain_tomograms{state="running"} 1.0',
        "membrain_worker_deaths_total 2.0",
        "membrain_gpu_busy_ratio 0.25",
    ):
        assert line in text, line


class Runner(InProcessRunner):
    def report(self, file: str) -> AbstractContextManager[Any]:
        raise AssertionError("no report was asked for")


def test_observers_are_called_together_and_the_server_ends(project: Project, registry: Registry) -> None:
    made, seen = plan(project, Settings(), registry), []
    with observe_run(made, Runner(), metrics_port=0) as observers:
        observe = observers.with_observer(lambda event, task, _: seen.append((event, task.key)))
        observe("started", made.tasks[0], None)
        assert observers.progress.tomograms["running"] == 1
    assert seen == [("started", "mask/TS_1/whole")]


def test_a_port_that_is_taken_is_refused(project: Project, registry: Registry) -> None:
    import socket

    made = plan(project, Settings(), registry)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"metrics port {port}"), observe_run(made, Runner(), metrics_port=port):
            pass
    metrics = Metrics(made, ProgressCounter(made), lambda: SNAPSHOT)
    end = metrics.serve(port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"membrain_tomograms" in answer.read()
    finally:
        end()
