"""Outcomes, states, failures and checked outputs on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.cli.display import outcomes
from membrain_cloud.pipeline.maintenance.verify import Finding
from membrain_cloud.pipeline.monitoring.activity import Activity
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.pipeline.tasks import Outcome

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.store.projects.project import Project

FAILURE: dict[str, Any] = {"run": "TS_1", "stage": "mesh", "message": "no membrane", "next_step": "lower the threshold"}
FAILURE |= {"when": "2026-01-01T00:00:00", "traceback": "Traceback: line 1"}


@pytest.fixture
def meshes(vesicles: Project) -> Plan:
    """Return a plan that separates and meshes the masks of TS_1 and TS_2."""
    settings = load_settings(None, ["separate.segmentation=membrane:alice/3@10.0"])
    return plan(vesicles, settings, STAGES, stages=["separate", "mesh"])


def test_a_run_is_summed_up_by_state(meshes: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    results = [Outcome("mesh", "TS_1", "whole", "done"), Outcome("mesh", "TS_2", "whole", "failed", "m", "n")]
    content = outcomes.run_as_dict(meshes, results)
    assert set(content) == {"stages", "sessions", "tables", "summary", "outcomes"}
    assert content["summary"] == {"done": 1, "skipped": 0, "failed": 1, "blocked": 0}
    outcomes.show_summary(meshes, results)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("1 done, 0 skipped, 1 failed, 0 blocked; tables: ")
    assert lines[1].endswith(f"membrain-cloud failures {meshes.job.config}")


def test_the_grid_has_the_state_of_each_stage(meshes: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    grid = outcomes.status_grid(meshes, [FAILURE])
    assert grid == {
        "TS_1": {"separate": "to do", "mesh": "failed"},
        "TS_2": {"separate": "to do", "mesh": "to do"},
    }
    outcomes.show_status(meshes, grid)
    printed = capsys.readouterr()
    assert "TS_2" in printed.out
    assert printed.err == "separate 0/2, mesh 0/2\n"


def test_tasks_that_are_executed_and_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    task = {"run": "TS_1", "stage": "mesh", "part": "whole", "worker": "tcp://10.0.0.7:4000"}
    outcomes.show_activity(Activity([task], [task, task], 120.0, 90.0))
    printed = capsys.readouterr()
    assert "tcp://10.0.0.7:4000" in printed.out
    assert printed.err.splitlines() == [
        "2 tasks were left behind by stopped runs; the next run takes them over",
        "120 tasks an hour, 0:01:30 left",
    ]
    outcomes.show_activity(Activity([], [], 120.0, None))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("with_tracebacks", [False, True])
def test_failures_have_cause_and_next_step(capsys: pytest.CaptureFixture[str], with_tracebacks: bool) -> None:
    outcomes.show_failures([FAILURE], with_tracebacks=with_tracebacks)
    printed = capsys.readouterr()
    assert "no membrane" in printed.out
    assert "lower the threshold" in printed.out
    assert ("line 1" in printed.err) == with_tracebacks
    outcomes.show_failures([], with_tracebacks=with_tracebacks)
    assert capsys.readouterr().err == "no failures\n"


@pytest.mark.parametrize(
    ("finding", "forgotten", "line"),
    [
        (
            Finding("receipt", "mesh", "missing"),
            False,
            "missing or torn outputs -> verify --forget-missing, then run again",
        ),
        (Finding("receipt", "mesh", "torn"), True, "missing or torn outputs -> run again to make them"),
        (Finding("", "mesh", "foreign"), False, "outputs without a receipt -> membrain-cloud clean"),
    ],
)
def test_findings_end_with_the_next_step(
    capsys: pytest.CaptureFixture[str], finding: Finding, forgotten: bool, line: str
) -> None:
    outcomes.show_findings([Finding("receipt", "mask", "ok"), finding], forgotten=forgotten)
    printed = capsys.readouterr()
    assert "mask" not in printed.out
    assert finding.state in printed.out
    assert printed.err.splitlines()[-1] == line
