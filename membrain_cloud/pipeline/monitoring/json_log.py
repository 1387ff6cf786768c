"""Write a run's log as JSON lines: events of the run, and warnings of all libraries."""

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
    """The log of one run.

    Every line has time, level, event and run_id; a line about a task has run (the copick run), tomogram
    (type@spacing), stage, part, attempt and worker.

    Parameters
    ----------
    plan : Plan
        The plan; the start of the run and refused stages are logged at once.
    """

    def __init__(self, plan: Plan) -> None:
        self.run_id = uuid.uuid4().hex[:12]
        self._attempts: Counter[str] = Counter()
        self._log("run_started", stages=list(plan.stages), tomograms=len(plan.runs), tasks=len(plan.tasks))
        for outcome in plan.outcomes:
            if outcome.state == "failed":
                self._log("refused", logging.ERROR, **_fields(outcome), run=outcome.run, stage=outcome.stage)

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        """Log an event of a task; an `execution.runner.Observer`.

        Parameters
        ----------
        event : str
            "started", "finished", "again" or "held".
        task : Task
            The task.
        outcome : Outcome or None
            Its outcome; None for "started".
        """
        if event == "started" or (outcome is not None and outcome.state == "again"):
            self._attempts[task.key] += 1
        fields: dict[str, Any] = {"run": task.run, "tomogram": task.place, "stage": task.stage, "part": task.part}
        fields["attempt"] = max(1, self._attempts[task.key])
        level = logging.INFO
        if outcome is not None:
            fields |= _fields(outcome)
            level = {"failed": logging.ERROR, "again": logging.WARNING}.get(outcome.state, logging.INFO)
            if event == "finished":
                self._attempts.pop(task.key, None)
        self._log(f"task_{event}", level, **fields)

    def end(self, summary: dict[str, int]) -> None:
        """Log the end of the run with the numbers of tomograms by state.

        Parameters
        ----------
        summary : dict of str to int
            State -> number of tomograms.
        """
        self._log("run_ended", **summary)

    def _log(self, event: str, level: int = logging.INFO, **fields: Any) -> None:
        _LOGGER.log(level, event, extra={"about": {"run_id": self.run_id, **fields}})


def _fields(outcome: Outcome) -> dict[str, Any]:
    fields: dict[str, Any] = {"state": outcome.state, "worker": outcome.worker, "seconds": outcome.seconds}
    fields |= {"message": outcome.message, "next_step": outcome.next_step} if outcome.message else {}
    return fields | {key: value for key, value in outcome.measured.items() if value}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower()}
        fields = getattr(record, "about", None)
        if fields is None:
            line |= {"event": "log", "logger": record.name, "message": record.getMessage()}
            if record.exc_info:
                line["traceback"] = self.formatException(record.exc_info)
        else:
            line |= {"event": record.getMessage(), **fields}
        return json.dumps(line, default=str)


@contextlib.contextmanager
def log_to(file: str | None) -> Iterator[None]:
    """Write the log to a file while the context lasts.

    Parameters
    ----------
    file : str or None
        The file, "-" for standard error, or None for no log.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    if file is None:
        yield
        return
    try:
        handler = logging.StreamHandler(sys.stderr) if file == "-" else logging.FileHandler(file)
    except OSError as error:
        raise UsageError(f"log file {file}: {error.strerror}", "give a file that can be written") from None
    handler.setFormatter(_JsonFormatter())
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
