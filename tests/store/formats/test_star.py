"""Particles in the conventions of other programs, checked by turning a known structure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import emfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.store.formats.copick_files import picks_from_json, picks_to_json
from membrain_cloud.store.formats.motl import (
    is_stopgap,
    read_motive_list,
    read_stopgap,
    stopgap_text,
    write_motive_list,
    write_stopgap,
)
from membrain_cloud.store.formats.star import FLAVOURS, read_star_picks, star_text, write_star
from membrain_cloud.store.refs import ObjectRef

GRID = Grid((100, 200, 300), 8.0)
# A structure without any symmetry, in its own frame.
STRUCTURE = np.array([[10.0, 0, 0], [0, 20, 0], [0, 0, 30], [5, 6, 7]])


def some_picks(count: int = 40) -> Picks:
    rng = np.random.default_rng(0)
    turned = Rotation.random(count, random_state=1).as_matrix()
    turned[0] = np.eye(3)
    turned[1] = np.diag([1.0, -1.0, -1.0])
    return Picks(
        rng.uniform(0, 800, (count, 3)),
        turned,
        rng.uniform(size=count),
        rng.integers(1, 9, count),
        rng.random(count) > 0.5,
    )


def placed(picks: Picks) -> np.ndarray:
    """(N, 4, 3) the structure as it stands in the tomogram at each pick."""
    assert picks.orientations is not None
    return picks.positions[:, None] + STRUCTURE @ picks.orientations.transpose(0, 2, 1)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_star_flavours_come_back(tmp_path: Path, flavour: str) -> None:
    picks, path = some_picks(), str(tmp_path / "x.star")
    write_star(path, picks, voxel_spacing_angstrom=8.0, tomogram="TS_1", flavour=flavour, grid=GRID)
    found = read_star_picks(path, voxel_spacing_angstrom=8.0 if flavour == "surforama" else None, grid=GRID)
    np.testing.assert_allclose(placed(found), placed(picks), atol=2e-5)
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
        star_text(some_picks(), voxel_spacing_angstrom=1.0, tomogram="A", flavour="relion2")
    with pytest.raises(UsageError, match="centre"):
        star_text(some_picks(), voxel_spacing_angstrom=1.0, tomogram="A", flavour="relion5")


def test_relions_angles_turn_the_tomogram_into_the_particle(tmp_path: Path) -> None:
    """RELION: intrinsic rotations about Z, Y, Z by rot, tilt, psi are those of the reference's axes; so they are the
    inverse of what stands the structure into the tomogram.
    """
    picks, path = some_picks(), str(tmp_path / "x.star")
    write_star(path, picks, voxel_spacing_angstrom=8.0, tomogram="A", flavour="relion4")
    table = starfile.read(path)["particles"]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    centres = table[[f"rlnCoordinate{axis}" for axis in "XYZ"]].to_numpy() * 8.0
    turned = Rotation.from_euler("ZYZ", angles, degrees=True).inv()
    theirs = np.array([r.apply(STRUCTURE) + centre for r, centre in zip(turned, centres, strict=True)])
    np.testing.assert_allclose(theirs, placed(picks), atol=1e-4)


def test_motive_lists_turn_the_reference_into_the_tomogram(tmp_path: Path) -> None:
    """AV3, TOM and STOPGAP: the reference is turned about the fixed axes z, x, z by phi, theta, psi."""
    picks, path = some_picks(), str(tmp_path / "x.em")
    write_motive_list(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    _, values = emfile.read(path)
    rows = np.asarray(values).reshape(-1, 20)
    assert values.shape == (1, len(picks), 20)
    turned = Rotation.from_euler("zxz", rows[:, [16, 18, 17]].astype(float), degrees=True)
    centres = (rows[:, 7:10] - 1 + rows[:, 10:13]) * 8.0
    theirs = np.array([r.apply(STRUCTURE) + centre for r, centre in zip(turned, centres, strict=True)])
    np.testing.assert_allclose(theirs, placed(picks), atol=1e-3)
    assert (np.abs(rows[:, 10:13]) <= 0.5).all()
    assert set(rows[:, 4]) == {7.0}


def test_motive_lists_come_back(tmp_path: Path) -> None:
    picks, path = some_picks(), str(tmp_path / "x.em")
    write_motive_list(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    for number in (None, 7):
        found = read_motive_list(path, voxel_spacing_angstrom=8.0, tomogram_number=number)
        np.testing.assert_allclose(placed(found), placed(picks), atol=1e-3)
        np.testing.assert_allclose(found.scores, picks.scores, atol=1e-6)
        np.testing.assert_array_equal(found.membrane_ids, picks.membrane_ids)
        np.testing.assert_array_equal(found.in_plane, picks.in_plane)
    assert len(read_motive_list(path, voxel_spacing_angstrom=8.0, tomogram_number=8)) == 0


def test_stopgaps_lists_turn_the_reference_into_the_tomogram(tmp_path: Path) -> None:
    picks, path = some_picks(), str(tmp_path / "x.star")
    write_stopgap(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    table = starfile.read(path)
    assert list(table.columns) == [
        "motl_idx", "tomo_num", "object", "subtomo_num", "halfset", "orig_x", "orig_y", "orig_z", "score",
        "x_shift", "y_shift", "z_shift", "phi", "psi", "the", "class",
    ]  # fmt: skip
    turned = Rotation.from_euler("zxz", table[["phi", "the", "psi"]].to_numpy(float), degrees=True)
    whole, rest = (table[[name.format(axis) for axis in "xyz"]].to_numpy(float) for name in ("orig_{}", "{}_shift"))
    centres = (whole - 1 + rest) * 8.0
    theirs = np.array([r.apply(STRUCTURE) + centre for r, centre in zip(turned, centres, strict=True)])
    np.testing.assert_allclose(theirs, placed(picks), atol=1e-3)
    assert set(table["tomo_num"]) == {7}
    assert set(table["halfset"]) == {"A", "B"}


@pytest.mark.parametrize("count", [40, 1, 0])
def test_stopgaps_lists_come_back(tmp_path: Path, count: int) -> None:
    picks, path = some_picks(40).select(np.arange(40) < count), str(tmp_path / "x.star")
    write_stopgap(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    assert is_stopgap(path)
    found = read_stopgap(path, voxel_spacing_angstrom=8.0)
    assert len(found) == count
    np.testing.assert_allclose(placed(found), placed(picks), atol=1e-3)
    np.testing.assert_allclose(found.scores, picks.scores, atol=1e-5)
    np.testing.assert_array_equal(found.membrane_ids, picks.membrane_ids)
    np.testing.assert_array_equal(found.in_plane, picks.in_plane)
    again = stopgap_text(found, voxel_spacing_angstrom=8.0, tomogram_number=7)
    assert len(again.splitlines()) == len(Path(path).read_text().splitlines())


def test_stopgaps_lists_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    write_stopgap(str(path), some_picks(), voxel_spacing_angstrom=8.0, tomogram_number=7)
    with pytest.raises(VoxelSpacingError, match="unknown size"):
        read_stopgap(str(path), voxel_spacing_angstrom=None)
    path.write_text(path.read_text().replace("_phi\n", "_ph\n"))
    with pytest.raises(ProjectError, match="phi"):
        read_stopgap(str(path), voxel_spacing_angstrom=8.0)
    path.write_text(star_text(some_picks(), voxel_spacing_angstrom=8.0, tomogram="A"))
    with pytest.raises(ProjectError, match="STOPGAP"):
        read_stopgap(str(path), voxel_spacing_angstrom=8.0)
    assert not is_stopgap(str(path))


def test_motive_lists_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "x.em")
    rows = np.zeros((1, 2, 20), np.float32)
    rows[0, :, 4], rows[0, :, 19] = (1, 2), 1
    emfile.write(path, rows)
    with pytest.raises(VoxelSpacingError, match="unknown size"):
        read_motive_list(path, voxel_spacing_angstrom=None)
    with pytest.raises(UsageError, match="2 tomograms"):
        read_motive_list(path, voxel_spacing_angstrom=8.0)
    assert len(read_motive_list(path, voxel_spacing_angstrom=8.0, tomogram_number=2)) == 1
    rows[0, 0, 8] = np.nan
    emfile.write(path, rows, overwrite=True)
    with pytest.raises(ProjectError, match="gaps"):
        read_motive_list(path, voxel_spacing_angstrom=8.0, tomogram_number=1)
    Path(path).write_bytes(b"no EM file")
    with pytest.raises(ProjectError, match="cannot be read"):
        read_motive_list(path, voxel_spacing_angstrom=8.0)


def test_copicks_matrices_turn_the_particle_into_the_tomogram() -> None:
    import json

    picks = some_picks()
    ref = ObjectRef("TS_1", "p", "a", "1")
    content = picks_to_json(picks, ref)
    points = json.loads(content)["points"]
    theirs = []
    for point in points:
        matrix = np.array(point["transformation_"])
        theirs.append(STRUCTURE @ matrix[:3, :3].T + matrix[:3, 3] + [point["location"][axis] for axis in "xyz"])
    np.testing.assert_allclose(np.array(theirs), placed(picks), atol=1e-9)
    np.testing.assert_array_equal(picks_from_json(content, "x").in_plane, picks.in_plane)
    assert picks_from_json(picks_to_json(replace(picks, in_plane=None), ref), "x").in_plane is None


def test_copick_reads_over_what_is_ours() -> None:
    from copick.models import CopickPicksFile

    read = CopickPicksFile.model_validate_json(picks_to_json(some_picks(), ObjectRef("TS_1", "p", "a", "1")))
    assert read.points is not None
    assert len(read.points) == 40


def test_a_star_without_angles_has_no_orientations(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    path.write_text("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n1 2 3\n4 5 6\n")
    found = read_star_picks(str(path), voxel_spacing_angstrom=10.0)
    assert found.orientations is None
    np.testing.assert_array_equal(found.positions, [[10, 20, 30], [40, 50, 60]])
    with pytest.raises(VoxelSpacingError, match="size of its pixels"):
        read_star_picks(str(path))
