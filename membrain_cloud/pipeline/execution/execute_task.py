"""Execute one task, wherever it runs: on a Dask worker or in the driver's process.

The life of a task:

1. Claim its lease. Another run has it: the outcome is "held", and the driver looks again later.
2. Look for its receipt. It is there: the outcome is "skipped".
3. Remove the receipts of earlier results at its address.
4. Run the stage: read, compute, write.
5. Flush what was written, and check that the lease is still ours.
6. Write the receipt.
7. Release the lease.

So a run may be killed at any moment: a receipt is removed before its output is touched and written after it is whole,
and never describes anything but what lies there.

Retries, from the inside out:

- The store retries single requests (store/objects).
- Here a transient error (`TransientError`, or an `OSError` that is one) makes steps 2 to 6 start again, 3 attempts in
  all with growing pauses. So does a chunk or an annotation of the stage before that is missing: another run may be
  writing it anew.
- The driver queues a task whose last error was transient again, `run.requeues` times (execution/driver.py).
- A worker that dies or hangs gives its tasks back to the runner (runners/, execution/crash_records.py).
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
from membrain_cloud.pipeline.execution.crash_records import Cause, Crash, CrashRecords
from membrain_cloud.pipeline.execution.provenance import make_receipt
from membrain_cloud.pipeline.planning.receipt_index import remove_earlier_receipts
from membrain_cloud.pipeline.settings import Settings, settings_from
from membrain_cloud.pipeline.stages.base import TaskContext
from membrain_cloud.pipeline.tasks import Job, Outcome, State, Task
from membrain_cloud.redaction import without_keys
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.run_state.leases import Holder, Lease, Leases
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.run_state.receipts import Receipts

ATTEMPTS = 3
"""Attempts at a task on one worker."""

BACK_OFF_SECONDS = 1.0
"""Pause before the second attempt, four times as long before the next, with jitter."""

_TAKEN_OVER = MembrainCloudError("another run has taken the task over")


@dataclass(frozen=True)
class Claim:
    """On whose behalf a task is executed.

    Attributes
    ----------
    token : str
        Identifier of this attempt.
    run_id : str
        Identifier of the run.
    worker : str
        Name of the worker.
    alone : bool
        Whether nothing else runs in this process, nor whoever would notice its death: if it dies, the task did it.
    take_over : str
        Token of a lease whose holder is known to be gone; empty: none.
    """

    token: str
    run_id: str = ""
    worker: str = ""
    alone: bool = False
    take_over: str = ""


class _SettingsCache:
    """The checked settings of the last job: all tasks of a run share one, and checking takes longer than a task may."""

    def __init__(self) -> None:
        self._last: tuple[Job, Settings] | None = None

    def settings_of(self, job: Job) -> Settings:
        last = self._last  # read once: threads share the cache
        if last is None or last[0] != job:
            self._last = last = (job, settings_from(job.settings))
        return last[1]


_SETTINGS = _SettingsCache()


def execute_task(
    task: Task, registry: Registry, *, claim: Claim | None = None, sleep: Callable[[float], None] = time.sleep
) -> Outcome:
    """Execute a task. Errors become its outcome; nothing is raised but what stops the process.

    Parameters
    ----------
    task : Task
        The task.
    registry : mapping of str to Stage
        All stages.
    claim : Claim or None
        On whose behalf. Default: a claim with a new token.
    sleep : callable
        Waits some seconds before a retry. Default: `time.sleep`.

    Returns
    -------
    Outcome
        done, skipped (its receipt is there), held (another run has its lease) or failed.
    """
    execution = _Execution(task, registry, claim or Claim(uuid.uuid4().hex))
    try:
        for attempt in range(1, ATTEMPTS + 1):
            outcome = execution.attempt(attempt)
            if outcome is not None:
                return outcome
            sleep(BACK_OFF_SECONDS * 4 ** (attempt - 1) * random.uniform(0.75, 1.25))
        raise AssertionError("unreachable")
    finally:
        execution.release()


@dataclass(frozen=True)
class _Failure:
    """Why an attempt failed, whether a retry may help, and the traceback of an unexpected error."""

    error: MembrainCloudError
    is_transient: bool = False
    trace: str = ""


class _Execution:
    """The execution of one task, over all attempts."""

    def __init__(self, task: Task, registry: Registry, claim: Claim) -> None:
        self.task, self.stage, self.claim = task, registry[task.stage], claim
        self.settings = _SETTINGS.settings_of(task.job)
        self.started = time.monotonic()
        self.meters = {"project": Meter(), "tables": Meter()}
        self.retries: Counter[str] = Counter()
        self.gpu_seconds = 0.0
        self.lease: Lease | None = None
        self.inherited_records: CrashRecords | None = None

    def attempt(self, number: int) -> Outcome | None:
        """Return the outcome of an attempt; None where the task should be retried."""
        try:
            return self._execute(number)
        except Exception as error:
            failure = self._classify(error)
        if number == ATTEMPTS or not failure.is_transient:
            return self._outcome("failed", failure.error, trace=failure.trace, is_transient=failure.is_transient)
        self.retries["store"] += 1
        return None

    def _classify(self, error: Exception) -> _Failure:
        """Translate an error of an attempt into one of ours, and decide whether a retry may help."""
        if isinstance(error, TransientError):
            return _Failure(TransientError(f"{error.message} ({ATTEMPTS} attempts)", error.next_step), True)
        if isinstance(error, MembrainCloudError):
            return _Failure(error, self._may_be_being_rewritten(error))
        if isinstance(error, MemoryError):
            cause = f"out of memory ({error})" if str(error) else "out of memory"
            return _Failure(MembrainCloudError(cause, "take fewer workers, so that each has more memory"))
        trace = without_keys("".join(traceback.format_exception(error)))
        if isinstance(error, OSError):
            translated = storage_error(error, self.task.key)
            return _Failure(translated, isinstance(translated, TransientError), trace)
        cure = "this is a bug: please report it with the traceback that `membrain-cloud failures` prints for debugging"
        return _Failure(MembrainCloudError(f"{type(error).__name__}: {error}", cure), trace=trace)

    def _may_be_being_rewritten(self, error: MembrainCloudError) -> bool:
        """Return whether an error is the absence of an upstream output that another run may be writing anew.

        Where a store has no conditional writes, two runs may do one task. Their results are the same, but while the
        second one writes them they are incomplete.
        """
        return bool(self.task.needs) and isinstance(error, ChunkError | ProjectError)

    def release(self) -> None:
        """Release the lease, if it is ours."""
        if self.lease is not None:
            self.lease.release()

    def _execute(self, number: int) -> Outcome:
        """Do steps 1 to 6 of the module's list."""
        started = time.monotonic()
        task, stage = self.task, self.stage
        self.meters = {"project": Meter(late=True), "tables": Meter()}
        plain_project = open_project(task.job.config, checked=True)
        project = plain_project.metered(self.meters["project"])
        tables = open_tables(plain_project, self.settings.output.tables).metered(self.meters["tables"])
        receipts = tables.receipts if stage.keeps_receipts_in == "tables" else plain_project.receipts
        if self.lease is None and (outcome := self._claim(receipts, plain_project)) is not None:
            return outcome
        if number > 1 and not self._is_still_ours():  # two runs on one task would spoil it for each other on and on
            return self._outcome("held", _TAKEN_OVER)
        if receipts.has(task.receipt):
            self._forget_inherited()
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
        self._forget_inherited()
        return self._outcome("done", counts=counts)

    def _is_still_ours(self) -> bool:
        return self.lease is None or self.lease.is_held()

    def _claim(self, receipts: Receipts, project: Project) -> Outcome | None:
        """Claim the lease. Return an outcome where another run has it, or where the task is poisoned."""
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
            if receipts.has(task.receipt):  # its holder has just done it, or died before releasing the lease
                return self._outcome("skipped")
            return self._outcome("held", MembrainCloudError(other.state))
        if other is not None and other.token != claim.take_over:
            self.inherited_records = CrashRecords(project.receipts.sibling("attempts"))
            return self._count_lost_attempt(other, self.inherited_records)
        return None

    def _count_lost_attempt(self, previous: Holder, records: CrashRecords) -> Outcome | None:
        """Count the attempt of a holder that vanished together with its driver; return a failure at the limit."""
        alone = bool(previous.facts.get("alone")) and previous.is_dead()
        cause: Cause = "driver_died" if alone else "machine_lost"
        record = records.record(Crash(self.task, cause, alone, str(previous.facts.get("worker", ""))))
        return record.failure()

    def _forget_inherited(self) -> None:
        """Remove the counts of lost attempts: the task is done."""
        if self.inherited_records is not None:
            self.inherited_records.forget(self.task)

    def _outcome(
        self,
        state: State,
        error: MembrainCloudError | None = None,
        *,
        counts: Mapping[str, Any] | None = None,
        trace: str = "",
        is_transient: bool = False,
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
            seconds=round(time.monotonic() - self.started, 3),
            counts=counts or {},
            traceback=trace,
            passing=is_transient,
            worker=self.claim.worker,
            measured=measured,
        )
