"""Forget results so that they are made again, and find annotations that a plan must not overwrite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.pipeline.planning.digests import StageDigests
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.store.tables.open import open_tables
from membrain_cloud.store.volumes import multiscales

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Task
    from membrain_cloud.store.projects.project import Project


def invalidate_results(project: Project, settings: Settings, stages: Sequence[str], runs: Sequence[str] | None) -> int:
    """Remove the receipts of stages on runs, so that the next plan makes their results again.

    In a named session those of other settings are removed too, which a plan would refuse to replace.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of all stages.
    stages : sequence of str
        Names of stages.
    runs : sequence of str or None
        Names of copick runs; None: all.

    Returns
    -------
    int
        Number of receipts removed.
    """
    digests = StageDigests.of(settings, STAGES, tuple(stages))
    tables = open_tables(project, settings.output.tables)
    removed = 0
    for stage in stages:
        in_tables = STAGES[stage].keeps_receipts_in == "tables"
        receipts = tables.receipts if in_tables else project.receipts
        for run in runs or project.runs():
            owner = f"{settings.output.user}_{digests.sessions[stage]}"
            if in_tables:
                owner = project.dataset_of(run) or settings.output.dataset
            for name in receipts.names(f"{stage}/{owner}/{run}"):
                receipts.remove(name)
                removed += 1
    return removed


def foreign_annotations(project: Project, settings: Settings, plan: Plan) -> list[str]:
    """Find annotations that a plan would overwrite and that membrain-cloud has not made.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of all stages.
    plan : Plan
        The plan.

    Returns
    -------
    list of str
        Their copick URIs, sorted.
    """
    keys = set()
    for task in plan.tasks:
        if task.output is not None and project.has(task.output) and not _is_ours(project, settings, task):
            keys.add(task.output.key)
    return sorted(keys)


def _is_ours(project: Project, settings: Settings, task: Task) -> bool:
    """Return whether we made a task's output: volumes carry our mark, other files have receipts in their session."""
    ref = task.output
    if isinstance(ref, SegmentationRef):
        return multiscales.is_ours(multiscales.read_attributes(*project.stored(ref)))
    assert isinstance(ref, ObjectRef)
    if settings.output.session == "auto":
        return True
    return bool(project.receipts.names(f"{task.stage}/{ref.user}_{ref.session}/{ref.run}"))
