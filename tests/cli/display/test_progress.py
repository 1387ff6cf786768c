"""Progress of a run and of single operations, where standard error is no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from membrain_cloud.cli.display.progress import Bar, Bars, Progress
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.pipeline.tasks import Outcome, Task

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def two_tasks(vesicles: Project) -> Plan:
    """Return a plan that separates the masks of two runs."""
    settings = load_settings(None, ["separate.segmentation=membrane:alice/3@10.0"])
    return plan(vesicles, settings, STAGES, stages=["separate"])


def outcome(task: Task, **values: object) -> Outcome:
    return Outcome(task.stage, task.run, task.part, **values)  # type: ignore[arg-type]


def test_finished_and_failed_tasks_are_lines(two_tasks: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = two_tasks.tasks
    with Progress(two_tasks, lambda: {"workers": {"cpu": 3}}) as progress:
        progress.observe("started", first, None)
        progress.observe(
            "finished", first, outcome(first, state="done", seconds=2.0, counts={"membranes": 4, "note": "x"})
        )
        progress.observe("started", second, None)
        failed = outcome(second, state="failed", message="mask: empty", next_step="give another")
        progress.observe("finished", second, failed)
        numbers = progress.numbers()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{first.run}: separate done in 2.0 s (membranes 4)",
        f"{second.run}: separate failed: mask: empty -> give another",
    ]
    assert numbers.startswith("1 failed, ")
    assert "3 workers" in numbers
    assert "left" in numbers


def test_a_bar_takes_steps_and_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("files") as bar:
        bar.update(1, 2)
    with Bars() as bars, bars.bar("one") as first, bars.bar("two") as second:
        first(1, 1)
        second(0, 5)
        with bars.paused():
            print("result")
    assert capsys.readouterr().out == "result\n"
