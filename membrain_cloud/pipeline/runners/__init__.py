"""Where tasks are done: in this process, or on a Dask cluster. The only room that knows Dask."""

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
    *, workers: int | None, scheduler: str | None, in_process: bool, scaler: Scaler | None = None
) -> Iterator[Runner]:
    """The runner people asked for: in process, local workers (as many as fit, without a number) or a scheduler.

    scaler : of the scheduler's worker groups on Kubernetes.
    """
    if sum((workers is not None, scheduler is not None, in_process)) > 1:
        raise UsageError("--workers, --scheduler and --in-process exclude each other", "give one of them")
    if scaler is not None and scheduler is None:
        raise UsageError("--scale is for the worker groups of a scheduler", "give --scheduler as well")
    runner: Runner
    if in_process:
        runner = InProcessRunner()
    else:
        from membrain_cloud.pipeline.runners.dask_runner import DaskRunner

        if scheduler is not None:
            runner = DaskRunner(scheduler=scheduler, scaler=scaler)
        else:
            runner = DaskRunner(workers=workers or default_workers())
    try:
        yield runner
    finally:
        runner.close()
