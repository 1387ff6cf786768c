"""What people see: progress while a run goes on, and tables of plans, states, failures and scores."""

from __future__ import annotations

import contextlib
import datetime
from collections import Counter
from typing import TYPE_CHECKING, Any

from membrain_cloud.cli.app import say
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from rich.console import Console

    from membrain_cloud.pipeline.maintenance.verify import Finding
    from membrain_cloud.pipeline.monitoring.activity import Activity
    from membrain_cloud.pipeline.planning.estimates import Estimate
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome, Task


def console() -> Console:
    """Standard output; where it is no terminal, wide enough for scripts and logs."""
    from rich.console import Console

    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=200)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for people; where the output is no terminal it is as wide as it needs to be."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    if title:
        out.print(title, soft_wrap=True)
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    out.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


class Progress:
    """Bars for the tomograms and for each stage, a line of numbers, one line a failure.

    Where there is no terminal: one line a finished stage.
    snapshot : of the runner (`Runner.snapshot`), for the workers' number.
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
        self._tally, self._snapshot = ProgressCounter(plan), snapshot
        self._runs_of_tasks = len({task.run for task in plan.tasks})
        if plan.tasks:
            self._runs = self._bars.add_task("tomograms", total=self._runs_of_tasks, now="")
            stages = [name for name in plan.stages if self._tally.total[name]]
            self._stages = {name: self._bars.add_task(name, total=self._tally.total[name], now="") for name in stages}
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
        self._tally.observe(event, task, outcome)
        if self._live:
            self._draw(task, began=event == "started")
        if outcome is None:
            return
        if event == "again":
            self._console.print(f"{task.run}: {task.stage} is tried again: {outcome.message}", markup=False)
        elif outcome.state == "failed":
            self._console.print(outcome.line(), style="red", markup=False, soft_wrap=True)
        elif outcome.state == "done" and not self._live:
            numbers = ", ".join(f"{key} {value}" for key, value in outcome.counts.items() if isinstance(value, int))
            part = "" if task.part == "whole" else f" {task.part}"
            say(f"{task.run}: {task.stage}{part} done in {outcome.seconds:.1f} s{f' ({numbers})' if numbers else ''}")

    def _draw(self, task: Task, *, began: bool) -> None:
        bar, tally = self._stages[task.stage], self._tally
        self._bars.update(bar, completed=tally.total[task.stage] - tally.left[task.stage])
        if began:
            self._bars.update(bar, now=task.run if task.part == "whole" else f"{task.run} {task.part}")
        ended = self._runs_of_tasks - tally.tomograms["pending"] - tally.tomograms["running"]
        self._bars.update(self._runs, completed=ended, now=self.numbers())

    def numbers(self) -> str:
        """Failures, rate, GPU hours, workers, time left: what is known of them."""
        tally, eta = self._tally, self._tally.eta_seconds()
        told = [f"{tally.tomograms['failed']} failed"] if tally.tomograms["failed"] else []
        told.append(f"{tally.tasks_per_hour():.0f} tasks/h")
        if tally.gpu_seconds:
            told.append(f"{tally.gpu_seconds / 3600:.1f} GPU h")
        if self._snapshot is not None and (workers := sum(self._snapshot()["workers"].values())):
            told.append(f"{workers} workers")
        if eta is not None:
            told.append(f"{datetime.timedelta(seconds=round(eta))} left")
        return ", ".join(told)


class Bars:
    """Bars for some long things at once, each gone when it is done."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
        out = Console(stderr=True)
        # What is printed goes to standard output, not to where the bars are.
        self._bars = progress.Progress(
            "{task.description}", *columns, console=out, disable=not out.is_terminal, redirect_stdout=False
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def one(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar; told (done, in all)."""
        bar = self._bars.add_task(what, total=None)
        try:
            yield lambda done, total: self._bars.update(bar, completed=done, total=total)
        finally:
            self._bars.remove_task(bar)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """While something is printed."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()


class Bar(contextlib.ExitStack):
    """One bar for one long thing."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def __enter__(self) -> Bar:
        self.update = self.enter_context(self.enter_context(Bars()).one(self._what))
        return self


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    return {
        "stages": list(plan.stages),
        "sessions": dict(plan.sessions),
        "tables": plan.job.tables,
        "estimates": {stage: vars(estimate) for stage, estimate in plan.estimates.items()},
        "total": vars(plan.total),
        "tasks": [
            {
                "order": order,
                "stage": task.stage,
                "run": task.run,
                "part": task.part,
                "digest": task.digest,
                "inputs": {role: ref.key for role, ref in task.inputs.items()},
                "output": None if task.output is None else task.output.key,
                "memory_bytes": plan.memory_bytes[task.key],
                "voxels": task.voxels,
            }
            for order, task in enumerate(plan.tasks)
        ],
        "settled": [outcome.as_dict() for outcome in plan.outcomes],
    }


def show_plan(plan: Plan) -> None:
    states = Counter((outcome.stage, outcome.state) for outcome in plan.outcomes)
    tasks = Counter(task.stage for task in plan.tasks)
    memory: dict[str, int] = {}
    for task in plan.tasks:
        memory[task.stage] = max(memory.get(task.stage, 0), plan.memory_bytes[task.key])
    rows = [
        (
            stage,
            plan.sessions[stage],
            plan.estimates[stage].tomograms,
            tasks[stage],
            states[stage, "skipped"],
            states[stage, "failed"],
            states[stage, "blocked"],
            f"{memory[stage] / GIB:.1f} GiB" if stage in memory else None,
        )
        for stage in plan.stages
    ]
    columns = ("stage", "session", "tomograms", "tasks", "done before", "refused", "blocked", "memory a task")
    show_table(f"{len(plan.runs)} runs -> {plan.job.tables}", columns, rows)
    if plan.tasks:
        _show_estimates(plan)
    for outcome in plan.outcomes:
        if outcome.state == "failed":
            say(outcome.line())


def _show_estimates(plan: Plan) -> None:
    """What is left, and what it will take."""
    whole = plan.total

    def row(name: str, e: Estimate) -> tuple[Any, ...]:
        grounds = f"{e.samples} receipts" if e.source == "receipts" else "stated throughput"
        flops = None if e.flops is None else f"{e.flops / 1e15:,.2f} P"
        money = None if e.cost is None else f"{e.cost:,.2f}"
        return name, f"{e.voxels / 1e9:,.2f} G", _size(e.bytes_to_read), flops, e.kind, _hours(e.hours), money, grounds

    columns = ("stage", "voxels", "to read", "FLOPs", "kind", "worker hours", whole.currency, "by")
    rows = [row(name, e) for name, e in plan.estimates.items() if e.tomograms]
    show_table("", columns, rows)
    say(
        f"about {_hours(whole.gpu_hours)} GPU hours and {_hours(whole.cpu_hours)} CPU hours, {whole.cost:,.2f} "
        f"{whole.currency}; {_hours(whole.elapsed_hours)} hours with the workers of plan.gpu_workers, plan.cpu_workers"
    )


def _hours(hours: float | None) -> str | None:
    return None if hours is None else f"{hours:,.3f}" if hours < 10 else f"{hours:,.0f}"


def _size(count: int) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"


def run_as_dict(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "stages": list(plan.stages),
        "sessions": dict(plan.sessions),
        "tables": plan.job.tables,
        "summary": _summary(outcomes),
        "outcomes": [outcome.as_dict() for outcome in outcomes],
    }


def _summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    states = Counter(outcome.state for outcome in outcomes)
    return {state: states[state] for state in ("done", "skipped", "failed", "blocked")}


def show_summary(plan: Plan, outcomes: Sequence[Outcome]) -> None:
    numbers = _summary(outcomes)
    say(", ".join(f"{count} {state}" for state, count in numbers.items()) + f"; tables: {plan.job.tables}")
    if numbers["failed"]:
        say("what failed, and what to do: membrain-cloud failures " + plan.job.config)


def status_grid(plan: Plan, failures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Run -> stage -> done | to do | partly | failed | refused | blocked."""
    grid: dict[str, dict[str, str]] = {}
    for task in plan.tasks:
        grid.setdefault(task.run, {})[task.stage] = "to do"
    failed = {(record["run"], record["stage"]) for record in failures}
    for run, stages in grid.items():
        stages.update({stage: "failed" for stage in stages if (run, stage) in failed})
    names = {"skipped": "done", "failed": "refused", "blocked": "blocked"}
    for outcome in plan.outcomes:
        grid.setdefault(outcome.run, {})[outcome.stage] = names[outcome.state]
    return dict(sorted(grid.items()))


def show_status(plan: Plan, grid: Mapping[str, Mapping[str, str]]) -> None:
    rows = [(run, *(stages.get(stage) for stage in plan.stages)) for run, stages in grid.items()]
    show_table("", ("run", *plan.stages), rows)
    done = Counter(stage for stages in grid.values() for stage, state in stages.items() if state == "done")
    say(", ".join(f"{stage} {done[stage]}/{len(grid)}" for stage in plan.stages))


def show_activity(now: Activity) -> None:
    """What is at work, and how fast."""
    rows = [(row["run"], row["stage"], row["part"], row["worker"]) for row in now.at_work]
    if rows:
        show_table("at work", ("run", "stage", "part", "worker"), rows)
    if now.left:
        say(f"{len(now.left)} tasks were left by runs that are gone; the next run takes them over")
    if now.tasks_per_hour is not None and rows:
        left = "" if now.eta_seconds is None else f", {datetime.timedelta(seconds=round(now.eta_seconds))} left"
        say(f"{now.tasks_per_hour:.0f} tasks an hour{left}")


def show_failures(records: Sequence[Mapping[str, Any]], *, with_tracebacks: bool) -> None:
    if not records:
        say("no failures")
        return
    rows = [(r["run"], r["stage"], r["message"], r["next_step"], r["when"]) for r in records]
    show_table("", ("run", "stage", "what", "next step", "when"), rows)
    for record in records:
        if with_tracebacks and record["traceback"]:
            say(f"{record['run']}, {record['stage']}:\n{record['traceback']}")


def show_findings(findings: Sequence[Finding], *, forgotten: bool) -> None:
    wrong = [(finding.output, finding.state, finding.detail) for finding in findings if finding.state != "ok"]
    if wrong:
        show_table("", ("output", "state", "what"), wrong)
    states = Counter(finding.state for finding in findings)
    checked = sum(1 for finding in findings if finding.receipt)
    say(f"{checked} outputs checked: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    if states["missing"] or states["torn"]:
        cure = "run again to make them" if forgotten else "verify --forget-missing, then run again"
        say(f"missing or torn outputs -> {cure}")
    if any(finding.state == "foreign" and not finding.receipt for finding in findings):
        say("outputs that nothing vouches for -> clean")


def show_scores(scores: Sequence[Mapping[str, Any]]) -> None:
    """A row a score, a column a tomogram."""
    names = list(dict.fromkeys(key for row in scores for key in row if key != "run"))
    rows = [(name.replace("_", " "), *(row.get(name) for row in scores)) for name in names]
    show_table("", ("score", *(str(row["run"]) for row in scores)), rows)
