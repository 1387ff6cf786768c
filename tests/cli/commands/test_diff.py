"""`membrain-cloud diff` on a small project."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from standins.command_line import call

from membrain_cloud.cli.commands.diff import diff as diff_command
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project where alice split membrane 1, kept 2 and added one; one pick moved, one is gone."""
    project = create_project(str(tmp_path), objects=[("membrane", False, "GO:0016020"), ("psii", True, None)])
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), np.zeros((8, 12, 14), np.float32))
    project.write_tomogram(TomogramRef("TS_2", "wbp", 10.0), np.zeros((8, 12, 14), np.float32))
    before = np.zeros((8, 12, 14), np.uint8)
    before[1], before[4] = 1, 2
    after = before.copy()
    after[1, 6:], after[1, 5] = 3, 0
    after[7] = 4
    for user, session, labels in (("membrain", "1a2b", before), ("alice", "3", after)):
        project.write_segmentation(SegmentationRef("TS_1", "membrane", user, session, 10.0, True), labels, chunk=5)
        mask = (labels > 0).astype(np.uint8)
        project.write_segmentation(SegmentationRef("TS_1", "membrane", user, session, 10.0), mask, chunk=5)
    project.write_picks(
        ObjectRef("TS_1", "psii", "membrain", "1a2b"), Picks(np.array([[0.0, 0, 0], [90, 0, 0], [0, 90, 0]]))
    )
    project.write_picks(ObjectRef("TS_1", "psii", "alice", "3"), Picks(np.array([[20.0, 0, 0], [90, 0, 0]])))
    triangle = Mesh(np.eye(3) * 100, np.array([[0, 1, 2]], np.int32))
    project.write_meshes(ObjectRef("TS_1", "membrane", "membrain", "1a2b"), {1: triangle})
    return project


def diff(project: Project, *words: str) -> Any:
    result = CliRunner().invoke(diff_command, [project.config, *words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_instances(project: Project) -> None:
    (row,) = diff(project, "membrane:membrain/1a2b@10.0?instance=true", "membrane:alice/3@10.0?instance=true")
    assert (row["voxels_first"], row["voxels_second"], row["voxels_both"]) == (336, 490, 322)
    assert row["split"] == [[1, [1, 3]]]
    assert row["matched"] == [[2, 2]]
    assert (row["new"], row["gone"], row["merged"]) == ([4], [], [])


def test_picks(project: Project) -> None:
    (row,) = diff(project, "psii:membrain/1a2b", "psii:alice/3", "--radius", "30")
    assert (row["picks_matched"], row["picks_moved"], row["picks_gone"], row["picks_new"]) == (2, 1, 1, 0)
    assert row["median_move_angstrom"] == 20
    (near,) = diff(project, "psii:membrain/1a2b", "psii:alice/3", "--radius", "10")
    assert (near["picks_matched"], near["picks_gone"], near["picks_new"]) == (1, 2, 1)


def test_sessions_compare_everything_of_one_name(project: Project) -> None:
    rows = {row["kind"]: row for row in diff(project, "membrain/1a2b", "alice/3")}
    assert set(rows) == {"instances", "segmentation", "picks", "mesh"}
    assert rows["segmentation"]["dice"] == pytest.approx(2 * 322 / (336 + 490))
    assert rows["mesh"]["only"] == "first"
    same = {row["kind"]: row for row in diff(project, "membrain/1a2b", "membrain/1a2b")}
    assert same["segmentation"]["dice"] == 1
    assert same["picks"]["picks_moved"] == 0
    assert same["mesh"]["area_first_nm2"] == same["mesh"]["area_second_nm2"] > 0


def test_without_json_tables_are_printed(project: Project) -> None:
    result = call("diff", project.config, "membrain/1a2b", "alice/3")
    assert result.exit_code == 0
    assert "picks moved" in result.output


@pytest.mark.parametrize("words", [("a/1", "b/2"), ("membrane:a/1@10", "b/2"), ("x", "y"), ("psii:a/1", "psii:b/2")])
def test_nothing_to_compare_is_an_error(project: Project, words: tuple[str, str]) -> None:
    result = call("diff", project.config, *words)
    assert result.exit_code == 2
    assert "->" in result.output
