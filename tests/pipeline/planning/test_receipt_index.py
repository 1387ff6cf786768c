"""What the receipts in a store say for a plan, with few requests however many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from membrain_cloud.errors import StorageError
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.builder import PlanBuilder
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.planning.receipt_index import SAMPLES, ReceiptIndex, remove_earlier_receipts
from membrain_cloud.pipeline.planning.records import RunPlan, StagePlan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings, load_settings
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.run_state.receipts import Receipts


def possible_tasks(project: Project, registry: Registry, settings: Settings) -> tuple[PlanBuilder, list[RunPlan]]:
    job = plan(project, settings, registry).job
    builder = PlanBuilder(project, settings, registry, stages=("mask", "size"), job=job, worker_memory_bytes=None)
    return builder, builder.plan_runs(project.runs())


def stores(project: Project) -> dict[str, Receipts]:
    return {"project": project.receipts, "tables": open_tables(project).receipts}


def test_every_possible_task_is_built_whatever_is_done(project: Project, registry: Registry) -> None:
    settings = Settings()
    execute_plan(project, settings, plan(project, settings, registry), InProcessRunner(), registry)
    builder, run_plans = possible_tasks(project, registry, settings)
    assert [run_plan.run for run_plan in run_plans] == ["TS_1", "TS_2", "TS_3"]
    assert all(isinstance(one, StagePlan) and len(one.tasks) == 1 for run in run_plans for one in run.stages.values())
    index = ReceiptIndex.of(stores(project), run_plans)
    for run_plan in run_plans:
        builder.decide(run_plan, index)
    assert builder.ordered_tasks() == ()
    assert {outcome.state for outcome in builder.outcomes} == {"skipped"}
    assert all(run_plan.is_begun for run_plan in run_plans)


def test_a_bounded_sample_of_receipts_is_read(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings()
    execute_plan(project, settings, plan(project, settings, registry), InProcessRunner(), registry)
    monkeypatch.setattr("membrain_cloud.pipeline.planning.receipt_index.SAMPLES", 2)
    _, run_plans = possible_tasks(project, registry, settings)
    samples = ReceiptIndex.of(stores(project), run_plans).samples
    assert {stage: len(receipts) for stage, receipts in samples.items()} == {"mask": 2, "size": 2}
    assert SAMPLES > 2


def test_a_receipt_of_other_settings_in_a_named_session_is_kept(project: Project, registry: Registry) -> None:
    first, second = (
        load_settings(None, ["output.session=mine", f"segment.threshold={threshold}"]) for threshold in (0, 1)
    )
    late = plan(project, second, registry).tasks[0]
    execute_plan(project, first, plan(project, first, registry, runs=["TS_1"]), InProcessRunner(), registry)
    names = project.receipts.names()
    with pytest.raises(StorageError, match="'mine' holds results of other settings"):
        remove_earlier_receipts(project.receipts, late, second)
    assert project.receipts.names() == names
    remove_earlier_receipts(project.receipts, late, load_settings(None, ["output.session=mine", "output.replace=yes"]))
    assert len(project.receipts.names()) == len(names) - 1
