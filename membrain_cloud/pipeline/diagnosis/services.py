"""Check a Dask scheduler with its workers, and the CryoET Data Portal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.pipeline.diagnosis.check import Check
from membrain_cloud.pipeline.diagnosis.scheduler import ask_scheduler
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.pipeline.diagnosis.scheduler import SchedulerFacts

_LEAST_WORKER_BYTES = 2 * GIB
# A difference in one of these ends in errors that name neither package nor version.
_MUST_AGREE = ("membrain_cloud", "distributed", "dask", "cloudpickle")


def check_scheduler(address: str) -> Iterator[Check]:
    """Yield checks of a scheduler, of its workers' memory and of the versions of their packages.

    Parameters
    ----------
    address : str
        Address of the scheduler.

    Yields
    ------
    Check
        No workers is a warning, since a cluster may scale from none.

    Raises
    ------
    SchedulerLost
        If it does not answer.
    """
    yield from scheduler_checks(address, ask_scheduler(address))


def scheduler_checks(address: str, facts: SchedulerFacts) -> Iterator[Check]:
    """Yield the checks of what a scheduler has said.

    Parameters
    ----------
    address : str
        Its address.
    facts : SchedulerFacts
        What it has said of its workers.
    """
    if not facts.workers:
        cure = f"start workers: dask worker {address} --nthreads 1 --memory-limit 8GiB; or scale them with the run"
        yield Check("scheduler", "warning", f"{address} answers, and has no workers", cure)
        return
    kinds = [worker.kind or "any kind" for worker in facts.workers]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    yield Check("scheduler", "ok", f"{address}: {len(kinds)} workers ({counts})")
    least = min(facts.workers, key=lambda worker: worker.memory_bytes)
    memory = f"the least is {least.memory_bytes / GIB:.1f} GiB, of {least.name}"
    if least.memory_bytes < _LEAST_WORKER_BYTES:
        cure = "start workers with --memory-limit: Dask's default divides the memory by the machine's cores"
        yield Check("memory of workers", "failed", memory, cure)
    else:
        yield Check("memory of workers", "ok", memory)
    yield _version_check(facts)


def _version_check(facts: SchedulerFacts) -> Check:
    if not facts.differences:
        return Check("versions of workers", "ok", "as in this process")
    parts = []
    for package, versions in facts.differences.items():
        elsewhere = ", ".join(f"{version} on {count}" for version, count in versions.items() if version != "here")
        parts.append(f"{package} {versions['here']} here, {elsewhere} workers")
    serious = any(package in _MUST_AGREE for package in facts.differences)
    cure = "use one image, or one environment, for the driver and all workers"
    return Check("versions of workers", "failed" if serious else "warning", "; ".join(parts), cure)
