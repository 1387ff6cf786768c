"""Folders of membrain-stats: their statistics agree with membrain-stats where it is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import starfile
from click.testing import CliRunner

from membrain_cloud import tables as analysis
from membrain_cloud.cli import main
from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.pipeline.projects.measure_folder import FolderOptions, measure_folder, parse_classes
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.store.formats.membrain_stats import Units
from membrain_cloud.store.tables.check import check_tables
from membrain_cloud.store.tables.parquet_tables import Tables

DATA = Path(__file__).parents[2] / "data" / "membrain_stats"
# A cut-off beyond the farthest neighbour of these few particles; simulations are tested elsewhere.
SETTINGS = load_settings(None, ["measure.cutoff_nm=45", "measure.simulations=0", "measure.bin_width_nm=5"])
FEW = load_settings(None, ["measure.cutoff_nm=10", "measure.simulations=0", "measure.bin_width_nm=5"])
OPTIONS = FolderOptions("thylakoids", objects={0: "psii", 1: "cytb6f"})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> analysis.Analysis:
    url = str(tmp_path_factory.mktemp("tables"))
    (run,) = measure_folder(str(DATA / "folder"), Tables(url), SETTINGS, OPTIONS)
    assert (run.run, run.state, run.membranes, run.particles, run.left_out) == ("TS_1", "done", 2, 54, 0)
    assert [problem for problem in check_tables(Tables(url)) if problem.level == "error"] == []
    return analysis.open(url)


def test_concentrations_agree_with_membrain_stats(measured: analysis.Analysis) -> None:
    theirs = starfile.read(DATA / "results" / "protein_concentration.star")
    ours = measured.frame("membranes").sort_values("membrane_id")
    np.testing.assert_allclose(ours["shell_area_nm2"], theirs["area"] / 100, rtol=1e-6)
    assert ours["n_particles"].tolist() == theirs["num_proteins"].tolist()
    np.testing.assert_allclose(ours["n_particles"] / ours["shell_area_nm2"], theirs["protein_concentration"], rtol=2e-4)
    # One side is half of a closed surface that is the shell of a bilayer.
    np.testing.assert_allclose(ours["one_sided_area_nm2"], theirs["area"] / 200, rtol=1e-6)


@pytest.mark.parametrize(("membrane", "radius", "centre"), [(1, 250.0, 400.0), (2, 200.0, 1200.0)])
def test_neighbours_agree_with_membrain_stats_where_it_is_right(
    measured: analysis.Analysis, membrane: int, radius: float, centre: float
) -> None:
    theirs = starfile.read(DATA / "results" / f"TS_1_mb{membrane}_nearest_neighbors.star")
    neighbors, particles = measured.frame("neighbors"), measured.frame("particles")
    own = particles[(particles["membrane_id"] == membrane) & (particles["object_name"] == "psii")]
    own = own.sort_values("particle_id")
    positions = own[[f"{axis}_angstrom" for axis in "xyz"]].to_numpy()
    np.testing.assert_allclose(positions, theirs[[f"start_position{axis}" for axis in "XYZ"]], atol=1e-3)
    alike = neighbors[(neighbors["membrane_id"] == membrane) & (neighbors["target_object_name"] == "psii")]
    nearest = alike[(alike["rank"] == 1) & (alike["object_name"] == "psii")].set_index("particle_id")
    nearest = nearest.loc[own["particle_id"]]
    units = (positions - centre) / np.linalg.norm(positions - centre, axis=1, keepdims=True)
    angles = np.arccos(np.clip(units @ units.T, -1.0, 1.0))
    np.fill_diagonal(angles, np.inf)
    exact = radius / 10 * angles.min(axis=1)
    ours, heat = nearest["geodesic_nm"].to_numpy(), theirs["nn0_distance"].to_numpy() / 10
    # Ours lie on a coarse mesh inside the sphere; theirs are heat distances between vertices: right to about 1 nm.
    np.testing.assert_allclose(ours, exact, rtol=0.02)
    assert np.abs(heat - exact).mean() > 3 * np.abs(ours - exact).mean()
    assert np.median(np.abs(heat - ours)) < 1.5
    clear = np.diff(np.sort(angles, axis=1)[:, :2])[:, 0] * radius / 10 > 3.0  # the second neighbour is clearly farther
    neighbour = own.set_index("particle_id").loc[nearest["target_id"], ["x_angstrom", "y_angstrom", "z_angstrom"]]
    agreeing = np.linalg.norm(neighbour - theirs[[f"nn0_position{axis}" for axis in "XYZ"]].to_numpy(), axis=1) < 0.01
    assert clear.sum() >= 3
    assert agreeing[clear].all()


def test_a_run_is_measured_again_when_a_file_or_setting_changes(tmp_path: Path) -> None:
    folder, store = tmp_path / "folder", Tables(str(tmp_path / "tables"))
    shutil.copytree(DATA / "folder", folder)

    def state(settings: object = FEW) -> str:
        (run,) = measure_folder(str(folder), store, settings, OPTIONS)  # type: ignore[arg-type]
        return run.state

    assert [state(), state()] == ["done", "skipped"]
    assert state(load_settings(None, ["measure.cutoff_nm=5", "measure.simulations=0"])) == "done"
    path = folder / "TS_1_mb1_clusters.star"
    starfile.write(starfile.read(path).iloc[:-1], path, overwrite=True)
    assert [state(), state()] == ["done", "skipped"]
    assert store.read("particles").num_rows == 53
    assert [problem for problem in check_tables(store) if problem.level == "error"] == []


def test_one_relion_file_for_all_membranes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    stars = []
    for number in (1, 2):
        shutil.copy(DATA / "folder" / f"TS_1_mb{number}.obj", folder)
        stars.append(starfile.read(DATA / "folder" / f"TS_1_mb{number}_clusters.star"))
    table = pd.concat(stars, ignore_index=True)
    table[[f"rlnCoordinate{axis}" for axis in "XYZ"]] /= 4.0
    table["rlnTomoName"], table["rlnTomoTiltSeriesPixelSize"] = "TS_1", 4.0
    starfile.write({"particles": table}, tmp_path / "all.star")
    runs = measure_folder(
        str(folder), Tables(str(tmp_path / "t")), FEW, FolderOptions("d", particles=str(tmp_path / "all.star"))
    )
    assert [(run.membranes, run.particles, run.left_out) for run in runs] == [(2, 54, 0)]
    particles = Tables(str(tmp_path / "t")).read("particles").to_pandas()
    assert particles.groupby("membrane_id").size().tolist() == [30, 24]
    assert set(particles["object_name"]) == {"particle-0", "particle-1"}


def test_files_of_membrain_pick_and_surforama(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(reference / "membrain-pick/predict_trained3ep/Tomo0001_mb2.h5", folder)
    shutil.copy(reference / "membrain-pick/surforama/Tomo0001_mb2_surforama.star", folder)
    options = FolderOptions("d", units=Units(positions=10.0))
    (run,) = measure_folder(str(folder), Tables(str(tmp_path / "t")), FEW, options)
    count = len(starfile.read(folder / "Tomo0001_mb2_surforama.star"))
    assert (run.state, run.run, run.membranes, run.particles + run.left_out) == ("done", "Tomo0001", 1, count)
    assert run.particles > 0
    membranes = Tables(str(tmp_path / "t")).read("membranes").to_pandas()
    assert membranes["membrane_id"].tolist() == [2]
    assert membranes["shell_area_nm2"].iloc[0] > 1000


def test_particles_within_the_h5(tmp_path: Path) -> None:
    from membrain_cloud.store.formats.meshes import read_obj

    mesh = read_obj(str(DATA / "folder/TS_1_mb1.obj"), unit_angstrom=1.0)
    with h5py.File(tmp_path / "vesicle.h5", "w") as file:
        file["points"], file["faces"] = mesh.vertices, mesh.faces[:, [0, 2, 1]]
        file["scores"], file["cluster_centers"] = np.zeros(len(mesh.vertices)), mesh.vertices[:7]
    (run,) = measure_folder(str(tmp_path), Tables(str(tmp_path / "t")), FEW, FolderOptions("d"))
    assert (run.run, run.membranes, run.particles) == ("vesicle", 1, 7)
    assert run.assumed_shells == 1  # one closed surface: a shell, or the mid-surface of a vesicle
    row = Tables(str(tmp_path / "t")).read("membranes").to_pylist()[0]
    assert row["volume_nm3"] > 0
    assert row["touches_border"] is None
    assert Tables(str(tmp_path / "t")).read("tomograms").to_pylist()[0]["volume_um3"] is None


def test_wrong_units_and_bad_files_do_not_stop_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(DATA / "folder", folder)
    (folder / "broken.obj").write_text("v 1 2\n")
    with h5py.File(folder / "voxels_mb1.h5", "w") as file:
        file["points"], file["faces"] = np.eye(3), [[0, 1, 2]]
    runs = {run.run: run for run in measure_folder(str(folder), Tables(str(tmp_path / "t")), FEW, FolderOptions("d"))}
    assert {name: run.state for name, run in runs.items()} == {"TS_1": "done", "broken": "failed", "voxels": "failed"}
    assert "broken.obj" in runs["broken"].message
    assert "pixel_size_multiplier" in runs["voxels"].message
    (folder / "TS_1_mb3.obj").write_text("v 1 2\n")
    runs = {run.run: run for run in measure_folder(str(folder), Tables(str(tmp_path / "t")), FEW, FolderOptions("d"))}
    assert (runs["TS_1"].state, runs["TS_1"].membranes, runs["TS_1"].bad_membranes) == ("done", 3, 1)
    membranes = Tables(str(tmp_path / "t")).read("membranes").to_pylist()
    assert [row["error"] is None for row in membranes] == [True, True, False]
    assert "TS_1_mb3.obj" in membranes[2]["error"]
    assert [problem for problem in check_tables(Tables(str(tmp_path / "t"))) if problem.level == "error"] == []
    wrong = FolderOptions("d", units=Units(positions=10.0))
    (run,) = measure_folder(str(DATA / "folder"), Tables(str(tmp_path / "u")), FEW, wrong)
    assert run.state == "failed"
    assert "check the units" in run.message
    with pytest.raises(ProjectError, match="no meshes"):
        measure_folder(str(DATA), Tables(str(tmp_path / "v")), FEW, FolderOptions("d"))


def test_classes_are_named(tmp_path: Path) -> None:
    assert parse_classes(["0=psii", "12=cyt b6f"]) == {0: "psii", 12: "cyt b6f"}
    for wrong in ("psii", "a=psii", "1=", "="):
        with pytest.raises(UsageError, match="number=name"):
            parse_classes([wrong])


def test_the_command(tmp_path: Path) -> None:
    sets = ["--set", "measure.simulations=0", "--set", "measure.cutoff_nm=10"]
    arguments = ["import", "statistics", str(DATA / "folder"), "--tables", str(tmp_path / "t"), "--class", "1=cytb6f"]
    result = CliRunner().invoke(main, [*arguments, *sets, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["particles"] == 54
    assert set(Tables(str(tmp_path / "t")).read("particles")["object_name"].to_pylist()) == {"particle-0", "cytb6f"}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.obj").write_text("")
    result = CliRunner().invoke(
        main, ["import", "statistics", str(tmp_path / "broken"), "--tables", str(tmp_path / "u")]
    )
    assert result.exit_code == 1
