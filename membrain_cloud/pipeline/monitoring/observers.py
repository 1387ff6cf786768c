"""All observers of one run: progress, log, metrics and Dask's performance report, set up and closed together."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.pipeline.monitoring.json_log import RunLog
from membrain_cloud.pipeline.monitoring.progress import ProgressCounter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.pipeline.execution.runner import Observer, Runner
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task


@dataclass(frozen=True)
class RunObservers:
    """The observers of one run.

    Attributes
    ----------
    progress : ProgressCounter
        Counts of tasks and tomograms.
    log : RunLog
        The log, written where `json_log.log_to` says.
    observers : tuple of callable
        All of them, as `execution.runner.Observer`.
    """

    progress: ProgressCounter
    log: RunLog
    observers: tuple[Observer, ...]

    def with_observer(self, other: Observer) -> Observer:
        """Return one observer that calls all of these and another one.

        Parameters
        ----------
        other : callable
            The other observer.

        Returns
        -------
        callable
            The observer.
        """

        def observe(event: str, task: Task, outcome: Outcome | None) -> None:
            for observer in (*self.observers, other):
                observer(event, task, outcome)

        return observe


@contextmanager
def observe_run(
    plan: Plan, runner: Runner, *, metrics_port: int | None = None, dask_report: str | None = None
) -> Iterator[RunObservers]:
    """Observe a run while the context lasts, and log its end.

    Parameters
    ----------
    plan : Plan
        The plan.
    runner : Runner
        The runner.
    metrics_port : int or None
        Port at which Prometheus metrics are served; 0: a free one. Default: no metrics.
    dask_report : str or None
        HTML file to which Dask's performance report is written. Default: no report.

    Yields
    ------
    RunObservers
        The observers.

    Raises
    ------
    UsageError
        If the port is taken, or the runner has no Dask.
    """
    progress, log = ProgressCounter(plan), RunLog(plan)
    observers: list[Observer] = [progress.observe, log.observe]
    with ExitStack() as stack:
        if metrics_port is not None:
            from membrain_cloud.pipeline.monitoring.prometheus import Metrics

            metrics = Metrics(plan, progress, runner.snapshot)
            stack.callback(metrics.serve(metrics_port))
            observers.append(metrics.observe)
        if dask_report is not None:
            from membrain_cloud.pipeline.stages.registry import STAGES

            runner.prepare(plan.tasks, STAGES)  # the report begins with the cluster
            stack.enter_context(runner.report(dask_report))
        yield RunObservers(progress, log, tuple(observers))
        log.end({state: int(count) for state, count in progress.tomograms.items()})
