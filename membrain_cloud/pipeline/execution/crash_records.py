"""Count the attempts at a task that killed its worker. The counts are kept in the store and outlive the driver.

    a worker died, with other tasks at work      a suspicion: the task is retried alone
    a worker died with this task alone           a death: after `run.deaths` of them the task has failed
    the machine was lost                         a loss: after `run.losses` of them the task has failed

A task that failed in this way (a poisoned task) is left out of later runs until its inputs or settings, and so its
digest, change, or until the user asks for a retry.
"""

from __future__ import annotations

import contextlib
import datetime
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.pipeline.tasks import Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from membrain_cloud.store.run_state.receipts import Receipts

Cause = Literal["worker_died", "machine_lost", "driver_died"]
_HISTORY_LENGTH = 20


# Requests to the store at once.
CONCURRENT_REQUESTS = 32


@dataclass(frozen=True)
class Crash:
    """An attempt at a task that ended without an outcome.

    Attributes
    ----------
    task : Task
        The task.
    cause : str
        What ended the attempt.
    alone : bool
        Whether the worker did nothing else.
    worker : str
        Address of the worker.
    """

    task: Task
    cause: Cause
    alone: bool
    worker: str


@dataclass
class CrashRecord:
    """The attempts at one task that ended without an outcome. The fields are the keys of the stored record.

    Attributes
    ----------
    digest : str
        Digest of the task; a record of another digest does not count.
    stage, run, part : str
        The task.
    deaths : int
        Workers that died with this task alone.
    suspicions : int
        Workers that died with this task and others.
    losses : int
        Machines that were lost.
    most_deaths, most_losses : int
        At these counts the task has failed.
    history : list of dict
        The last 20 attempts: when, cause, alone, worker.
    """

    digest: str
    stage: str
    run: str
    part: str
    deaths: int = 0
    suspicions: int = 0
    losses: int = 0
    most_deaths: int = 3
    most_losses: int = 6
    history: list[dict[str, Any]] = field(default_factory=list)

    def failure(self) -> Outcome | None:
        """Return the failure of a task that has reached a limit; None while it may be retried."""
        if self.deaths >= self.most_deaths:
            message = f"its process died {self.deaths} times and did nothing else: most likely out of memory"
            cure = "give workers more memory, or take fewer; then run again with retry_poison"
        elif self.losses >= self.most_losses:
            message = f"the machine it ran on was lost {self.losses} times"
            cure = "check the machines (memory, spot prices); then run again with retry_poison"
        else:
            return None
        return Outcome(self.stage, self.run, self.part, "failed", message, cure)


class CrashRecords:
    """The crash records of a project.

    Parameters
    ----------
    store : Receipts or None
        Where they are kept. None: they last as long as this object.
    """

    def __init__(self, store: Receipts | None) -> None:
        self._store = store
        self._records: dict[str, CrashRecord] = {}

    def read(self, tasks: Iterable[Task]) -> dict[str, Outcome]:
        """Read the stored records of some tasks, with one listing.

        Parameters
        ----------
        tasks : iterable of Task
            The tasks.

        Returns
        -------
        dict of str to Outcome
            Key of each poisoned task -> its failure.
        """
        names = self._store.names() if self._store is not None else set()
        poisoned = {}
        for task in tasks if names else ():
            if _name(task) in names and (record := self._read(task)) is not None:
                self._records[_name(task)] = record
                if (failure := record.failure()) is not None:
                    poisoned[task.key] = failure
        return poisoned

    def record_all(self, crashes: Sequence[Crash]) -> list[CrashRecord]:
        """Count attempts that ended without an outcome, with concurrent requests to the store.

        A count goes on top of the stored one: another run may have counted too.

        Parameters
        ----------
        crashes : sequence of Crash
            The attempts, of any number of tasks: the loss of a zone ends thousands at once.

        Returns
        -------
        list of CrashRecord
            The records with these attempts, in the same order.
        """
        by_task: dict[str, list[int]] = {}
        for index, crash in enumerate(crashes):
            by_task.setdefault(_name(crash.task), []).append(index)

        def record_task(indices: Sequence[int]) -> list[tuple[int, CrashRecord]]:
            return [(index, self.record(crashes[index])) for index in indices]

        if self._store is None or len(by_task) < 2:
            return [self.record(crash) for crash in crashes]
        with ThreadPoolExecutor(min(CONCURRENT_REQUESTS, len(by_task))) as threads:
            records = dict(entry for entries in threads.map(record_task, by_task.values()) for entry in entries)
        return [records[index] for index in range(len(crashes))]

    def record(self, crash: Crash) -> CrashRecord:
        """Count an attempt that ended without an outcome; see `record_all`.

        Parameters
        ----------
        crash : Crash
            The attempt.

        Returns
        -------
        CrashRecord
            The record with this attempt.
        """
        task, cause, alone, worker = crash.task, crash.cause, crash.alone, crash.worker
        record = self._read(task) or self._records.get(_name(task)) or _new_record(task)
        if cause == "machine_lost":
            record.losses += 1
        elif alone:
            record.deaths += 1
        else:
            record.suspicions += 1
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record.history.append({"when": when, "cause": cause, "alone": alone, "worker": worker})
        del record.history[:-_HISTORY_LENGTH]
        self._records[_name(task)] = record
        if self._store is not None:
            with contextlib.suppress(MembrainCloudError):  # it is still counted in this run
                self._store.write(_name(task), asdict(record))
        return record

    def count(self, task: Task) -> int:
        """Return the number of attempts at a task that ended without an outcome.

        Parameters
        ----------
        task : Task
            The task.
        """
        record = self._records.get(_name(task))
        return 0 if record is None else record.deaths + record.suspicions + record.losses

    def forget(self, task: Task) -> None:
        """Remove the record of a task that has ended with an outcome of its own.

        Parameters
        ----------
        task : Task
            The task.
        """
        if self._records.pop(_name(task), None) is not None and self._store is not None:
            with contextlib.suppress(MembrainCloudError):
                self._store.remove(_name(task))

    def _read(self, task: Task) -> CrashRecord | None:
        """Return the stored record; None where there is none for these inputs and settings."""
        if self._store is None:
            return None
        try:
            stored = self._store.read(_name(task))
        except MembrainCloudError:
            return None
        if stored is None or stored.get("digest") != task.digest:
            return None
        fields = {key: value for key, value in stored.items() if key in CrashRecord.__dataclass_fields__}
        most_deaths, most_losses = _limits(task)
        return CrashRecord(**(fields | {"most_deaths": most_deaths, "most_losses": most_losses}))


def _limits(task: Task) -> tuple[int, int]:
    return int(task.job.limit("deaths")), int(task.job.limit("losses"))


def _new_record(task: Task) -> CrashRecord:
    most_deaths, most_losses = _limits(task)
    return CrashRecord(task.digest, task.stage, task.run, task.part, most_deaths=most_deaths, most_losses=most_losses)


def _name(task: Task) -> str:
    return f"{task.address}/{task.part}"
