"""Make a plan: from settings and a project to the tasks that are left to do.

Which tasks are done follows from the store: a task is done when there is a receipt whose name carries the task's digest
(digests.py, store/run_state/receipts.py).

The order of the tasks is the order in which they are started, as far as their needs and free workers allow. Begun
tomograms come first, so that few are half done at any time; then large ones before small ones, so that no large one is
left for the end, when most workers are idle; within a tomogram the pipeline's order. This keeps GPUs busy: a tomogram's
GPU stages go before the next tomogram's as soon as they can, and until then the next tomogram's first stage is ready.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from membrain_cloud.errors import InputError
from membrain_cloud.pipeline.planning.builder import PlanBuilder
from membrain_cloud.pipeline.planning.digests import Registry, choose_stages
from membrain_cloud.pipeline.planning.estimates import Estimate, Total, estimates, total
from membrain_cloud.pipeline.planning.receipt_index import ReceiptIndex
from membrain_cloud.pipeline.settings import PlanSettings, Settings
from membrain_cloud.pipeline.tasks import Job, Kind, Outcome, Ref, Task
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.store.projects.project import Project


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes
    ----------
    job : Job
        What all tasks share.
    stages : tuple of str
        Names of the chosen stages, in the pipeline's order.
    runs : tuple of str
        Names of the copick runs.
    sessions : mapping of str to str
        copick session to which each chosen stage writes.
    tasks : tuple of Task
        The tasks that are left, in the order in which they are started.
    outcomes : tuple of Outcome
        Stages on runs for which nothing is left to do: skipped (done before), failed (refused) or blocked.
    refs : mapping of str to mapping
        Run -> what its stages read, by role: density, labels, instances, meshes, picks.
    estimates : mapping of str to Estimate
        What is left of each stage, and what it will take.
    """

    job: Job
    stages: tuple[str, ...]
    runs: tuple[str, ...]
    sessions: Mapping[str, str]
    tasks: tuple[Task, ...]
    outcomes: tuple[Outcome, ...]
    refs: Mapping[str, Mapping[str, Ref]]
    estimates: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def total(self) -> Total:
        """The sum of the estimates over all stages."""
        return total(self.estimates, PlanSettings.model_validate(self.job.settings.get("plan", {})))


def plan(
    project: Project,
    settings: Settings,
    registry: Registry,
    *,
    runs: Sequence[str] | None = None,
    stages: Sequence[str] | None = None,
    worker_memory_bytes: Mapping[Kind, int] | int | None = None,
) -> Plan:
    """Make the plan of a run. Nothing is written and no voxel is read.

    A run whose input is bad does not raise: it is among the plan's `outcomes`, failed.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of all stages.
    registry : mapping of str to Stage
        All stages.
    runs : sequence of str or None
        Names of copick runs. Default: all.
    stages : sequence of str or None
        Names of stages. Default: all that no given annotation replaces.
    worker_memory_bytes : mapping of str to int, int or None
        Memory in bytes of the largest worker for GPU tasks ("gpu") and for CPU tasks ("cpu"), or one number for both;
        stages that need more are refused. Default: no limit.

    Returns
    -------
    Plan
        The tasks that are left, and the outcomes of the others.

    Raises
    ------
    ProjectError
        If there is no run of a name.
    InputError
        If the project has no runs.
    UsageError
        If there is no stage of a name, or a named session holds results of other settings.
    ModelError
        If a model is unknown.
    StorageError
        If a newer version of this package has written receipts.
    """
    stage_names = choose_stages(stages, settings, registry)
    tables = open_tables(project, settings.output.tables)
    run_names = _choose_runs(project, runs)
    job = Job(project.config, tables.url, settings.as_dict())
    builder = PlanBuilder(
        project, settings, registry, stages=stage_names, job=job, worker_memory_bytes=worker_memory_bytes
    )
    run_plans = builder.plan_runs(run_names)
    receipts = ReceiptIndex.of({"project": project.receipts, "tables": tables.receipts}, run_plans)
    receipts.refuse_newer()
    if settings.output.session != "auto" and not settings.output.replace:
        receipts.refuse_other_settings(run_plans, settings)
    if not runs:
        for name, error in project.bad_runs().items():
            builder.refuse(name, error)
    for run_plan in run_plans:
        builder.decide(run_plan, receipts)
    tasks = builder.ordered_tasks()
    return Plan(
        job,
        stage_names,
        run_names,
        {name: builder.digests.sessions[name] for name in stage_names},
        tasks,
        tuple(builder.outcomes),
        {run_plan.run: run_plan.refs for run_plan in run_plans},
        estimates(project, settings, registry, stage_names, tasks=tasks, run_plans=run_plans, samples=receipts.samples),
    )


def _choose_runs(project: Project, runs: Sequence[str] | None) -> tuple[str, ...]:
    if runs:
        project.tomograms(runs, None, None)  # refuses names that are not there
        return tuple(sorted(set(runs)))
    names = project.runs()
    if not names and not project.bad_runs():
        raise InputError(
            f"{project.config}: the project has no runs", "add tomograms with `membrain-cloud project init`"
        )
    return tuple(names)
