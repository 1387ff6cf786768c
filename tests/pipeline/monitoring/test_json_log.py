"""The log of a run as JSON lines."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.monitoring.json_log import RunLog, log_to
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_events_have_the_task_its_attempt_and_its_outcome(project: Project, registry: Registry, tmp_path: Path) -> None:
    made, file = plan(project, Settings(), registry), tmp_path / "log.jsonl"
    task = made.tasks[0]
    with log_to(str(file)):
        log = RunLog(made)
        log.observe("started", task, None)
        log.observe("again", task, Outcome("mask", "TS_1", "whole", "again", "worker_died"))
        log.observe("finished", task, Outcome("mask", "TS_1", "whole", "failed", "no file", "make it", worker="w1"))
        log.end({"failed": 1, "done": 2})
        logging.getLogger("some.library").warning("careful")
        logging.getLogger("some.library").info("not logged")
    started, first, again, failed, ended, warning = lines(file)
    assert (started["event"], started["tasks"], started["tomograms"]) == ("run_started", 6, 3)
    assert first.items() >= {"event": "task_started", "run": "TS_1", "tomogram": "wbp@10.000", "attempt": 1}.items()
    assert (again["event"], again["level"], again["attempt"]) == ("task_again", "warning", 2)
    assert (
        failed.items() >= {"event": "task_finished", "level": "error", "next_step": "make it", "worker": "w1"}.items()
    )
    assert ended.items() >= {"event": "run_ended", "failed": 1, "done": 2}.items()
    assert warning.items() >= {"event": "log", "logger": "some.library", "message": "careful"}.items()
    assert len({line["run_id"] for line in (started, first, again, failed, ended)}) == 1


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="log file"), log_to(str(tmp_path / "no" / "such" / "folder")):
        pass
