"""What a Dask scheduler says of its workers: their kinds, their memory and the versions of their packages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.pipeline.runners.dask_cluster import connect, quiet_dask, scheduler_faults, workers_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.runners.worker_state import WorkerFacts

# Packages whose versions must agree between this process and the workers: tasks and errors travel between them.
_PACKAGES = ("membrain_cloud", "distributed", "dask", "cloudpickle", "msgpack", "numpy", "torch")


@dataclass(frozen=True)
class SchedulerFacts:
    """What a scheduler says of its workers.

    Attributes
    ----------
    workers : tuple of WorkerFacts
        The workers.
    differences : mapping of str to mapping
        For each package whose version differs from this process's: the number of workers by version; the key "here"
        of the inner mapping is this process's version, "None" a package that is not installed.
    """

    workers: tuple[WorkerFacts, ...]
    differences: Mapping[str, Mapping[str, int | str]]


def ask_scheduler(address: str) -> SchedulerFacts:
    """Ask a scheduler for its workers and their versions.

    Parameters
    ----------
    address : str
        Address of the scheduler, e.g. ``tcp://10.0.0.1:8786``.

    Returns
    -------
    SchedulerFacts
        What it says.

    Raises
    ------
    SchedulerLost
        If it does not answer.
    """
    client = connect(address)
    try:
        with scheduler_faults(client):
            versions = client.get_versions(check=False, packages=list(_PACKAGES))
        workers = tuple(workers_of(client).values())
    finally:
        with quiet_dask():
            client.close()
    reports = [report["packages"] for report in versions["workers"].values() if report]
    return SchedulerFacts(workers, version_differences(versions["client"]["packages"], reports))


def version_differences(
    here: Mapping[str, Any], workers: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, int | str]]:
    """Return the packages whose version on a worker differs from this process's.

    Parameters
    ----------
    here : mapping of str to str or None
        Versions in this process, by package; None for one that is not installed.
    workers : sequence of mapping
        The same for each worker.

    Returns
    -------
    dict of str to dict
        As `SchedulerFacts.differences`.
    """
    differences: dict[str, dict[str, int | str]] = {}
    for package in _PACKAGES:
        counts = Counter(str(worker.get(package)) for worker in workers)
        if set(counts) - {str(here.get(package))}:
            differences[package] = {"here": str(here.get(package)), **dict(sorted(counts.items()))}
    return differences
