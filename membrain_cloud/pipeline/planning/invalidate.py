"""Doing again what is done, and not overwriting what somebody else made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.pipeline.planning.digests import StageDigests
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.store.tables.open import open_tables
from membrain_cloud.store.volumes import ome_zarr as volumes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project


def invalidate_results(project: Project, settings: Settings, stages: Sequence[str], runs: Sequence[str] | None) -> int:
    """Remove the receipts of stages on runs (None: all), so that the next plan does them again; how many.

    In a named session those of other settings go too, which a plan would refuse to write beside.
    """
    chain = StageDigests.of(settings, STAGES, tuple(stages))
    tables = open_tables(project, settings.output.tables)
    removed = 0
    for stage in stages:
        in_tables = STAGES[stage].keeps_receipts_in == "tables"
        receipts = tables.receipts if in_tables else project.receipts
        for run in runs or project.runs():
            owner = f"{settings.output.user}_{chain.sessions[stage]}"
            if in_tables:
                owner = project.dataset_of(run) or settings.output.dataset
            for name in receipts.names(f"{stage}/{owner}/{run}"):
                receipts.remove(name)
                removed += 1
    return removed


def foreign_annotations(project: Project, settings: Settings, plan: Plan) -> list[str]:
    """Annotations that the plan would overwrite and that no run of ours has made."""
    found = set()
    for task in plan.tasks:
        if task.output is not None and project.has(task.output) and not _is_ours(project, settings, plan, task.output):
            found.add(task.output.key)
    return sorted(found)


def _is_ours(project: Project, settings: Settings, plan: Plan, ref: Ref) -> bool:
    """Of volumes their own mark says so; of meshes and picks that there are receipts of their session."""
    if isinstance(ref, SegmentationRef):
        return volumes.is_ours(volumes.read_attributes(*project.stored(ref)))
    assert isinstance(ref, ObjectRef)
    if settings.output.session == "auto":
        return True
    return any(project.receipts.names(f"{stage}/{ref.user}_{ref.session}/{ref.run}") for stage in ("mesh", "pick"))
