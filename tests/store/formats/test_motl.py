"""Motive lists in the conventions of AV3, TOM and STOPGAP, checked by placing a known structure."""

from __future__ import annotations

from pathlib import Path

import emfile
import numpy as np
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation
from standins.oriented_picks import STRUCTURE, placed_structures, random_picks

from membrain_cloud.errors import ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.store.formats.motl import (
    is_stopgap,
    read_motive_list,
    read_stopgap,
    stopgap_text,
    write_motive_list,
    write_stopgap,
)
from membrain_cloud.store.formats.star import star_text


def test_motive_lists_turn_the_reference_into_the_tomogram(tmp_path: Path) -> None:
    """AV3, TOM and STOPGAP rotate the reference about the fixed axes z, x, z by phi, theta, psi."""
    picks, path = random_picks(), str(tmp_path / "x.em")
    write_motive_list(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    _, values = emfile.read(path)
    rows = np.asarray(values).reshape(-1, 20)
    assert values.shape == (1, len(picks), 20)
    rotations = Rotation.from_euler("zxz", rows[:, [16, 18, 17]].astype(float), degrees=True)
    centres = (rows[:, 7:10] - 1 + rows[:, 10:13]) * 8.0
    theirs = np.array([r.apply(STRUCTURE) + centre for r, centre in zip(rotations, centres, strict=True)])
    np.testing.assert_allclose(theirs, placed_structures(picks), atol=1e-3)
    assert (np.abs(rows[:, 10:13]) <= 0.5).all()
    assert set(rows[:, 4]) == {7.0}


def test_motive_lists_come_back(tmp_path: Path) -> None:
    picks, path = random_picks(), str(tmp_path / "x.em")
    write_motive_list(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    for number in (None, 7):
        picks_read = read_motive_list(path, voxel_spacing_angstrom=8.0, tomogram_number=number)
        np.testing.assert_allclose(placed_structures(picks_read), placed_structures(picks), atol=1e-3)
        np.testing.assert_allclose(picks_read.scores, picks.scores, atol=1e-6)
        np.testing.assert_array_equal(picks_read.membrane_ids, picks.membrane_ids)
        np.testing.assert_array_equal(picks_read.in_plane, picks.in_plane)
    assert len(read_motive_list(path, voxel_spacing_angstrom=8.0, tomogram_number=8)) == 0


def test_stopgaps_lists_turn_the_reference_into_the_tomogram(tmp_path: Path) -> None:
    picks, path = random_picks(), str(tmp_path / "x.star")
    write_stopgap(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    table = starfile.read(path)
    assert list(table.columns) == [
        "motl_idx", "tomo_num", "object", "subtomo_num", "halfset", "orig_x", "orig_y", "orig_z", "score",
        "x_shift", "y_shift", "z_shift", "phi", "psi", "the", "class",
    ]  # fmt: skip
    rotations = Rotation.from_euler("zxz", table[["phi", "the", "psi"]].to_numpy(float), degrees=True)
    whole, rest = (table[[name.format(axis) for axis in "xyz"]].to_numpy(float) for name in ("orig_{}", "{}_shift"))
    centres = (whole - 1 + rest) * 8.0
    theirs = np.array([r.apply(STRUCTURE) + centre for r, centre in zip(rotations, centres, strict=True)])
    np.testing.assert_allclose(theirs, placed_structures(picks), atol=1e-3)
    assert set(table["tomo_num"]) == {7}
    assert set(table["halfset"]) == {"A", "B"}


@pytest.mark.parametrize("count", [40, 1, 0])
def test_stopgaps_lists_come_back(tmp_path: Path, count: int) -> None:
    picks, path = random_picks(40).select(np.arange(40) < count), str(tmp_path / "x.star")
    write_stopgap(path, picks, voxel_spacing_angstrom=8.0, tomogram_number=7)
    assert is_stopgap(path)
    picks_read = read_stopgap(path, voxel_spacing_angstrom=8.0)
    assert len(picks_read) == count
    np.testing.assert_allclose(placed_structures(picks_read), placed_structures(picks), atol=1e-3)
    np.testing.assert_allclose(picks_read.scores, picks.scores, atol=1e-5)
    np.testing.assert_array_equal(picks_read.membrane_ids, picks.membrane_ids)
    np.testing.assert_array_equal(picks_read.in_plane, picks.in_plane)
    again = stopgap_text(picks_read, voxel_spacing_angstrom=8.0, tomogram_number=7)
    assert len(again.splitlines()) == len(Path(path).read_text().splitlines())


def test_stopgaps_lists_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    write_stopgap(str(path), random_picks(), voxel_spacing_angstrom=8.0, tomogram_number=7)
    with pytest.raises(VoxelSpacingError, match="unknown size"):
        read_stopgap(str(path), voxel_spacing_angstrom=None)
    path.write_text(path.read_text().replace("_phi\n", "_ph\n"))
    with pytest.raises(ProjectError, match="phi"):
        read_stopgap(str(path), voxel_spacing_angstrom=8.0)
    path.write_text(star_text(random_picks(), voxel_spacing_angstrom=8.0, tomogram="A"))
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.just(20)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_any_motive_list_of_emfile_is_read_equal_or_refused(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "x.em"
    emfile.write(str(path), values[None], overwrite=True)
    whole = (values[:, 4:6] % 1 == 0).all() and (np.abs(values[:, 4:6]) < 2**31).all()
    if not whole or len(np.unique(values[:, 4])) > 1:
        with pytest.raises((ProjectError, UsageError), match="tomograms"):
            read_motive_list(str(path), voxel_spacing_angstrom=2.0)
        return
    picks = read_motive_list(str(path), voxel_spacing_angstrom=2.0)
    kept = values[values[:, 19] > 0].astype(np.float64)
    np.testing.assert_allclose(picks.positions, (kept[:, 7:10] - 1 + kept[:, 10:13]) * 2.0)
    np.testing.assert_array_equal(picks.scores, kept[:, 0])


def test_files_that_are_no_motive_list(tmp_path: Path) -> None:
    emfile.write(str(tmp_path / "x.em"), np.zeros((1, 20, 3), np.float32))
    for name in ("x.em", "gone.em"):
        with pytest.raises(ProjectError):
            read_motive_list(str(tmp_path / name), voxel_spacing_angstrom=1.0)
