"""Where tasks are done: in this process, or on a Dask cluster. The only room that knows Dask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.drive import Runner
from membrain_cloud.pipeline.run.in_process import InProcess
from membrain_cloud.pipeline.run.machine import default_workers
from membrain_cloud.pipeline.tasks import Kind

__all__ = ["InProcess", "default_workers", "open_runner"]


@contextmanager
def open_runner(
    *, workers: int | None, scheduler: str | None, in_process: bool, expected: Sequence[Kind] = ()
) -> Iterator[Runner]:
    """The runner people asked for: in process, local workers (as many as fit, without a number) or a scheduler.

    expected : kinds of workers that are scaled up when needed, and may not be there yet.
    """
    if sum((workers is not None, scheduler is not None, in_process)) > 1:
        raise UsageError("--workers, --scheduler and --in-process exclude each other", "give one of them")
    runner: Runner
    if in_process:
        runner = InProcess()
    else:
        from membrain_cloud.pipeline.run.on_dask import OnDask

        if scheduler is not None:
            runner = OnDask(scheduler=scheduler, expected=expected)
        else:
            runner = OnDask(workers=workers or default_workers())
    try:
        yield runner
    finally:
        runner.close()
