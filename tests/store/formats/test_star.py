"""Particles as STAR and CSV, in RELION's conventions, checked by placing a known structure."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from standins.oriented_picks import STRUCTURE, placed_structures, random_picks

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.store.formats.star import (
    FLAVOURS,
    read_csv_picks,
    read_star_picks,
    star_particles,
    star_text,
    write_star,
)
from membrain_cloud.store.formats.volume_reader import read_volume

GRID = Grid((100, 200, 300), 8.0)


def test_star_comes_back(tmp_path: Path) -> None:
    picks = random_picks()
    path = str(tmp_path / "x.star")
    write_star(path, picks, voxel_spacing_angstrom=7.84, tomogram="TS_1")
    for found in (read_star_picks(path), read_star_picks(path, voxel_spacing_angstrom=7.84, tomogram="TS_1")):
        np.testing.assert_allclose(found.positions, picks.positions, atol=1e-5)
        np.testing.assert_allclose(found.orientations, picks.orientations, atol=1e-7)
        np.testing.assert_allclose(found.scores, picks.scores, atol=1e-6)
        np.testing.assert_array_equal(found.membrane_ids, picks.membrane_ids)
    write_star(path, Picks(np.zeros((0, 3))), voxel_spacing_angstrom=7.84, tomogram="TS_1")
    assert "_rlnCoordinateX" in Path(path).read_text()
    text = star_text(picks, voxel_spacing_angstrom=7.84, tomogram="TS_1")
    assert text == star_text(picks, voxel_spacing_angstrom=7.84, tomogram="TS_1")


def test_angles_are_those_of_copick() -> None:
    from copick.util.formats import _relion_eulers

    orientations = random_picks().orientations
    assert orientations is not None
    orientations = orientations[2:]  # the first two stand upright, where the angles are not unique
    lines = star_text(
        Picks(np.zeros((len(orientations), 3)), orientations), voxel_spacing_angstrom=1.0, tomogram="A"
    ).split("\n")
    ours = np.array([line.split("\t")[4:7] for line in lines if line.startswith("A\t")], np.float64)
    np.testing.assert_allclose(ours, _relion_eulers(orientations), atol=1e-5)


def test_star_of_relion_4_and_5(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    path.write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnTomoTiltSeriesPixelSize #2\n1 2.0\n\n"
        "data_particles\n\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnCoordinateZ #4\n"
        "_rlnOriginXAngst #5\n_rlnOriginYAngst #6\n_rlnOriginZAngst #7\n_rlnOpticsGroup #8\n"
        "A 10 20 30 1 2 3 1\nB 1 1 1 0 0 0 1\n"
    )
    np.testing.assert_allclose(read_star_picks(str(path), tomogram="A").positions, [[19, 38, 57]])
    moved = read_star_picks(str(path), tomogram="A", origin_angstrom=(9, 8, 7))
    np.testing.assert_allclose(moved.positions, [[10, 30, 50]])
    with pytest.raises(UsageError, match="2 tomograms"):
        read_star_picks(str(path))
    with pytest.raises(ProjectError, match="no tomogram 'C'"):
        read_star_picks(str(path), tomogram="C")
    path.write_text(
        "data_\n\nloop_\n_rlnTomoName #1\n"
        + "".join(f"_rlnCenteredCoordinate{axis}Angst #{k}\n" for k, axis in enumerate("XYZ", 2))
        + "A 5 -5 0\nA 0 0 0\n"
    )
    found = read_star_picks(str(path), grid=Grid((10, 20, 40), 10.0))
    np.testing.assert_allclose(found.positions, [[205, 95, 50], [200, 100, 50]])
    with pytest.raises(UsageError, match="centre"):
        read_star_picks(str(path))


def test_a_star_without_pixel_size_asks_for_it(reference: Path, tmp_path: Path) -> None:
    star = str(reference / "membrain-pick/input/gt/Tomo0001_mb1.star")
    with pytest.raises(VoxelSpacingError) as caught:
        read_star_picks(star)
    assert "voxel_spacing_angstrom" in caught.value.next_step
    found = read_star_picks(star, voxel_spacing_angstrom=10.0)
    np.testing.assert_allclose(found.positions[0], [368.23729, 535.86559, 323.04439], atol=1e-4)
    (tmp_path / "x.star").write_text("data_\n\nloop_\n_rlnVoltage #1\n300\n200\n")
    with pytest.raises(ProjectError, match="no coordinates"):
        read_star_picks(str(tmp_path / "x.star"))


def test_real_star(reference: Path) -> None:
    star = reference / "real/chlamy_star/10.1126-science.ads8738/star/atpase.star"
    found = read_star_picks(str(star), voxel_spacing_angstrom=1.96)
    assert len(found) == 933
    assert found.orientations is not None
    np.testing.assert_allclose(found.positions[0], np.array([756, 2256, 896]) * 1.96)


def test_particles_lie_along_the_normals_of_their_surface(reference: Path) -> None:
    """Surforama writes RELION's angles from the mesh's normals: read as their inverse they would not match."""
    import trimesh

    folder = reference / "membrain-pick"
    found = read_star_picks(str(folder / "surforama/Tomo0001_mb2_surforama.star"), voxel_spacing_angstrom=1.0)
    mesh = trimesh.load_mesh(folder / "mesh_data/Tomo0001_mb2.obj", process=False)
    nearest = np.linalg.norm(mesh.vertices[None] - found.positions[:, None], axis=2).argmin(1)
    assert found.orientations is not None
    along = np.sum(found.orientations[:, :, 2] * mesh.vertex_normals[nearest], axis=1)
    np.testing.assert_allclose(along, -1.0, atol=1e-3)  # surforama's normals point the other way


def test_real_photosystems_of_one_membrane_are_parallel(reference: Path) -> None:
    star = str(reference / "real/chlamy_star/10.1101-2024.12.28.630444/star/ps2.star")

    def parallel(**options: bool) -> float:
        found = read_star_picks(star, voxel_spacing_angstrom=1.96, tomogram="tomo_0024", **options)
        assert found.orientations is not None
        close = np.linalg.norm(found.positions[None] - found.positions[:, None], axis=2) < 300.0
        axes = found.orientations[:, :, 2]
        return float(np.abs(axes @ axes.T)[np.triu(close, 1)].mean())

    assert parallel() > 0.8
    assert parallel(inverse_angles=True) < 0.7


def test_angles_of_the_inverse_convention(reference: Path) -> None:
    """The simulator's STAR holds the rotation of the particle itself; its CSV has the particles' normals."""
    import pandas as pd

    star = str(reference / "simulated-mixed/membrane_particles.star")
    truth = pd.read_csv(reference / "simulated-mixed/particles.csv.gz")
    normals = truth[["nx", "ny", "nz"]].to_numpy()

    def agreement(inverse_angles: bool) -> float:
        found = read_star_picks(star, inverse_angles=inverse_angles)
        assert found.orientations is not None
        places = truth[["x_A", "y_A", "z_A"]].to_numpy()
        nearest = np.linalg.norm(places[None] - found.positions[:, None], axis=2).argmin(1)
        return float(np.sum(found.orientations[:, :, 2] * normals[nearest], axis=1).mean())

    assert agreement(True) > 0.999
    assert agreement(False) < 0.5


def test_csv(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("x,y,z,score\n1,2,3,0.5\n")
    found = read_csv_picks(str(path), voxel_spacing_angstrom=10.0)
    np.testing.assert_allclose(found.positions, [[10, 20, 30]])
    assert found.scores.tolist() == [0.5]
    with pytest.raises(VoxelSpacingError):
        read_csv_picks(str(path))
    for content, why in (
        ("a,b\n1,2\n", "no columns"),
        ("x_A,y_A,z_A\n1,,3\n", "gaps"),
        ("x_A,y_A,z_A\n1,u,3\n", "not numb"),
    ):
        path.write_text(content)
        with pytest.raises(ProjectError, match=why):
            read_csv_picks(str(path))
    thylakoid = reference / "real/thylakoid_membrain1"
    labels, header = read_volume(str(thylakoid / "T1S1M1_crop_z194y280x68.mrc.gz"))
    picks = read_csv_picks(str(thylakoid / "T1S1M1_picks.csv"), origin_angstrom=header.origin)
    voxels = np.argwhere(labels > 0)[:, ::-1] * 13.68
    distances = [np.linalg.norm(voxels - position, axis=1).min() for position in picks.positions]
    assert len(picks) == 105
    assert max(distances) < 3 * 13.68


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_star_flavours_come_back(tmp_path: Path, flavour: str) -> None:
    picks, path = random_picks(), str(tmp_path / "x.star")
    write_star(path, picks, voxel_spacing_angstrom=8.0, tomogram="TS_1", flavour=flavour, grid=GRID)
    found = read_star_picks(path, voxel_spacing_angstrom=8.0 if flavour == "surforama" else None, grid=GRID)
    np.testing.assert_allclose(placed_structures(found), placed_structures(picks), atol=2e-5)
    if flavour == "surforama":
        assert list(starfile.read(path).columns) == [
            *(f"rlnCoordinate{axis}" for axis in "XYZ"),
            *(f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")),
        ]
        return
    np.testing.assert_allclose(found.scores, picks.scores, atol=1e-6)
    np.testing.assert_array_equal(found.membrane_ids, picks.membrane_ids)
    np.testing.assert_array_equal(found.in_plane, picks.in_plane)
    blocks = starfile.read(path, always_dict=True)
    assert set(blocks) == ({"particles"} if flavour == "plain" else {"optics", "particles"})


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_picks_are_a_valid_star(tmp_path: Path, flavour: str) -> None:
    path = str(tmp_path / "x.star")
    nothing = Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))
    write_star(path, nothing, voxel_spacing_angstrom=8.0, tomogram="TS_1", flavour=flavour, grid=GRID)
    assert len(read_star_picks(path, voxel_spacing_angstrom=8.0, grid=GRID)) == 0


def test_flavours_refused() -> None:
    with pytest.raises(UsageError, match="flavour"):
        star_text(random_picks(), voxel_spacing_angstrom=1.0, tomogram="A", flavour="relion2")
    with pytest.raises(UsageError, match="centre"):
        star_text(random_picks(), voxel_spacing_angstrom=1.0, tomogram="A", flavour="relion5")


def test_relions_angles_turn_the_tomogram_into_the_particle(tmp_path: Path) -> None:
    """RELION's intrinsic ZYZ rotation by rot, tilt, psi is the inverse of the one that places the structure."""
    picks, path = random_picks(), str(tmp_path / "x.star")
    write_star(path, picks, voxel_spacing_angstrom=8.0, tomogram="A", flavour="relion4")
    table = starfile.read(path)["particles"]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    centres = table[[f"rlnCoordinate{axis}" for axis in "XYZ"]].to_numpy() * 8.0
    rotations = Rotation.from_euler("ZYZ", angles, degrees=True).inv()
    theirs = np.array([r.apply(STRUCTURE) + centre for r, centre in zip(rotations, centres, strict=True)])
    np.testing.assert_allclose(theirs, placed_structures(picks), atol=1e-4)


def test_rows_of_one_tomogram_keep_all_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    path.write_text(
        "data_\n\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnCoordinateZ #4\n"
        "_rlnClassNumber #5\n"
        "A 1 2 3 7\nB 4 5 6 8\n"
    )
    table = star_particles(str(path), "B")
    assert table["rlnClassNumber"].tolist() == ["8"]
    with pytest.raises(UsageError, match="2 tomograms"):
        star_particles(str(path))


def test_a_star_without_angles_has_no_orientations(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    path.write_text("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n1 2 3\n4 5 6\n")
    found = read_star_picks(str(path), voxel_spacing_angstrom=10.0)
    assert found.orientations is None
    np.testing.assert_array_equal(found.positions, [[10, 20, 30], [40, 50, 60]])
    with pytest.raises(VoxelSpacingError, match="size of its pixels"):
        read_star_picks(str(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 3, st.floats(-10, 10) | st.none()), max_size=4),
    quote=st.booleans(),
)
def test_any_csv_of_pandas_is_read_equal(tmp_path: Path, rows: list[tuple[float, ...]], quote: bool) -> None:
    table = pd.DataFrame(rows, columns=["x_A", "y_A", "z_A", "score"], dtype=float)
    table.to_csv(tmp_path / "x.csv", index=quote, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL)
    picks = read_csv_picks(str(tmp_path / "x.csv"))
    np.testing.assert_array_equal(picks.positions, table[["x_A", "y_A", "z_A"]].to_numpy())
    np.testing.assert_array_equal(picks.scores, table["score"].fillna(1.0))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "empty"),
        ("x_A,y_A,z_A\n1,2\n", "row 1 has 2 values for 3 columns"),
        ("x_A,y_A,z_A\n1,2,3\n1,2,3,4\n", "row 2 has 4 values"),
        ("x_A;y_A;z_A\n1;2;3\n", "no columns of positions"),
        ("x_A,y_A,z_A\n1,,3\n", "gaps in 1 of 1 rows"),
        ("x_A,y_A,z_A,x_A\n1,2,3,4\n", "names a column twice"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ProjectError, match=cause):
        read_csv_picks(str(tmp_path / "x.csv"))
