"""Plans, as JSON and on the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from membrain_cloud.cli.app import say
from membrain_cloud.cli.display.tables import show_table
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.estimates import Estimate
    from membrain_cloud.pipeline.planning.plan import Plan


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as the JSON of `membrain-cloud plan --json`.

    Parameters
    ----------
    plan : Plan
        The plan.

    Returns
    -------
    dict
        Stages, sessions, place of the tables, estimates, tasks in their order, and outcomes known already.
    """
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
                "memory_bytes": task.memory_bytes,
                "voxels": task.voxels,
            }
            for order, task in enumerate(plan.tasks)
        ],
        "settled": [outcome.as_dict() for outcome in plan.outcomes],
    }


def show_plan(plan: Plan) -> None:
    """Print the numbers of tasks of each stage, the estimates, and a line for each refused task.

    Parameters
    ----------
    plan : Plan
        The plan.
    """
    states = Counter((outcome.stage, outcome.state) for outcome in plan.outcomes)
    tasks = Counter(task.stage for task in plan.tasks)
    memory: dict[str, int] = {}
    for task in plan.tasks:
        memory[task.stage] = max(memory.get(task.stage, 0), task.memory_bytes)
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
    columns = ("stage", "session", "tomograms", "tasks", "already done", "refused", "blocked", "memory a task")
    show_table(f"{len(plan.runs)} runs -> {plan.job.tables}", columns, rows)
    if plan.tasks:
        _show_estimates(plan)
    for outcome in plan.outcomes:
        if outcome.state == "failed":
            say(outcome.line())


def _show_estimates(plan: Plan) -> None:
    """Print the work that is left, and its estimated time and cost."""
    total = plan.total

    def row(name: str, e: Estimate) -> tuple[Any, ...]:
        basis = f"{e.samples} receipts" if e.source == "receipts" else "stated throughput"
        flops = None if e.flops is None else f"{e.flops / 1e15:,.2f} P"
        cost = None if e.cost is None else f"{e.cost:,.2f}"
        return name, f"{e.voxels / 1e9:,.2f} G", _size(e.bytes_to_read), flops, e.kind, _hours(e.hours), cost, basis

    columns = ("stage", "voxels", "to read", "FLOPs", "kind", "worker hours", total.currency, "estimated from")
    show_table("", columns, [row(name, e) for name, e in plan.estimates.items() if e.tomograms])
    say(
        f"about {_hours(total.gpu_hours)} GPU hours and {_hours(total.cpu_hours)} CPU hours, {total.cost:,.2f} "
        f"{total.currency}; {_hours(total.elapsed_hours)} hours with the workers of plan.gpu_workers, plan.cpu_workers"
    )


def _hours(hours: float | None) -> str | None:
    return None if hours is None else f"{hours:,.3f}" if hours < 10 else f"{hours:,.0f}"


def _size(count: int) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"
