"""Any two annotations of a project are compared; voxels to be ignored are left out."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from membrain_cloud.cli import main
from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Picks
from membrain_cloud.metrics.overlap import chamfer_angstrom, dice, pick_f1, pick_f1_one_to_one, surface_dice
from membrain_cloud.pipeline.evaluation.scores import ALL_RUNS, annotation_scores
from membrain_cloud.report.score_figure import scores_figure
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

SHAPE = (30, 34, 38)


def shell(radius: float) -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    return (np.abs(np.sqrt((z - 15) ** 2 + (y - 17) ** 2 + (x - 19) ** 2) - radius) < 2.5).astype(np.uint8)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = create_project(str(tmp_path / "p"), objects=[("membrane", False, None), ("psii", True, None)])
    for run, radius in (("TS_1", 10.0), ("TS_2", 8.0)):
        keep(project, run, "alice", shell(radius))
        keep(project, run, "bob", shell(radius + 1))
    return project


def keep(project: Project, run: str, user: str, labels: np.ndarray, name: str = "membrane") -> None:
    project.write_segmentation(SegmentationRef(run, name, user, "1", 10.0), labels.astype(np.uint8), chunk=16)


def scored(project: Project, first: str = "membrane:alice/1", second: str = "membrane:bob/1") -> dict[str, dict]:
    return {
        row["run"]: row
        for row in annotation_scores(project, (), first, second, radius_angstrom=60.0, tolerance_angstrom=20.0).rows
    }


def test_masks_score_as_whole_volumes_do_and_add_up(project: Project) -> None:
    rows = scored(project)
    for run, radius in (("TS_1", 10.0), ("TS_2", 8.0)):
        ours, true = shell(radius), shell(radius + 1)
        assert rows[run]["dice"] == dice(ours, true)
        surface = surface_dice(ours, true)
        assert (rows[run]["surface_dice"], rows[run]["surface_precision"], rows[run]["surface_recall"]) == surface
        assert rows[run]["precision"] == pytest.approx((ours & true).sum() / ours.sum())
        assert rows[run]["recall"] == pytest.approx((ours & true).sum() / true.sum())
        assert rows[run]["ignored_voxels"] == 0
    every = rows[ALL_RUNS]
    assert every["voxels"] == rows["TS_1"]["voxels"] + rows["TS_2"]["voxels"]
    assert min(rows[r]["dice"] for r in ("TS_1", "TS_2")) < every["dice"] < max(rows[r]["dice"] for r in rows)


def test_voxels_that_either_ignores_are_left_out(project: Project) -> None:
    ours, true, ignore = shell(10), shell(11), np.zeros(SHAPE, np.uint8)
    ignore[:, :, :19] = 1
    marks = np.where(ignore, 2, true)
    keep(project, "TS_1", "carol", marks)
    row = scored(project, second="membrane:carol/1")["TS_1"]
    assert row["dice"] == dice(ours, true, ignore)
    # The border of the ignored half is no edge of the true membrane: what lies beyond it is unknown.
    assert row["surface_dice"] == surface_dice(ours, (marks == 1).astype(np.uint8), ignore).score
    assert row["ignored_voxels"] == ignore.sum()


def test_voxels_outside_of_marked_patches_are_left_out(project: Project) -> None:
    ours, true = shell(10), shell(11)
    marks = np.zeros(SHAPE, np.uint8)
    patch = (slice(4, 28), slice(3, 20), slice(5, 30))
    marks[patch] = np.where(true[patch], 1, 3)
    keep(project, "TS_1", "carol", marks, "membrane-multilabel")
    outside = np.ones(SHAPE, np.uint8)
    outside[patch] = 0
    row = scored(project, second="membrane-multilabel:carol/1")["TS_1"]
    assert row["dice"] == dice(ours, true, outside)
    assert row["ignored_voxels"] == outside.sum()


def test_picks_are_scored_in_both_ways_and_by_their_distance(project: Project) -> None:
    rng = np.random.default_rng(0)
    ours, true = rng.uniform(0, 300, (20, 3)), rng.uniform(0, 300, (15, 3))
    for run in ("TS_1", "TS_2"):
        project.write_picks(ObjectRef(run, "psii", "alice", "1"), Picks(ours))
        project.write_picks(ObjectRef(run, "psii", "expert", "1"), Picks(true))
    rows = scored(project, "psii:alice/1", "psii:expert/1")
    for run in ("TS_1", "TS_2", ALL_RUNS):
        row = rows[run]
        paper = (row["particle_f1"], row["particle_precision"], row["particle_recall"])
        assert paper == pytest.approx(pick_f1(ours, true, 60.0))
        assert row["particle_f1_one_to_one"] == pytest.approx(pick_f1_one_to_one(ours, true, 60.0).score)
        assert row["particle_chamfer_angstrom"] == pytest.approx(chamfer_angstrom(ours, true))
    assert rows["TS_1"]["particle_f1"] > rows["TS_1"]["particle_f1_one_to_one"]
    assert rows[ALL_RUNS]["particles_true"] == 30


def test_what_cannot_be_compared_is_refused(project: Project) -> None:
    project.write_picks(ObjectRef("TS_1", "psii", "expert", "1"), Picks(np.zeros((1, 3))))
    with pytest.raises(UsageError, match="not of one kind"):
        scored(project, second="psii:expert/1")
    with pytest.raises(ProjectError, match="no run has both"):
        scored(project, second="membrane:absent/1")
    keep(project, "TS_1", "carol", shell(10)[:20])
    with pytest.raises(InputError, match="one voxel spacing"):
        scored(project, second="membrane:carol/1")


def test_rows_and_figure_are_written(project: Project, tmp_path: Path) -> None:
    arguments = ["evaluate", project.config, "membrane:alice/1@10.0", "membrane:bob/1@10.0"]
    table, figure = tmp_path / "scores.parquet", tmp_path / "scores.png"
    files = ["--table", str(table), "--figure", str(figure)]
    result = CliRunner().invoke(main, [*arguments, *files, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert pq.read_table(table).to_pylist() == rows
    with Image.open(figure) as image:
        assert image.size[0] > 300
    again = CliRunner().invoke(main, [*arguments, *files])
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert CliRunner().invoke(main, [*arguments, *files, "--overwrite"]).exit_code == 0
    comma = tmp_path / "scores.csv"
    assert CliRunner().invoke(main, [*arguments, "--table", str(comma)]).exit_code == 0
    assert comma.read_text().splitlines()[0].startswith("run,dice,precision")
    half = CliRunner().invoke(main, arguments[:3])
    assert half.exit_code == 2
    assert "two annotations" in half.stderr


def test_the_figure_has_a_dot_for_every_tomogram_of_a_group() -> None:
    rows = [{"run": f"TS_{k}", "fold": k % 2, "dice": 0.2 + 0.1 * k} for k in range(6)]
    one = scores_figure(rows, title="t", group="fold")
    assert one == scores_figure(rows, title="t", group="fold")
    with Image.open(io.BytesIO(one)) as image:
        colours = {tuple(c[1][:3]) for c in image.convert("RGB").getcolors(1 << 20) or ()}
    assert (0x2A, 0x9D, 0x8F) in colours
    assert (0xE7, 0x6F, 0x51) in colours
