"""Doing one task, wherever it runs: the stage's work, then the receipt; a fault that passes is tried again.

The order is what makes a run safe to kill at any moment: the receipt of an earlier result is removed before its output
is touched, and the new one is written last. So a receipt never vouches for anything but what lies there.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from membrain_cloud.errors import MembrainCloudError, TransientError, storage_error
from membrain_cloud.pipeline.chain import Registry
from membrain_cloud.pipeline.plan import open_tables
from membrain_cloud.pipeline.provenance import receipt_of
from membrain_cloud.pipeline.settings import settings_from
from membrain_cloud.pipeline.stage import Desk
from membrain_cloud.pipeline.tasks import Outcome, Task
from membrain_cloud.store.files import Meter
from membrain_cloud.store.opening import open_project

ATTEMPTS = 3
BACK_OFF_SECONDS = 1.0


def work(task: Task, registry: Registry, *, sleep: Callable[[float], None] = time.sleep) -> Outcome:
    """Do a task and say what became of it. Raises nothing but what stops the process."""
    started = time.monotonic()

    def outcome(state: Any, error: MembrainCloudError | None = None, counts: Any = None, trace: str = "") -> Outcome:
        message, next_step = (error.message, error.next_step) if error else ("", "")
        seconds = round(time.monotonic() - started, 3)
        return Outcome(task.stage, task.run, task.part, state, message, next_step, seconds, counts or {}, trace)

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return outcome("done", counts=_once(task, registry, attempt))
        except TransientError as error:
            if attempt == ATTEMPTS:
                return outcome("failed", TransientError(f"{error.message} ({ATTEMPTS} attempts)", error.next_step))
        except MembrainCloudError as error:
            return outcome("failed", error)
        except MemoryError as error:
            cause = f"out of memory ({error})" if str(error) else "out of memory"
            return outcome("failed", MembrainCloudError(cause, "take fewer workers, so that each has more memory"))
        except OSError as error:
            known = storage_error(error, task.key)
            if not isinstance(known, TransientError) or attempt == ATTEMPTS:
                return outcome("failed", known, trace=traceback.format_exc())
        except Exception as error:
            what = MembrainCloudError(
                f"{type(error).__name__}: {error}", "this is a bug: please report it with `failures --debug`"
            )
            return outcome("failed", what, trace=traceback.format_exc())
        sleep(BACK_OFF_SECONDS * 4 ** (attempt - 1))
    raise AssertionError("unreachable")


def _once(task: Task, registry: Registry, attempt: int) -> Mapping[str, Any]:
    started = time.monotonic()
    stage = registry[task.stage]
    settings = settings_from(task.job.settings)
    meters = {"project": Meter(), "tables": Meter()}
    project = open_project(task.job.config).metered(meters["project"])
    tables = open_tables(project, settings).metered(meters["tables"])
    receipts = tables.receipts if stage.keeps_receipts_in == "tables" else project.receipts
    receipts.forget(task.address, task.part if not task.completes else "complete")
    desk = Desk(project, tables, settings, receipts, task, meters["project"])
    counts = dict(stage.work(desk))
    seconds = time.monotonic() - started
    receipts.write(task.receipt, receipt_of(desk, stage, counts, meters, seconds=seconds, attempt=attempt))
    return counts
