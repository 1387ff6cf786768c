"""What a run has done and what it is doing: outcomes, states, failures and checked outputs."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import TYPE_CHECKING, Any

from membrain_cloud.cli.app import say
from membrain_cloud.cli.display.tables import show_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.maintenance.verify import Finding
    from membrain_cloud.pipeline.monitoring.activity import Activity
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.tasks import Outcome


def run_as_dict(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the result of a run as the JSON of `membrain-cloud run --json`.

    Parameters
    ----------
    plan : Plan
        The plan that was executed.
    outcomes : sequence of Outcome
        Outcomes of its tasks, and those known before.

    Returns
    -------
    dict
        Stages, sessions, place of the tables, numbers of outcomes by state, and the outcomes.
    """
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
    """Print the numbers of outcomes by state, and the next step where something failed.

    Parameters
    ----------
    plan : Plan
        The plan that was executed.
    outcomes : sequence of Outcome
        Outcomes of its tasks, and those known before.
    """
    numbers = _summary(outcomes)
    say(", ".join(f"{count} {state}" for state, count in numbers.items()) + f"; tables: {plan.job.tables}")
    if numbers["failed"]:
        say("causes of the failures and next steps: membrain-cloud failures " + plan.job.config)


def status_grid(plan: Plan, failures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the state of each stage on each run.

    Parameters
    ----------
    plan : Plan
        What is left to do.
    failures : sequence of mapping
        Records of the failure log.

    Returns
    -------
    dict
        For each run, by name, the state of each stage: done, to do, failed, refused or blocked.
    """
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
    """Print the state of each stage on each run, and how many runs of each stage are done.

    Parameters
    ----------
    plan : Plan
        Its stages are the columns.
    grid : mapping
        What `status_grid` returned.
    """
    rows = [(run, *(stages.get(stage) for stage in plan.stages)) for run, stages in grid.items()]
    show_table("", ("run", *plan.stages), rows)
    done = Counter(stage for stages in grid.values() for stage, state in stages.items() if state == "done")
    say(", ".join(f"{stage} {done[stage]}/{len(grid)}" for stage in plan.stages))


def show_activity(activity: Activity) -> None:
    """Print the tasks that are executed now, by any run, and their speed.

    Parameters
    ----------
    activity : Activity
        What leases and receipts say.
    """
    rows = [(row["run"], row["stage"], row["part"], row["worker"]) for row in activity.at_work]
    if rows:
        show_table("tasks executed now", ("run", "stage", "part", "worker"), rows)
    if activity.left:
        say(f"{len(activity.left)} tasks were left behind by stopped runs; the next run takes them over")
    if activity.tasks_per_hour is not None and rows:
        eta = activity.eta_seconds
        left = "" if eta is None else f", {datetime.timedelta(seconds=round(eta))} left"
        say(f"{activity.tasks_per_hour:.0f} tasks an hour{left}")


def show_failures(records: Sequence[Mapping[str, Any]], *, with_tracebacks: bool) -> None:
    """Print failures with their causes and next steps.

    Parameters
    ----------
    records : sequence of mapping
        Records of the failure log.
    with_tracebacks : bool
        Print the traceback of each failure too.
    """
    if not records:
        say("no failures")
        return
    rows = [(r["run"], r["stage"], r["message"], r["next_step"], r["when"]) for r in records]
    show_table("", ("run", "stage", "cause", "next step", "when"), rows)
    for record in records:
        if with_tracebacks and record["traceback"]:
            say(f"{record['run']}, {record['stage']}:\n{record['traceback']}")


def show_findings(findings: Sequence[Finding], *, forgotten: bool) -> None:
    """Print which outputs are not as they were written, and the next steps.

    Parameters
    ----------
    findings : sequence of Finding
        The state of each output.
    forgotten : bool
        Whether missing outputs have been forgotten, so that the next run makes them.
    """
    bad = [(finding.output, finding.state, finding.detail) for finding in findings if finding.state != "ok"]
    if bad:
        show_table("", ("output", "state", "cause"), bad)
    states = Counter(finding.state for finding in findings)
    checked = sum(1 for finding in findings if finding.receipt)
    say(f"{checked} outputs checked: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    if states["missing"] or states["torn"]:
        next_step = "run again to make them" if forgotten else "verify --forget-missing, then run again"
        say(f"missing or torn outputs -> {next_step}")
    if any(finding.state == "foreign" and not finding.receipt for finding in findings):
        say("outputs without a receipt -> membrain-cloud clean")
