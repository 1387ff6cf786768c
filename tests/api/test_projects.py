"""Projects from Python: plan and run as the command line does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import membrain_cloud as mc
from membrain_cloud.api import projects
from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings import settings_from
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
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


def test_a_plan_takes_the_path_of_a_project(project: Project) -> None:
    by_path = mc.plan(project.config, runs=["TS_1"], stages=["segment"])
    assert by_path.tasks == mc.plan(project, runs=["TS_1"], stages=["segment"]).tasks


@pytest.mark.parametrize(
    "choice",
    [
        {"runs": []},
        {"stages": []},
        {"runs": "TS_1"},
        {"stages": "segment"},
        {"settings": {"segment": {}}},
    ],
)
def test_a_choice_of_nothing_does_not_mean_all(project: Project, choice: dict[str, Any]) -> None:
    for call in (mc.plan, lambda *args, **options: mc.run(*args, **options, in_process=True)):
        with pytest.raises(UsageError, match=next(iter(choice))):
            call(project, **choice)
    assert not project.segmentations("TS_1")


@pytest.mark.parametrize("workers", [0, -1, "a", 1.5])
def test_a_number_of_workers_that_cannot_be_is_refused(project: Project, workers: Any) -> None:
    with pytest.raises(UsageError, match="workers"):
        mc.run(project, workers=workers)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"separate": {"min_voxels": -5}}, "separate.min_voxels"),
        ({"sepparate": {"min_voxels": 5}}, "separate"),
        ({"separate": {"minvoxels": 5}}, "separate.minvoxels"),
        ({"separate": 5}, "mapping"),
    ],
)
def test_settings_by_keyword_are_refused_as_those_of_a_file(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        mc.Settings(**sections)
    assert caught.value.next_step
    with pytest.raises(UsageError) as of_file:
        settings_from(sections)
    assert str(caught.value) == str(of_file.value)


def test_tables_open_by_project_and_by_path(project: Project) -> None:
    for source in (project, Path(project.config), project.config):
        assert mc.tables.open(source).frame("membranes").empty


def test_an_unknown_run_is_refused(project: Project) -> None:
    with pytest.raises(mc.MembrainCloudError, match="TS_9"):
        mc.plan(project, runs=["TS_9"])
