"""Doing one task, wherever it runs: the stage's work, then the receipt; a fault that passes is tried again.

The order is what makes a run safe to kill at any moment: the receipt of an earlier result is removed before its output
is touched, and the new one is written last. So a receipt never vouches for anything but what lies there.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import platform
import resource
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import membrain_cloud
from membrain_cloud.errors import MembrainCloudError, TransientError, storage_error
from membrain_cloud.pipeline.chain import Registry
from membrain_cloud.pipeline.plan import open_tables
from membrain_cloud.pipeline.settings import settings_from
from membrain_cloud.pipeline.stage import Desk
from membrain_cloud.pipeline.tasks import Outcome, Task, ref_as_dict
from membrain_cloud.store.project import Project

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
            return outcome("done", counts=_once(task, registry))
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


def _once(task: Task, registry: Registry) -> Mapping[str, Any]:
    started = time.monotonic()
    stage = registry[task.stage]
    settings = settings_from(task.job.settings)
    project = Project.open(task.job.config)
    tables = open_tables(project, settings)
    receipts = tables.receipts if stage.keeps_receipts_in == "tables" else project.receipts
    if receipts.read(task.receipt) is not None:
        receipts.remove(task.receipt)
    counts = dict(stage.work(Desk(project, tables, settings, receipts, task)))
    receipts.write(
        task.receipt,
        {
            "digest": task.digest,
            "stage": task.stage,
            "run": task.run,
            "part": task.part,
            "inputs": {role: ref_as_dict(ref) | {"uri": ref.key} for role, ref in task.inputs.items()},
            "output": None if task.output is None else ref_as_dict(task.output) | {"uri": task.output.key},
            "output_identity": project.identity(task.output) if task.output and task.completes else None,
            "settings": stage.decisive(settings),
            "model": {"source": stage.model(settings), "sha256": task.model_sha256} if task.model_sha256 else None,
            "versions": versions(),
            "host": socket.gethostname(),
            "seconds": round(time.monotonic() - started, 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # of the process so far
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "counts": counts,
        },
    )
    return counts


@functools.cache
def versions() -> dict[str, str]:
    """Versions that bear on results."""
    found = {"membrain_cloud": membrain_cloud.__version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "copick", "zarr", "connected-components-3d"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
