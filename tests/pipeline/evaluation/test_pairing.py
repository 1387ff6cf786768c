"""Which kind of annotation two URIs name, and in which runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.pipeline.evaluation.pairing import Pair, pairs_of_one_kind
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

ALICE, BOB = "membrane:alice/1", "membrane:bob/1"
TRIANGLE = Mesh(np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0]]), np.array([[0, 1, 2]], np.int32))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project in which both users have masks of TS_1 and meshes of TS_1 and TS_2, and alice has TS_3's."""
    project = create_project(str(tmp_path / "p"), objects=[("membrane", False, None), ("psii", True, None)])
    for user in ("alice", "bob"):
        mask = SegmentationRef("TS_1", "membrane", user, "1", 10.0)
        project.write_segmentation(mask, np.ones((8, 8, 8), np.uint8), chunk=8)
        for run in ("TS_1", "TS_2") if user == "bob" else ("TS_1", "TS_2", "TS_3"):
            project.write_meshes(ObjectRef(run, "membrane", user, "1"), {1: TRIANGLE})
    return project


def test_masks_come_first_and_a_kind_can_be_asked_for(project: Project) -> None:
    kind, pairs = pairs_of_one_kind(project, ["TS_1"], ALICE, BOB, None)
    assert kind == "segmentations"
    assert pairs == [Pair("TS_1", *(SegmentationRef("TS_1", "membrane", user, "1", 10.0) for user in ("alice", "bob")))]
    kind, pairs = pairs_of_one_kind(project, [], ALICE, BOB, "meshes")
    assert (kind, [pair.run for pair in pairs]) == ("meshes", ["TS_1", "TS_2"])
    assert pairs[1].second == ObjectRef("TS_2", "membrane", "bob", "1")


def test_runs_of_different_kinds_are_refused(project: Project) -> None:
    with pytest.raises(UsageError, match=r"TS_2: .* are no segmentations, as asked for or as in other runs"):
        pairs_of_one_kind(project, [], ALICE, BOB, None)
    project.write_picks(ObjectRef("TS_1", "psii", "carol", "1"), Picks(np.zeros((1, 3))))
    with pytest.raises(UsageError, match="psii:carol/1 is picks"):
        pairs_of_one_kind(project, [], ALICE, "psii:carol/1", None)


def test_what_no_run_has_is_named_with_what_there_is(project: Project) -> None:
    with pytest.raises(ProjectError, match=r"no run has membrane:dave/1 -> there are: .*alice.*\(segmentation\)"):
        pairs_of_one_kind(project, [], ALICE, "membrane:dave/1", None)
