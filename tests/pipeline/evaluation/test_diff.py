"""Differences between two annotations, by URIs and by sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.pipeline.evaluation.diff import differences
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

POSITIONS = np.array([[0.0, 0, 0], [500, 0, 0], [0, 900, 0]])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project in which bob has moved one of alice's picks, removed one, and added one."""
    project = create_project(str(tmp_path / "p"), objects=[("membrane", False, None), ("psii", True, None)])
    edited = np.concatenate([POSITIONS[:1], POSITIONS[1:2] + 20.0, [[3000.0, 0, 0]]])
    for user, positions in (("alice", POSITIONS), ("bob", edited)):
        project.write_picks(ObjectRef("TS_1", "psii", user, "1"), Picks(positions))
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[1:3], labels[5:7] = 1, 2
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 10.0, True), labels, chunk=8)
    labels[5:7] = 0
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "bob", "1", 10.0, True), labels, chunk=8)
    return project


def test_picks_that_were_moved_removed_and_added_are_counted(project: Project) -> None:
    (row,) = differences(project, None, "psii:alice/1", "psii:bob/1", radius_angstrom=100.0)
    assert (row["run"], row["kind"], row["name"]) == ("TS_1", "picks", "psii")
    counts = {name.removeprefix("picks_"): row[name] for name in row if name.startswith("picks_")}
    assert counts == {"first": 3, "second": 3, "matched": 2, "moved": 1, "gone": 1, "new": 1}
    assert row["median_move_angstrom"] == pytest.approx(20.0 * np.sqrt(3))


def test_instances_are_matched_and_areas_compared(project: Project) -> None:
    uris = [f"membrane:{user}/1?instance=true" for user in ("alice", "bob")]
    (row,) = differences(project, ["TS_1"], *uris, radius_angstrom=100.0)
    assert row["kind"] == "instances"
    assert (row["voxels_first"], row["voxels_second"], row["voxels_both"]) == (256, 128, 128)
    assert row["dice"] == pytest.approx(2 * 128 / 384)
    assert (row["gone"], row["new"]) == ([2], [])
    shape = trimesh.creation.icosphere(2, radius=100.0)
    mesh = Mesh(np.array(shape.vertices, float), np.array(shape.faces, np.int32))
    for user, meshes in (("alice", {1: mesh}), ("bob", {1: mesh, 2: Mesh(mesh.vertices + 900, mesh.faces)})):
        project.write_meshes(ObjectRef("TS_1", "vesicle", user, "1"), meshes)
    (row,) = differences(project, None, "vesicle:alice/1", "vesicle:bob/1", radius_angstrom=100.0)
    assert (row["kind"], row["meshes_first"], row["meshes_second"]) == ("mesh", 1, 2)
    assert row["area_second_nm2"] == pytest.approx(2 * row["area_first_nm2"])
    assert row["area_first_nm2"] == pytest.approx(4 * np.pi * 10.0**2, rel=0.02)


def test_sessions_list_what_only_one_has(project: Project) -> None:
    project.write_picks(ObjectRef("TS_1", "rubisco", "bob", "1"), Picks(POSITIONS))
    rows = differences(project, None, "alice/1", "bob/1", radius_angstrom=100.0)
    assert [(row["kind"], row["name"], row.get("only")) for row in rows] == [
        ("instances", "membrane", None),
        ("picks", "psii", None),
        ("picks", "rubisco", "second"),
    ]


def test_what_cannot_be_compared_is_refused(project: Project) -> None:
    with pytest.raises(UsageError, match="not of one kind"):
        differences(project, None, "psii:alice/1", "bob/1", radius_angstrom=100.0)
    with pytest.raises(UsageError, match="names no session"):
        differences(project, None, "alice", "bob/1", radius_angstrom=100.0)
    with pytest.raises(ProjectError, match="no run has"):
        differences(project, None, "psii:carol/1", "psii:dave/1", radius_angstrom=100.0)
    small = np.ones((4, 8, 8), np.uint8)
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "carol", "1", 10.0, True), small, chunk=8)
    uris = [f"membrane:{user}/1?instance=true" for user in ("alice", "carol")]
    with pytest.raises(InputError, match="one voxel spacing"):
        differences(project, None, *uris, radius_angstrom=100.0)
