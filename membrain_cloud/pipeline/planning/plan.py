"""From settings and a project to the tasks that are left to do. Nothing is written here, and no voxel is read.

What is done is derived from the store: a task is done when a receipt is there whose name carries the task's digest
(chain.py, store/receipts.py).

The order of the tasks is the order in which they are to be started, as far as their needs and free workers allow:
tomograms begun come first, so that few are half done at any time; then large ones before small ones, so that no
large one is left for the end, when most workers have nothing more to do; within a tomogram the pipeline's order. GPUs
are kept fed by it: a tomogram's GPU stages go before the next tomogram's as soon as they can, and until then the
next tomogram's first stage is ready for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from membrain_cloud.errors import InputError
from membrain_cloud.pipeline.planning.candidates import Draft
from membrain_cloud.pipeline.planning.digests import Registry, choose_stages
from membrain_cloud.pipeline.planning.estimates import Estimate, Total, estimates, total
from membrain_cloud.pipeline.planning.receipt_index import ReceiptIndex
from membrain_cloud.pipeline.settings import PlanSettings, Settings
from membrain_cloud.pipeline.tasks import Job, Outcome, Ref, Task
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.store.projects.project import Project


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    tasks : left to do, in the order in which they are to be started (see the module).
    outcomes : known already: skipped (done before), failed (refused), blocked.
    memory_bytes : what each task will need, by its key.  sessions : copick session each stage writes to.
    refs : of each run, what its stages read, by role: density, labels, instances, meshes, picks.
    estimates : what is left of each stage, and what it will take.
    """

    job: Job
    stages: tuple[str, ...]
    runs: tuple[str, ...]
    sessions: Mapping[str, str]
    tasks: tuple[Task, ...]
    outcomes: tuple[Outcome, ...]
    memory_bytes: Mapping[str, int]
    refs: Mapping[str, Mapping[str, Ref]]
    estimates: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def total(self) -> Total:
        """What is left in all."""
        return total(self.estimates, PlanSettings.model_validate(self.job.settings.get("plan", {})))


def plan(
    project: Project,
    settings: Settings,
    registry: Registry,
    *,
    runs: Sequence[str] | None = None,
    stages: Sequence[str] | None = None,
    worker_memory_bytes: int | None = None,
) -> Plan:
    """The tasks that are left to do on `runs` (None: all) for `stages` (None: all that apply).

    Raises
    ------
    ProjectError : no such run, or a project without runs.  UsageError : no such stage, or a named session that holds
    results of other settings.  ModelError : no such model.  StorageError : receipts that a newer version wrote.
    A run whose input is bad does not raise: it is among `outcomes`, failed.
    """
    chosen = choose_stages(stages, settings, registry)
    tables = open_tables(project, settings.output.tables)
    names = _choose_runs(project, runs)
    job = Job(project.config, tables.url, settings.as_dict())
    draft = Draft(project, settings, registry, chosen, job, worker_memory_bytes)
    drafts = draft.all_runs(names)
    standing = ReceiptIndex.of({"project": project.receipts, "tables": tables.receipts}, drafts)
    standing.refuse_newer()
    if settings.output.session != "auto" and not settings.output.replace:
        standing.refuse_other_settings(drafts, settings)
    if not runs:
        for name, error in project.bad_runs().items():
            draft.refuse(name, error)
    for run in drafts:
        draft.settle(run, standing)
    tasks = draft.ordered_tasks()
    return Plan(
        job,
        chosen,
        names,
        {name: draft.chain.sessions[name] for name in chosen},
        tasks,
        tuple(draft.settled),
        draft.memory_bytes,
        {run.run: run.refs for run in drafts},
        estimates(project, settings, registry, chosen, tasks, drafts, standing),
    )


def _choose_runs(project: Project, runs: Sequence[str] | None) -> tuple[str, ...]:
    if runs:
        project.tomograms(runs, None, None)  # refuses names that are not there
        return tuple(sorted(set(runs)))
    known = project.runs()
    if not known and not project.bad_runs():
        raise InputError(f"{project.config}: the project has no runs", "add tomograms: membrain-cloud project init")
    return tuple(known)
