"""Projects from Python: plan and run as the command line does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import membrain_cloud as mc
from membrain_cloud.api import projects
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = create_project(str(tmp_path / "project"), objects=[])
    density = mc.simulate(seed=1, shape=(32, 64, 64), membranes=1).density
    for name in ("TS_1", "TS_2"):
        project.write_tomogram(TomogramRef(name, "wbp", 10.0), density)
    return project


def test_a_run_does_what_the_plan_lists_once(project: Project) -> None:
    calls: list[tuple[int, int]] = []
    planned = mc.plan(project, stages=["segment", "separate"], runs=["TS_1"])
    assert [(task.run, task.stage) for task in planned.tasks] == [("TS_1", "segment"), ("TS_1", "separate")]
    outcomes = mc.run(
        project,
        stages=["segment", "separate"],
        runs=["TS_1"],
        in_process=True,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    assert calls == [(1, 2), (2, 2)]
    again = projects.run(project, stages=["segment", "separate"], runs=["TS_1"], in_process=True)
    assert [outcome.state for outcome in again] == ["skipped", "skipped"]


def test_a_project_opens_by_its_path(project: Project) -> None:
    assert projects.open_project(project.config).runs() == ["TS_1", "TS_2"]


def test_an_unknown_run_is_refused(project: Project) -> None:
    with pytest.raises(mc.MembrainCloudError, match="TS_9"):
        mc.plan(project, runs=["TS_9"])
