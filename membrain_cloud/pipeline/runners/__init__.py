"""Runners: they execute the tasks of a plan, in this process or on a Dask cluster. The only package that imports Dask.

It may import `execution`, `planning`, `stages` and the modules of `pipeline` itself.

Modules
-------
in_process : one task after the other in this process.
dask_runner : tasks on a Dask cluster, over dask_cluster, dask_connection, task_exchange, in_flight, worker_monitor.
worker_registry, worker_state, placement : workers, their assignments, the choice of a worker; without Dask.
dask_worker, task_bundles : what executes on a worker, and how tasks travel to it.
worker_grace : the time that a worker has when it is told to go; a preload of nannies.
kubernetes : worker groups on Kubernetes that follow the work.
job_pool : a few long jobs, such as the folds of a cross-validation.
host_resources : cores and memory of this machine, and the local workers made of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.runners.host_resources import default_workers
from membrain_cloud.pipeline.runners.in_process import InProcessRunner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from membrain_cloud.pipeline.execution.runner import Runner
    from membrain_cloud.pipeline.runners.kubernetes.scaler import Scaler
    from membrain_cloud.pipeline.tasks import Kind

__all__ = ["InProcessRunner", "default_workers", "open_runner"]


@contextmanager
def open_runner(
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    in_process: bool = False,
    scaler: Scaler | None = None,
    expected: Iterable[Kind] = (),
    wait_seconds: float | None = None,
) -> Iterator[Runner]:
    """Open the runner for a plan, and close it at the end of this context.

    At most one of `workers`, `scheduler` and `in_process` is given:

    ==============  =====================================================================================
    `in_process`    Tasks execute one after the other in this process, without Dask.
    `scheduler`     Tasks execute on the workers of the Dask scheduler at that address.
    `workers`       Tasks execute in so many worker processes of a Dask cluster on this machine.
    none of them    As with `workers`, and as many as there are cores, and memory for the largest task.
    ==============  =====================================================================================

    A local cluster starts with the first task, with a worker for each GPU and CPU workers beside them; a scheduler is
    connected to at once.

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
    expected : iterable of {"gpu", "cpu"}
        Kinds of workers that connect to the scheduler sooner or later: their tasks wait for them. Default: none.
    wait_seconds : float, optional
        Time that ready tasks wait for a worker which may take them, before the run fails. Default: 30 min with a scaler
        or expected workers, else 10 min.

    Yields
    ------
    Runner
        The open runner.

    Raises
    ------
    UsageError
        If more than one of the three is given, fewer than one worker, or a scaler without a scheduler.
    TransientError
        If no scheduler answers at the address, or it has no workers.
    """
    if sum((workers is not None, scheduler is not None, in_process)) > 1:
        raise UsageError("workers, scheduler and in_process exclude each other", "give one of them")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise UsageError(f"workers = {workers!r}: not a whole number of at least 1", "give another number of workers")
    if scheduler is None and (scaler is not None or tuple(expected)):
        raise UsageError("workers come and go for a scheduler only", "give the scheduler's address as well")
    if in_process:
        with InProcessRunner() as runner:
            yield runner
        return
    from membrain_cloud.pipeline.runners.dask_runner import DaskRunner

    if scheduler is not None:
        dask_runner = DaskRunner(scheduler=scheduler, scaler=scaler, expected=expected, wait_seconds=wait_seconds)
    else:
        dask_runner = DaskRunner(workers=workers)
    with dask_runner:
        yield dask_runner
