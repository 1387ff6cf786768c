"""The stage `separate` on a small project: splitting, regions and borders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Grid
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.pipeline.stages.separate import SEPARATE
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

SHAPE = (48, 48, 80)


def vesicle(x: float, radius: float = 13.0) -> np.ndarray:
    z, y, along = np.indices(SHAPE, dtype=np.float32)
    return np.abs(np.sqrt((z - 24) ** 2 + (y - 24) ** 2 + (along - x) ** 2) - radius) <= 2.7


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two vesicles that touch, and a region that holds the left one."""
    made = create_project(str(tmp_path_factory.mktemp("p") / "project"), objects=[("membrane", False, None)])
    made.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), np.zeros(SHAPE, np.float32))
    labels = (vesicle(18.0) | vesicle(49.0)).astype(np.uint8)
    made.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 10.0), labels)
    region = np.zeros(SHAPE, np.uint8)
    region[:, :, :34] = 1
    made.ensure_object("cell", is_particle=False, identifier=None)
    made.write_segmentation(SegmentationRef("TS_1", "cell", "alice", "1", 10.0), region)
    made.write_segmentation(SegmentationRef("TS_1", "cell", "alice", "2", 10.0), region[:20])
    return made


def separated(project: Project, *overrides: str) -> tuple[np.ndarray | None, list[str]]:
    settings = load_settings(None, ["separate.segmentation=membrane:alice/1", *overrides])
    made = plan(project, settings, STAGES, stages=["separate"])
    outcomes = execute_plan(project, settings, made, InProcessRunner(), STAGES)
    failures = [o.line() for o in outcomes if o.state not in ("done", "skipped")]
    output = made.tasks[-1].output if made.tasks else None
    if failures or not isinstance(output, SegmentationRef):
        return None, failures
    return project.read_labels(output), failures


def test_touching_membranes_are_split_by_default(project: Project) -> None:
    labels, _ = separated(project)
    assert labels is not None
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, vesicle(18.0) | vesicle(49.0))
    whole, _ = separated(project, "separate.split=no")
    assert whole is not None
    assert whole.max() == 1


@pytest.mark.parametrize("region", ["cell:alice/1@10.0", "0,0,0,330,1000,1000"])
def test_only_membranes_in_the_region_are_numbered(project: Project, region: str) -> None:
    labels, failures = separated(project, f"separate.region={region}", "separate.min_voxels=3000")
    assert failures == []
    assert labels is not None
    assert labels.max() == 1
    assert not labels[:, :, 34:].any()


def test_the_edge_of_a_region_is_no_border(project: Project) -> None:
    labels, _ = separated(project, "separate.region=0,0,0,200,1000,1000", "separate.drop_border=yes")
    assert labels is not None
    assert labels.max() == 1


def test_a_region_on_another_grid_is_refused(project: Project) -> None:
    labels, failures = separated(project, "separate.region=cell:alice/2@10.0")
    assert labels is None
    assert "on the segmentation's grid" in failures[0]


def test_memory_is_that_of_the_largest_box_that_is_split() -> None:
    grid = Grid((100, 200, 200), 10.0)
    given = "separate.segmentation=membrane:alice/1"
    whole, bounded, unsplit = (
        SEPARATE.memory_bytes(grid, load_settings(None, [given, *more]))
        for more in ([], ["separate.split_voxels=1000"], ["separate.split=no"])
    )
    assert whole - unsplit == 14 * grid.voxels
    assert bounded - unsplit == 14 * 1000
