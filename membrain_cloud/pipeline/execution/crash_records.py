"""What tasks have cost so far: workers that died at them. Kept in the store, so that it outlives the driver.

    a worker died, others were at work on it too   suspected: goes on alone
    a worker died at this task alone               counted; `run.deaths` of them, and it is poison
    its machine was lost                           nobody's fault; only `run.losses` of them are too many

A poisoned task is failed, and is left alone by later runs until its inputs or settings change (its digest does), or
somebody asks for it (`run --retry-poison`).
"""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.pipeline.tasks import Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from membrain_cloud.store.run_state.receipts import Receipts

Cause = Literal["worker_died", "machine_lost", "driver_died"]
_KEPT = 20


@dataclass
class CrashRecord:
    """The attempts at one task that ended without a word from it."""

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
        """The failure of a task that has cost too much; None while it may be tried again."""
        if self.deaths >= self.most_deaths:
            message = f"the process at it died {self.deaths} times and did nothing else: most likely out of memory"
            cure = "give workers more memory, or take fewer; then run --retry-poison"
        elif self.losses >= self.most_losses:
            message = f"the machine it ran on was lost {self.losses} times"
            cure = "look at the machines (memory, spot prices); then run --retry-poison"
        else:
            return None
        return Outcome(self.stage, self.run, self.part, "failed", message, cure)


class CrashRecords:
    """The records of a project; without a store they last as long as this object."""

    def __init__(self, store: Receipts | None) -> None:
        self._store = store
        self._records: dict[str, CrashRecord] = {}

    def read(self, tasks: Iterable[Task]) -> dict[str, Outcome]:
        """Learn what the store knows, by one listing. Returns the failures of poisoned tasks, by their keys."""
        kept = self._store.names() if self._store is not None else set()
        poisoned = {}
        for task in tasks if kept else ():
            if _name(task) in kept and (record := self._read(task)) is not None:
                self._records[_name(task)] = record
                if (failure := record.failure()) is not None:
                    poisoned[task.key] = failure
        return poisoned

    def record(self, task: Task, cause: Cause, *, alone: bool, worker: str) -> CrashRecord:
        """Count an attempt that ended badly. The store is asked first: another run may have counted too."""
        record = self._read(task) or self._records.get(_name(task)) or _fresh(task)
        if cause == "machine_lost":
            record.losses += 1
        elif alone:
            record.deaths += 1
        else:
            record.suspicions += 1
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record.history.append({"when": when, "cause": cause, "alone": alone, "worker": worker})
        del record.history[:-_KEPT]
        self._records[_name(task)] = record
        if self._store is not None:
            with contextlib.suppress(MembrainCloudError):  # it is remembered here at least
                self._store.write(_name(task), asdict(record))
        return record

    def count(self, task: Task) -> int:
        """How many attempts at this task have ended badly so far."""
        record = self._records.get(_name(task))
        return 0 if record is None else record.deaths + record.suspicions + record.losses

    def forget(self, task: Task) -> None:
        """The task has ended by itself, well or badly: nothing is held against it."""
        if self._records.pop(_name(task), None) is not None and self._store is not None:
            with contextlib.suppress(MembrainCloudError):
                self._store.remove(_name(task))

    def _read(self, task: Task) -> CrashRecord | None:
        """None where there is none, or of other inputs or settings."""
        if self._store is None:
            return None
        try:
            kept = self._store.read(_name(task))
        except MembrainCloudError:
            return None
        if kept is None or kept.get("digest") != task.digest:
            return None
        known = {key: value for key, value in kept.items() if key in CrashRecord.__dataclass_fields__}
        limits = {"most_deaths": int(task.job.limit("deaths")), "most_losses": int(task.job.limit("losses"))}
        return CrashRecord(**(known | limits))


def _fresh(task: Task) -> CrashRecord:
    limits = (int(task.job.limit("deaths")), int(task.job.limit("losses")))
    return CrashRecord(task.digest, task.stage, task.run, task.part, most_deaths=limits[0], most_losses=limits[1])


def _name(task: Task) -> str:
    return f"{task.address}/{task.part}"
