"""Plans: tasks, digests, sessions, and what is done, refused or blocked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings, load_settings
from membrain_cloud.pipeline.tasks import Outcome, Task
from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def run(project: Project, registry: Registry, *overrides: str, **how: object) -> tuple[Plan, list[Outcome]]:
    settings = load_settings(None, overrides)
    made = plan(project, settings, registry, **how)  # type: ignore[arg-type]
    return made, execute_plan(project, settings, made, InProcessRunner(), registry)


def states(outcomes: list[Outcome]) -> list[tuple[str, str, str]]:
    return [(outcome.run, outcome.stage, outcome.state) for outcome in outcomes]


def test_tasks_survive_json(project: Project, registry: Registry) -> None:
    import json

    for task in plan(project, Settings(), registry).tasks:
        assert Task.from_dict(json.loads(json.dumps(task.as_dict()))) == task


def test_tasks_are_in_order_and_have_their_needs(project: Project, registry: Registry) -> None:
    made = plan(project, Settings(), registry)
    assert [task.key for task in made.tasks][:2] == ["mask/TS_1/whole", "size/TS_1/whole"]
    assert made.tasks[1].needs == ("mask/TS_1/whole",)
    assert made.sessions["mask"] != made.sessions["size"]


def test_a_second_run_does_nothing(project: Project, registry: Registry) -> None:
    _, first = run(project, registry)
    assert {state for _, _, state in states(first)} == {"done"}
    made, second = run(project, registry)
    assert made.tasks == ()
    assert {state for _, _, state in states(second)} == {"skipped"}


def test_a_changed_setting_redoes_what_depends_on_it(project: Project, registry: Registry) -> None:
    run(project, registry)
    later, _ = run(project, registry, "separate.min_voxels=7")
    assert {task.stage for task in later.tasks} == {"size"}
    earlier, _ = run(project, registry, "segment.threshold=0.1")
    assert {task.stage for task in earlier.tasks} == {"mask", "size"}
    unrelated, _ = run(project, registry, "measure.cutoff_nm=3")
    assert unrelated.tasks == ()
    back, _ = run(project, registry)
    assert back.tasks == ()


def test_a_changed_tomogram_is_redone_alone(project: Project, registry: Registry) -> None:
    run(project, registry)
    project.write_tomogram(TomogramRef("TS_2", "wbp", 10.0), np.ones((8, 10, 12), np.float32) * 3)
    made = plan(project, Settings(), registry)
    assert [task.key for task in made.tasks] == ["mask/TS_2/whole", "size/TS_2/whole"]


def test_a_named_session_is_replaced_as_a_whole(project: Project, registry: Registry) -> None:
    for threshold in ("0", "1", "0"):
        made, outcomes = run(
            project, registry, "output.session=mine", "output.replace=yes", f"segment.threshold={threshold}"
        )
        assert len(made.tasks) == 6
        assert {outcome.state for outcome in outcomes} == {"done"}
    assert made.sessions == {"mask": "mine", "size": "mine"}


def test_an_interrupted_rewrite_leaves_nothing_that_looks_done(project: Project, registry: Registry) -> None:
    """Threshold 0 is done; threshold 1 dies between output and receipt; threshold 0 must be done again."""
    run(project, registry, "output.session=mine")
    settings = load_settings(None, ["output.session=mine", "segment.threshold=1", "output.replace=yes"])
    task = plan(project, settings, registry).tasks[0]

    class Dies(type(registry["mask"])):  # type: ignore[misc]
        def execute(self, context: object) -> dict[str, int]:
            super().execute(context)
            raise SystemExit

    from membrain_cloud.pipeline.execution.execute_task import execute_task

    with pytest.raises(SystemExit):
        execute_task(task, {**registry, "mask": Dies()})
    again, _ = run(project, registry, "output.session=mine")
    assert [task.key for task in again.tasks] == ["mask/TS_1/whole"]


def test_only_some_runs_and_stages(project: Project, registry: Registry) -> None:
    made, outcomes = run(project, registry, runs=["TS_2"], stages=["mask"])
    assert states(outcomes) == [("TS_2", "mask", "done")]
    made = plan(project, Settings(), registry, runs=["TS_2", "TS_3"], stages=["size"])
    assert [task.key for task in made.tasks] == ["size/TS_2/whole"]
    (refused,) = made.outcomes
    assert (refused.run, refused.stage, refused.state) == ("TS_3", "size", "failed")
    assert "include the stage mask" in refused.next_step


def test_unknown_names_are_refused(project: Project, registry: Registry) -> None:
    with pytest.raises(ProjectError) as caught:
        plan(project, Settings(), registry, runs=["TS_4"])
    assert "TS_1" in caught.value.next_step
    with pytest.raises(UsageError, match="no stage 'siz'"):
        plan(project, Settings(), registry, stages=["siz"])


def test_a_bad_tomogram_fails_alone_with_its_cause(project: Project, registry: Registry) -> None:
    folder = Path(project.root_url) / "ExperimentRuns" / "TS_2" / "VoxelSpacing10.000" / "wbp.zarr"
    (folder / "0" / ".zarray").write_text("{")
    made, outcomes = run(project, registry)
    assert sorted(states(outcomes))[2:4] == [("TS_2", "mask", "failed"), ("TS_2", "size", "blocked")]
    assert {state for name, _, state in states(outcomes) if name != "TS_2"} == {"done"}
    assert "TS_2" in made.outcomes[0].message


def test_a_run_without_a_tomogram_fails_alone(project: Project, registry: Registry) -> None:
    shutil.rmtree(Path(project.root_url) / "ExperimentRuns" / "TS_2" / "VoxelSpacing10.000")
    _, outcomes = run(project, registry)
    (failed,) = [outcome for outcome in outcomes if outcome.state == "failed"]
    assert failed.run == "TS_2"
    assert "no tomogram" in failed.message


def test_too_little_memory_is_refused_with_numbers(project: Project, registry: Registry) -> None:
    made = plan(project, Settings(), registry, worker_memory_bytes=500_000)
    assert made.tasks == ()
    assert made.outcomes[0].state == "failed"
    assert "GiB" in made.outcomes[0].message
    assert made.outcomes[1].state == "blocked"


def test_a_bad_run_name_fails_alone(project: Project, registry: Registry) -> None:
    (Path(project.root_url) / "ExperimentRuns" / "a run").mkdir()
    made = plan(project, Settings(), registry)
    assert [outcome.run for outcome in made.outcomes] == ["a run"]
    assert len(made.tasks) == 6


def test_failures_are_kept_until_their_stage_succeeds(project: Project, registry: Registry) -> None:
    from membrain_cloud.pipeline.execution.failure_log import FailureLog

    order = Path(project.config).with_name("order-TS_2")
    order.write_text("bug")
    _, outcomes = run(project, registry)
    assert [s for n, _, s in states(outcomes) if n == "TS_2"] == ["failed", "blocked"]
    (record,) = FailureLog(project.receipts).records()
    assert record["message"] == "ZeroDivisionError: a bug"
    assert "raise ZeroDivisionError" in record["traceback"]
    order.unlink()
    run(project, registry)
    assert FailureLog(project.receipts).records() == []
