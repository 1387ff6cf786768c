"""All who watch a run: counts, metrics, log, Dask's own report. What they need is set up and taken down here."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.pipeline.monitoring.json_log import RunLog
from membrain_cloud.pipeline.monitoring.progress import ProgressCounter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.pipeline.execution.driver import Observer, Runner
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task


@dataclass(frozen=True)
class RunObservers:
    """A run under watch. `log` is written to where `run_log.log_to` says."""

    tally: ProgressCounter
    log: RunLog
    observers: tuple[Observer, ...]

    def with_observer(self, other: Observer) -> Observer:
        """All observers and one more, as one."""

        def observe(event: str, task: Task, outcome: Outcome | None) -> None:
            for observer in (*self.observers, other):
                observer(event, task, outcome)

        return observe


@contextmanager
def observe_run(
    plan: Plan, runner: Runner, *, metrics_port: int | None = None, dask_report: str | None = None
) -> Iterator[RunObservers]:
    """RunObservers a run of `plan` on `runner`.

    metrics_port : serve Prometheus metrics there.  dask_report : write Dask's performance report to this HTML file.
    Raises UsageError for a port that is taken, or a report that cannot be made.
    """
    tally, log = ProgressCounter(plan), RunLog(plan)
    observers: list[Observer] = [tally.observe, log.observe]
    with ExitStack() as stack:
        if metrics_port is not None:
            from membrain_cloud.pipeline.monitoring.prometheus import Metrics

            metrics = Metrics(plan, tally, runner.snapshot)
            stack.callback(metrics.serve(metrics_port))
            observers.append(metrics.observe)
        if dask_report is not None:
            stack.enter_context(runner.report(dask_report))
        yield RunObservers(tally, log, tuple(observers))
        log.end({state: int(count) for state, count in tally.tomograms.items()})
