"""Scores of a run's results against a truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import InputError
from membrain_cloud.metrics.overlap import dice, surface_dice
from membrain_cloud.pipeline.evaluation.truth import Truth, evaluate_run
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

OURS = SegmentationRef("TS_1", "membrane", "membrain", "ab12", 10.0)
TRUTH = SegmentationRef("TS_1", "membrane", "alice", "3", 10.0)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return create_project(str(tmp_path / "p"), objects=[("membrane", False, None)])


def shell(radius: float) -> np.ndarray:
    z, y, x = np.indices((40, 44, 48))
    return (np.abs(np.sqrt((z - 20) ** 2 + (y - 22) ** 2 + (x - 24) ** 2) - radius) < 2.5).astype(np.uint8)


def test_blocks_give_what_whole_volumes_give(project: Project) -> None:
    project.write_segmentation(OURS, shell(12.0), chunk=16)
    project.write_segmentation(TRUTH, shell(13.0), chunk=24)
    scores = evaluate_run(
        project, "TS_1", {"labels": OURS}, Truth("membrane:alice/3", None, None), radius_angstrom=60.0
    )
    assert scores["dice"] == dice(shell(12.0), shell(13.0))
    assert (scores["surface_dice"], scores["surface_precision"], scores["surface_recall"]) == surface_dice(
        shell(12.0), shell(13.0)
    )
    assert 0.5 < scores["dice"] < scores["surface_dice"] <= 1.0


def test_a_truth_on_another_grid_is_refused(project: Project) -> None:
    project.write_segmentation(OURS, shell(12.0), chunk=16)
    project.write_segmentation(TRUTH, shell(12.0)[:30], chunk=16)
    with pytest.raises(InputError, match="voxel spacing"):
        evaluate_run(project, "TS_1", {"labels": OURS}, Truth("membrane:alice/3", None, None), radius_angstrom=60.0)
