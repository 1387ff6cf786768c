"""Doing one task, wherever it runs: claim it, do the stage's work, write the receipt; try again what passes.

The order is what makes a run safe to kill at any moment: the receipt of an earlier result is removed before its output
is touched, and the new one is written last. So a receipt never vouches for anything but what lies there. A task that
another run has done meanwhile is skipped, one that another run is at is left to it.
"""

from __future__ import annotations

import random
import time
import traceback
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import ChunkError, MembrainCloudError, ProjectError, TransientError, storage_error
from membrain_cloud.pipeline.execution.crash_records import CrashRecords
from membrain_cloud.pipeline.execution.provenance import make_receipt
from membrain_cloud.pipeline.planning.receipt_index import remove_earlier_receipts
from membrain_cloud.pipeline.settings import Settings, settings_from
from membrain_cloud.pipeline.stages.base import TaskContext
from membrain_cloud.pipeline.tasks import Job, Outcome, Task
from membrain_cloud.redaction import without_keys
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.run_state.leases import Holder, Lease, Leases
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.run_state.receipts import Receipts

ATTEMPTS = 3
BACK_OFF_SECONDS = 1.0
_TAKEN_OVER = MembrainCloudError("another run has taken it over meanwhile")


@dataclass(frozen=True)
class Claim:
    """On whose behalf a task is done.

    token : of this attempt at it.  run_id : of the run.  worker : where.
    alone : nothing else is done in this process, nor by those who would notice: should it die, it was this task.
    take_over : the lease of an attempt that is known to be gone.
    """

    token: str
    run_id: str = ""
    worker: str = ""
    alone: bool = False
    take_over: str = ""


_checked: tuple[Job, Settings] | None = None


def _settings_of(job: Job) -> Settings:
    """Those of the last job are kept: the tasks of a run share one, and checking it takes longer than a small task."""
    global _checked
    known = _checked
    if known is None or known[0] != job:
        _checked = known = (job, settings_from(job.settings))
    return known[1]


def execute_task(
    task: Task, registry: Registry, *, claim: Claim | None = None, sleep: Callable[[float], None] = time.sleep
) -> Outcome:
    """Do a task and say what became of it. Raises nothing but what stops the process."""
    at_work = _Work(task, registry, claim or Claim(uuid.uuid4().hex))
    try:
        for attempt in range(1, ATTEMPTS + 1):
            outcome = at_work.attempt(attempt)
            if outcome is not None:
                return outcome
            sleep(BACK_OFF_SECONDS * 4 ** (attempt - 1) * random.uniform(0.75, 1.25))
        raise AssertionError("unreachable")
    finally:
        at_work.release()


class _Work:
    """One task in hand, over all attempts at it."""

    def __init__(self, task: Task, registry: Registry, claim: Claim) -> None:
        self.task, self.stage, self.claim = task, registry[task.stage], claim
        self.settings = _settings_of(task.job)
        self.started = time.monotonic()
        self.meters = {"project": Meter(), "tables": Meter()}
        self.retries: Counter[str] = Counter()
        self.gpu_seconds = 0.0
        self.lease: Lease | None = None
        self.inherited: CrashRecords | None = None

    def attempt(self, number: int) -> Outcome | None:
        """The outcome; None where it should be tried again."""
        last = number == ATTEMPTS
        try:
            return self._once(number)
        except TransientError as error:
            if last:
                lasting = TransientError(f"{error.message} ({ATTEMPTS} attempts)", error.next_step)
                return self._outcome("failed", lasting, passing=True)
        except MembrainCloudError as error:
            if not self._is_in_the_making(error):
                return self._outcome("failed", error)
            if last:
                return self._outcome("failed", error, passing=True)
        except MemoryError as error:
            cause = f"out of memory ({error})" if str(error) else "out of memory"
            cure = "take fewer workers, so that each has more memory"
            return self._outcome("failed", MembrainCloudError(cause, cure))
        except OSError as error:
            known = storage_error(error, self.task.key)
            passes = isinstance(known, TransientError)
            if last or not passes:
                return self._outcome("failed", known, trace=without_keys(traceback.format_exc()), passing=passes)
        except Exception as error:
            what, cure = f"{type(error).__name__}: {error}", "this is a bug: please report it with `failures --debug`"
            return self._outcome("failed", MembrainCloudError(what, cure), trace=without_keys(traceback.format_exc()))
        self.retries["store"] += 1
        return None

    def _is_in_the_making(self, error: MembrainCloudError) -> bool:
        """Whether what is missing is the output of a stage before, which another run may be writing anew just now.

        It has happened where a store knows no conditional writes, so that two runs do one task: the results are the
        same, but while the second one writes them they are not whole.
        """
        return bool(self.task.needs) and isinstance(error, ChunkError | ProjectError)

    def release(self) -> None:
        if self.lease is not None:
            self.lease.release()

    def _once(self, number: int) -> Outcome:
        started = time.monotonic()
        task, stage = self.task, self.stage
        self.meters = {"project": Meter(late=True), "tables": Meter()}
        opened = open_project(task.job.config)
        project = opened.metered(self.meters["project"])
        tables = open_tables(opened, self.settings.output.tables).metered(self.meters["tables"])
        receipts = tables.receipts if stage.keeps_receipts_in == "tables" else opened.receipts
        if self.lease is None and (elsewhere := self._take(receipts, opened)) is not None:
            return elsewhere
        if number > 1 and not self._is_still_ours():  # two that do one task would spoil it for each other on and on
            return self._outcome("held", _TAKEN_OVER)
        if receipts.has(task.receipt):
            self._forgive()
            return self._outcome("skipped")
        remove_earlier_receipts(receipts, task, self.settings)
        context = TaskContext(project, tables, self.settings, receipts, task, self.meters["project"])
        try:
            counts = dict(stage.execute(context))
        finally:
            context.gpu_turn.release()
            self.gpu_seconds += context.gpu_turn.seconds
        self.meters["project"].flush()
        if not self._is_still_ours():
            return self._outcome("held", _TAKEN_OVER)
        seconds = time.monotonic() - started
        receipts.write(task.receipt, make_receipt(context, stage, counts, self.meters, seconds=seconds, attempt=number))
        self._forgive()
        return self._outcome("done", counts=counts)

    def _is_still_ours(self) -> bool:
        return self.lease is None or self.lease.is_held()

    def _take(self, receipts: Receipts, project: Project) -> Outcome | None:
        """Claim the task. An outcome where somebody else is at it, or where it has cost too many processes."""
        task, claim = self.task, self.claim
        facts = {
            "stage": task.stage,
            "run": task.run,
            "part": task.part,
            "digest": task.digest,
            "run_id": claim.run_id,
            "worker": claim.worker,
            "alone": claim.alone,
        }
        leases = Leases(receipts.beside("leases"))
        self.lease, other = leases.claim(f"{task.address}/{task.part}", claim.token, facts, claim.take_over)
        if self.lease is None:
            assert other is not None
            if receipts.has(task.receipt):  # it has just done it, or died before it could let go
                return self._outcome("skipped")
            return self._outcome("held", MembrainCloudError(other.state))
        if other is not None and other.token != claim.take_over:
            self.inherited = CrashRecords(project.receipts.sibling("attempts"))
            return self._inherit(other, self.inherited)
        return None

    def _inherit(self, dead: Holder, attempts: CrashRecords) -> Outcome | None:
        """The last one at it vanished with the run that would have noticed: count that before it happens again."""
        alone = bool(dead.facts.get("alone")) and dead.is_dead()
        cause: Any = "driver_died" if alone else "machine_lost"
        found = attempts.record(self.task, cause, alone=alone, worker=str(dead.facts.get("worker", "")))
        return found.failure()

    def _forgive(self) -> None:
        """The task is done: nothing is held against it."""
        if self.inherited is not None:
            self.inherited.forget(self.task)

    def _outcome(
        self,
        state: Any,
        error: MembrainCloudError | None = None,
        *,
        counts: Any = None,
        trace: str = "",
        passing: bool = False,
    ) -> Outcome:
        task = self.task
        message, next_step = (error.message, error.next_step) if error else ("", "")
        measured = {
            "voxels": task.voxels if task.completes and state == "done" else 0,
            "bytes_read": sum(meter.bytes_read for meter in self.meters.values()),
            "bytes_written": sum(meter.bytes_written for meter in self.meters.values()),
            "gpu_seconds": round(self.gpu_seconds, 3),
            "retries": self.retries.total(),
        }
        return Outcome(
            task.stage,
            task.run,
            task.part,
            state,
            message,
            next_step,
            round(time.monotonic() - self.started, 3),
            counts or {},
            trace,
            passing,
            self.claim.worker,
            measured,
        )
