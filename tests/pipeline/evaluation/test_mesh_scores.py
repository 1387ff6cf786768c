"""Meshes of a project are compared tomogram by tomogram, by the function and by the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import trimesh
from click.testing import CliRunner
from PIL import Image

from membrain_cloud.cli import main
from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.pipeline.evaluation.mesh_scores import colours_of_farthest, mesh_scores
from membrain_cloud.pipeline.evaluation.pairing import pairs_of_one_kind
from membrain_cloud.pipeline.evaluation.scores import ALL_RUNS, Comparison, annotation_scores
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

ALICE, BOB = "membrane:alice/1", "membrane:bob/1"


def ball(radius: float, x: float = 1000.0) -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    centre = np.array([x, 1000.0, 1000.0])
    return Mesh(np.asarray(shape.vertices, np.float64) + centre, np.asarray(shape.faces, np.int32))


def keep(project: Project, run: str, user: str, *meshes: Mesh, name: str = "membrane") -> None:
    project.write_meshes(ObjectRef(run, name, user, "1"), dict(enumerate(meshes, 1)))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project: TS_1 has two membranes, of which bob has one, 10 Å larger; TS_2 has one, which both have."""
    project = create_project(str(tmp_path / "p"), objects=[("membrane", False, None), ("psii", True, None)])
    keep(project, "TS_1", "alice", ball(400.0), ball(200.0, 2000.0))
    keep(project, "TS_1", "bob", ball(410.0))
    keep(project, "TS_2", "alice", ball(300.0))
    keep(project, "TS_2", "bob", ball(300.0))
    return project


def compare(project: Project, first: str = ALICE, second: str = BOB, kind: str | None = None) -> Comparison:
    return annotation_scores(project, (), first, second, radius_angstrom=60.0, tolerance_angstrom=20.0, kind=kind)


def scored(project: Project, first: str = ALICE, second: str = BOB, kind: str | None = None) -> dict[str, Any]:
    return {row["run"]: row for row in compare(project, first, second, kind).rows}


def test_missing_and_shifted_membranes_lower_the_scores(project: Project) -> None:
    row = scored(project)["TS_1"]
    # of two spheres the one whose radius is twice as long has four fifths of the area
    assert row["mesh_precision"] == pytest.approx(0.8, abs=0.002)
    assert row["mesh_recall"] == 1.0
    assert row["mesh_f1"] == pytest.approx(2 * 0.8 / 1.8, abs=0.002)
    assert row["mesh_from_true_mean_angstrom"] == pytest.approx(10.0, rel=0.05)
    assert row["mesh_to_true_median_angstrom"] == pytest.approx(10.0, rel=0.05)
    farthest = 1000.0 + 200.0 - 410.0
    assert row["mesh_to_true_hausdorff_angstrom"] == pytest.approx(farthest, abs=2.0)
    assert row["mesh_hausdorff_angstrom"] == row["mesh_to_true_hausdorff_angstrom"]
    assert 400.0 < row["mesh_hausdorff_95_angstrom"] < farthest
    both = (row["mesh_to_true_mean_angstrom"], row["mesh_from_true_mean_angstrom"])
    assert row["mesh_chamfer_angstrom"] == pytest.approx(sum(both) / 2)
    assert row["area_nm2"] == pytest.approx(4 * np.pi * (40.0**2 + 20.0**2), rel=0.01)
    assert (row["components"], row["components_true"], row["membranes"], row["membranes_true"]) == (2, 1, 2, 1)
    assert row["normal_angle_degrees"] < 10.0
    assert "note" not in row


def test_equal_meshes_have_no_distance_and_tomograms_add_up(project: Project) -> None:
    comparison = compare(project)
    rows = {row["run"]: row for row in comparison.rows}
    assert (rows["TS_2"]["mesh_f1"], rows["TS_2"]["mesh_hausdorff_angstrom"]) == (1.0, pytest.approx(0.0, abs=1e-3))
    together = rows[ALL_RUNS]
    assert together["area_nm2"] == pytest.approx(rows["TS_1"]["area_nm2"] + rows["TS_2"]["area_nm2"])
    shares = [rows[run]["mesh_precision"] * rows[run]["area_nm2"] for run in ("TS_1", "TS_2")]
    assert together["mesh_precision"] == pytest.approx(sum(shares) / together["area_nm2"])
    assert together["mesh_hausdorff_angstrom"] == rows["TS_1"]["mesh_hausdorff_angstrom"]
    assert (together["components"], together["membranes"]) == (3, 3)
    assert comparison.meshes is not None
    assert comparison.meshes.farthest is not None
    assert comparison.meshes.farthest.run == "TS_1"


def test_meshes_of_other_programs_need_no_numbers_nor_shared_vertices(project: Project) -> None:
    scene = trimesh.Scene()
    for mesh in (ball(400.0), ball(200.0, 2000.0)):
        corners = mesh.vertices[mesh.faces].reshape(-1, 3)
        plain = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
        scene.add_geometry(plain)
    path = Path(project.root_url) / ObjectRef("TS_1", "membrane", "carol", "1").mesh_path
    path.write_bytes(scene.export(file_type="glb"))
    row = scored(project, second="membrane:carol/1")["TS_1"]
    assert row["mesh_hausdorff_angstrom"] == pytest.approx(0.0, abs=1e-3)
    assert (row["membranes_true"], row["components_true"], row["components"]) == (2, 2, 2)
    assert row["area_true_nm2"] == pytest.approx(row["area_nm2"])


def test_a_tomogram_with_an_empty_mesh_has_no_distances_but_a_note(project: Project) -> None:
    keep(project, "TS_2", "bob")
    rows = scored(project)
    assert (rows["TS_2"]["mesh_chamfer_angstrom"], rows["TS_2"]["mesh_hausdorff_angstrom"]) == (None, None)
    assert (rows["TS_2"]["mesh_precision"], rows["TS_2"]["mesh_recall"], rows["TS_2"]["mesh_f1"]) == (0.0, None, 0.0)
    assert rows["TS_2"]["note"] == "the second mesh is empty"
    assert rows[ALL_RUNS]["mesh_chamfer_angstrom"] == pytest.approx(rows["TS_1"]["mesh_chamfer_angstrom"])
    assert rows[ALL_RUNS]["mesh_precision"] < rows["TS_1"]["mesh_precision"]
    assert "empty mesh" in rows[ALL_RUNS]["note"]


def test_meshes_in_other_units_or_places_are_noted(project: Project) -> None:
    mesh = ball(300.0)
    keep(project, "TS_2", "bob", Mesh(mesh.vertices / 10.0, mesh.faces))
    note = scored(project)["TS_2"]["note"]
    assert "do not meet (first x 700..1300" in note
    assert "10 times as large along x, y and z" in note
    keep(project, "TS_2", "bob", ball(300.0, 5000.0))
    assert "do not meet" in scored(project)["TS_2"]["note"]
    assert "times as large" not in scored(project)["TS_2"]["note"]


def test_what_cannot_be_compared_is_refused(project: Project) -> None:
    with pytest.raises(ProjectError, match=r"no run has membrane:carol/1 -> there are: membrane:alice/1 \(mesh\)"):
        scored(project, second="membrane:carol/1")
    with pytest.raises(ProjectError, match="no run has vesicle:bob/1"):
        scored(project, second="vesicle:bob/1")
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:5] = 1
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "carol", "1", 10.0), mask, chunk=8)
    with pytest.raises(UsageError, match=r"alice/1 is a mesh, membrane:carol/1@10.0 is a segmentation.*give two"):
        scored(project, second="membrane:carol/1@10.0")
    project.write_picks(ObjectRef("TS_1", "psii", "expert", "1"), Picks(np.zeros((1, 3))))
    with pytest.raises(UsageError, match="psii:expert/1 is picks"):
        scored(project, second="psii:expert/1")
    keep(project, "TS_2", "bob", Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]], np.int32)))
    with pytest.raises(InputError, match="TS_2/membrane:bob/1, membrane 1: vertices that are no numbers"):
        scored(project)


def test_masks_come_before_meshes_unless_a_kind_is_given(project: Project) -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:5] = 1
    for user in ("alice", "bob"):
        project.write_segmentation(SegmentationRef("TS_1", "membrane", user, "1", 10.0), mask, chunk=8)
    assert set(scored(project, kind="meshes")) == {"TS_1", "TS_2", ALL_RUNS}
    assert scored(project, kind="segmentations")["TS_1"]["dice"] == 1.0
    assert "dice" in scored(project, "membrane:alice/1@10.0", "membrane:bob/1@10.0")["TS_1"]
    with pytest.raises(UsageError, match=r"TS_2: .* are no segmentations, as asked for or as in other runs.*the kind"):
        scored(project)
    with pytest.raises(UsageError, match="are no picks, as asked for"):
        scored(project, kind="picks")


def test_the_command_writes_rows_and_figure(project: Project, tmp_path: Path) -> None:
    arguments = ["evaluate", project.config, ALICE, BOB, "--tolerance", "5"]
    table, figure = tmp_path / "meshes.parquet", tmp_path / "meshes.png"
    result = CliRunner().invoke(main, [*arguments, "--table", str(table), "--figure", str(figure), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["run"] for row in rows] == ["TS_1", "TS_2", ALL_RUNS]
    assert (rows[0]["mesh_recall"], rows[0]["tolerance_angstrom"]) == (0.0, 5.0)
    assert pq.read_table(table).to_pylist() == rows
    with Image.open(figure) as image:
        assert image.size[0] > 1000
    comma = tmp_path / "meshes.csv"
    shown = CliRunner().invoke(main, [*arguments, "-r", "TS_1", "--table", str(comma)])
    assert "mesh hausdorff angstrom" in shown.stdout
    (row,) = csv.DictReader(comma.read_text().splitlines())
    assert float(row["mesh_chamfer_angstrom"]) == rows[0]["mesh_chamfer_angstrom"]
    lone = CliRunner().invoke(main, ["evaluate", project.config, "--truth", BOB, "--kind", "meshes"])
    assert (lone.exit_code, "two annotations" in lone.stderr) == (2, True)
    for no_length in ("0", "nan", "inf"):
        wrong = CliRunner().invoke(main, [*arguments[:-1], no_length])
        assert (wrong.exit_code, "tolerance" in wrong.stderr) == (2, True)


def test_empty_meshes_still_give_rows_and_a_figure(project: Project, tmp_path: Path) -> None:
    for user in ("alice", "bob"):
        keep(project, "TS_1", user)
    figure = tmp_path / "none.png"
    arguments = ["evaluate", project.config, ALICE, BOB, "-r", "TS_1", "--figure", str(figure), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["mesh_f1"], row["area_nm2"], row["note"]) == (None, 0.0, "the first and the second mesh are empty")
    assert figure.stat().st_size > 1000


def test_the_farthest_tomogram_is_coloured_by_distance(project: Project) -> None:
    _, pairs = pairs_of_one_kind(project, (), ALICE, BOB, "meshes")
    scores = mesh_scores(project, pairs, tolerance_angstrom=20.0)
    assert scores.rows == compare(project, kind="meshes").meshes.rows  # type: ignore[union-attr]
    (first, distances), (second, back) = colours_of_farthest(project, scores)
    assert (len(first.vertices), len(second.vertices)) == (len(distances), len(back))
    assert distances.max() == pytest.approx(790.0, abs=2.0)
    assert back.max() == pytest.approx(10.0, abs=2.0)
    only_equal = mesh_scores(project, [pair for pair in pairs if pair.run == "TS_2"], tolerance_angstrom=20.0)
    assert max(distances.max() for _, distances in colours_of_farthest(project, only_equal)) < 1e-3
    with pytest.raises(UsageError, match="tolerance"):
        mesh_scores(project, pairs, tolerance_angstrom=0.0)
