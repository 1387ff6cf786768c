"""Runners: they execute the tasks of a plan, in this process or on a Dask cluster. The only package that imports Dask.

It may import `execution`, `planning`, `stages` and the modules of `pipeline` itself.

Modules
-------
in_process : one task after the other in this process.
dask_runner : tasks on a Dask cluster, over dask_cluster, dask_connection, task_exchange, in_flight, worker_monitor.
worker_registry, worker_state : workers, their assignments, the choice of a worker; without Dask.
dask_worker, task_bundles : what executes on a worker, and how tasks travel to it.
kubernetes_scaling : worker groups on Kubernetes that follow the work.
job_pool : a few long jobs, such as the folds of a cross-validation.
idle_endpoint : an HTTP endpoint of schedulers.
host_resources : memory and workers of this machine.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.runners.host_resources import default_workers
from membrain_cloud.pipeline.runners.in_process import InProcessRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.pipeline.execution.driver import Runner
    from membrain_cloud.pipeline.runners.kubernetes_scaling import Scaler

__all__ = ["InProcessRunner", "default_workers", "open_runner"]


@contextmanager
def open_runner(
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    in_process: bool = False,
    scaler: Scaler | None = None,
) -> Iterator[Runner]:
    """Open the runner for a plan, and close it at the end of this context.

    At most one of `workers`, `scheduler` and `in_process` is given:

    ==============  =====================================================================================
    `in_process`    Tasks execute one after the other in this process, without Dask.
    `scheduler`     Tasks execute on the workers of the Dask scheduler at that address.
    `workers`       Tasks execute in so many worker processes of a Dask cluster on this machine.
    none of them    As with `workers`, and as many as there are cores and memory for (3 GiB each).
    ==============  =====================================================================================

    A local cluster starts with the first task, one worker for each GPU; a scheduler is connected to at once.

    Parameters
    ----------
    workers : int, optional
        Number of local worker processes. Default: as many as fit.
    scheduler : str, optional
        Address of a Dask scheduler whose workers reach the same storage. Default: a local cluster.
    in_process : bool
        Whether to execute in this process. Default: no.
    scaler : Scaler, optional
        Scales the scheduler's worker groups on Kubernetes with the work. Default: the workers are as they are.

    Yields
    ------
    Runner
        The open runner.

    Raises
    ------
    UsageError
        If more than one of the three is given, or a scaler without a scheduler.
    TransientError
        If no scheduler answers at the address, or it has no workers.
    """
    if sum((workers is not None, scheduler is not None, in_process)) > 1:
        raise UsageError("workers, scheduler and in_process exclude each other", "give one of them")
    if scaler is not None and scheduler is None:
        raise UsageError("worker groups are scaled for a scheduler only", "give the scheduler's address as well")
    if in_process:
        with InProcessRunner() as runner:
            yield runner
        return
    from membrain_cloud.pipeline.runners.dask_runner import DaskRunner

    if scheduler is not None:
        dask_runner = DaskRunner(scheduler=scheduler, scaler=scaler)
    else:
        dask_runner = DaskRunner(workers=workers or default_workers())
    with dask_runner:
        yield dask_runner
