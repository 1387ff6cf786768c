"""Progress bars: of a run, and of single long operations."""

from __future__ import annotations

import contextlib
import datetime
from typing import TYPE_CHECKING, Any

from membrain_cloud.cli.app import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task


class Progress:
    """Progress of a run: bars for tomograms and stages, a line of numbers, and one line for each failure.

    Where standard error is no terminal, one line is printed for each finished task instead.

    Parameters
    ----------
    plan : Plan
        The plan that is executed. Its refused tasks are printed at once.
    snapshot : callable, optional
        `Runner.snapshot`, for the number of workers.
    """

    def __init__(self, plan: Plan, snapshot: Callable[[], Mapping[str, Any]] | None = None) -> None:
        from rich import progress
        from rich.console import Console

        from membrain_cloud.pipeline.monitoring.progress import ProgressCounter

        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[now]}"),
            console=self._console,
            disable=not self._live,
        )
        self._counter, self._snapshot = ProgressCounter(plan), snapshot
        self._tomograms = len({task.run for task in plan.tasks})
        if plan.tasks:
            self._tomogram_bar = self._bars.add_task("tomograms", total=self._tomograms, now="")
            stages = [name for name in plan.stages if self._counter.total[name]]
            self._stage_bars = {
                name: self._bars.add_task(name, total=self._counter.total[name], now="") for name in stages
            }
        for outcome in plan.outcomes:
            if outcome.state == "failed":
                say(outcome.line())

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        """Show an event of the driver.

        Parameters
        ----------
        event : str
            What happened, as `execute_plan` reports it to observers.
        task : Task
            The task it happened to.
        outcome : Outcome or None
            The outcome; None for a task that was started.
        """
        self._counter.observe(event, task, outcome)
        if self._live:
            self._draw(task, started=event == "started")
        if outcome is None:
            return
        if event == "again":
            self._console.print(f"{task.run}: {task.stage} is retried: {outcome.message}", markup=False)
        elif outcome.state == "failed":
            self._console.print(outcome.line(), style="red", markup=False, soft_wrap=True)
        elif outcome.state == "done" and not self._live:
            numbers = ", ".join(f"{key} {value}" for key, value in outcome.counts.items() if isinstance(value, int))
            part = "" if task.part == "whole" else f" {task.part}"
            say(f"{task.run}: {task.stage}{part} done in {outcome.seconds:.1f} s{f' ({numbers})' if numbers else ''}")

    def _draw(self, task: Task, *, started: bool) -> None:
        bar, counter = self._stage_bars[task.stage], self._counter
        self._bars.update(bar, completed=counter.total[task.stage] - counter.left[task.stage])
        if started:
            self._bars.update(bar, now=task.run if task.part == "whole" else f"{task.run} {task.part}")
        ended = self._tomograms - counter.tomograms["pending"] - counter.tomograms["running"]
        self._bars.update(self._tomogram_bar, completed=ended, now=self.numbers())

    def numbers(self) -> str:
        """Return failures, rate, GPU hours, workers and time left, as far as they are known."""
        counter, eta = self._counter, self._counter.eta_seconds()
        parts = [f"{counter.tomograms['failed']} failed"] if counter.tomograms["failed"] else []
        parts.append(f"{counter.tasks_per_hour():.0f} tasks/h")
        if counter.gpu_seconds:
            parts.append(f"{counter.gpu_seconds / 3600:.1f} GPU h")
        if self._snapshot is not None and (workers := sum(self._snapshot()["workers"].values())):
            parts.append(f"{workers} workers")
        if eta is not None:
            parts.append(f"{datetime.timedelta(seconds=round(eta))} left")
        return ", ".join(parts)


class Bars:
    """Progress bars of operations that go on at the same time; each disappears when its operation ends."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
        console = Console(stderr=True)
        # Results go to standard output, not to where the bars are.
        self._bars = progress.Progress(
            "{task.description}", *columns, console=console, disable=not console.is_terminal, redirect_stdout=False
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def bar(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar while the context lasts.

        Parameters
        ----------
        name : str
            Text before the bar.

        Yields
        ------
        callable
            Sets the bar: number of steps done, number of all steps.
        """
        bar = self._bars.add_task(name, total=None)
        try:
            yield lambda done, total: self._bars.update(bar, completed=done, total=total)
        finally:
            self._bars.remove_task(bar)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars while the context lasts, so that something can be printed."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()


class Bar(contextlib.ExitStack):
    """A progress bar of one operation, whose `update` takes the numbers of steps done and of all steps."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __enter__(self) -> Bar:
        self.update = self.enter_context(self.enter_context(Bars()).bar(self._name))
        return self
