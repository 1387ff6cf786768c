"""A run's log: one JSON object a line, for machines; our own events and every warning of the libraries below."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task

_LOGGER = logging.getLogger("membrain_cloud.run")
# Events of a run go to the log that was asked for, never to what another package has set up for the process.
_LOGGER.propagate = False
_LOGGER.addHandler(logging.NullHandler())


class RunLog:
    """Writes what run_tasks() observes. Every line has: time, level, event, run_id; of a task: run (the copick
    run), tomogram (type@spacing), stage, part, attempt, worker.
    """

    def __init__(self, plan: Plan) -> None:
        self.run_id = uuid.uuid4().hex[:12]
        self._attempts: Counter[str] = Counter()
        self._say("run_started", stages=list(plan.stages), tomograms=len(plan.runs), tasks=len(plan.tasks))
        for outcome in plan.outcomes:
            if outcome.state == "failed":
                self._say("refused", logging.ERROR, **_told(outcome), run=outcome.run, stage=outcome.stage)

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        """As run_tasks() tells it."""
        if event == "started" or (outcome is not None and outcome.state == "again"):
            self._attempts[task.key] += 1
        about: dict[str, Any] = {"run": task.run, "tomogram": task.place, "stage": task.stage, "part": task.part}
        about["attempt"] = max(1, self._attempts[task.key])
        level = logging.INFO
        if outcome is not None:
            about |= _told(outcome)
            level = {"failed": logging.ERROR, "again": logging.WARNING}.get(outcome.state, logging.INFO)
            if event == "finished":
                self._attempts.pop(task.key, None)
        self._say(f"task_{event}", level, **about)

    def end(self, summary: dict[str, int]) -> None:
        self._say("run_ended", **summary)

    def _say(self, event: str, level: int = logging.INFO, **about: Any) -> None:
        _LOGGER.log(level, event, extra={"about": {"run_id": self.run_id, **about}})


def _told(outcome: Outcome) -> dict[str, Any]:
    told: dict[str, Any] = {"state": outcome.state, "worker": outcome.worker, "seconds": outcome.seconds}
    told |= {"message": outcome.message, "next_step": outcome.next_step} if outcome.message else {}
    return told | {key: value for key, value in outcome.measured.items() if value}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower()}
        about = getattr(record, "about", None)
        if about is None:
            line |= {"event": "log", "logger": record.name, "message": record.getMessage()}
            if record.exc_info:
                line["traceback"] = self.formatException(record.exc_info)
        else:
            line |= {"event": record.getMessage(), **about}
        return json.dumps(line, default=str)


@contextlib.contextmanager
def log_to(file: str | None) -> Iterator[None]:
    """Write the log to a file ("-": standard error); None: nowhere. Raises UsageError where it cannot be written."""
    if file is None:
        yield
        return
    try:
        handler = logging.StreamHandler(sys.stderr) if file == "-" else logging.FileHandler(file)
    except OSError as error:
        raise UsageError(f"--log-file {file}: {error.strerror}", "give a file that can be written") from None
    handler.setFormatter(_Lines())
    handler.addFilter(lambda record: record.name == _LOGGER.name or record.levelno >= logging.WARNING)
    root, level = logging.getLogger(), _LOGGER.level
    root.addHandler(handler)
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)
        handler.close()
