"""Results that are made again on request, and annotations that a plan must not overwrite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Picks
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning import invalidate
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings, load_settings
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    monkeypatch.setattr(invalidate, "STAGES", registry)


def left(project: Project, registry: Registry, settings: Settings) -> list[str]:
    return [task.key for task in plan(project, settings, registry).tasks]


def test_invalid_results_are_made_again_and_no_others(project: Project, registry: Registry) -> None:
    settings = Settings()
    execute_plan(project, settings, plan(project, settings, registry), InProcessRunner(), registry)
    assert invalidate.invalidate_results(project, settings, ["size"], ["TS_2"]) == 1
    assert left(project, registry, settings) == ["size/TS_2/whole"]
    assert invalidate.invalidate_results(project, settings, ["mask"], None) == 3
    assert len(left(project, registry, settings)) == 4


def named_plan(project: Project, registry: Registry) -> tuple[Settings, Plan]:
    settings = load_settings(None, ["output.session=mine", "output.user=membrain"])
    return settings, plan(project, settings, registry)


def test_annotations_of_others_are_found_before_they_are_overwritten(project: Project, registry: Registry) -> None:
    settings, made = named_plan(project, registry)
    assert invalidate.foreign_annotations(project, settings, made) == []
    project.write_picks(ObjectRef("TS_1", "voxels", "membrain", "mine"), Picks(np.ones((1, 3))))
    assert invalidate.foreign_annotations(project, settings, made) == ["TS_1/voxels:membrain/mine"]


def test_our_own_picks_have_a_receipt_of_the_stage(project: Project, registry: Registry) -> None:
    settings, made = named_plan(project, registry)
    execute_plan(project, settings, made, InProcessRunner(), registry)
    assert project.has(ObjectRef("TS_1", "voxels", "membrain", "mine"))
    assert invalidate.foreign_annotations(project, settings, made) == []


def test_our_own_masks_carry_a_mark(project: Project, registry: Registry) -> None:
    settings, made = named_plan(project, registry)
    project.write_segmentation(
        SegmentationRef("TS_1", "membrane", "membrain", "mine", 10.0), np.ones((8, 10, 12), bool)
    )
    assert invalidate.foreign_annotations(project, settings, made) == []
