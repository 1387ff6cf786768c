"""Volumes from Python: any format, levels of a pyramid, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest

import membrain_cloud as mc
from membrain_cloud.api.frames import rows_as_frame
from membrain_cloud.api.inputs import grid_of
from membrain_cloud.api.phantoms import simulate
from membrain_cloud.api.volumes import read_volume
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
    from pathlib import Path


def test_an_mrc_file_that_mrcfile_wrote_is_read_equal(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-100, 100, (5, 6, 7)).astype(np.int16)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(voxels)
        file.voxel_size = 7.84
    volume = read_volume(tmp_path / "a.mrc")
    np.testing.assert_array_equal(volume.array, voxels)
    assert volume.voxel_spacing_angstrom == pytest.approx(7.84, rel=1e-5)


def test_levels_of_an_ome_zarr_pyramid_are_read(tmp_path: Path) -> None:
    project = create_project(str(tmp_path / "project"), objects=[])
    density = np.random.default_rng(0).standard_normal((64, 64, 64)).astype(np.float32)
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), density)
    (path,) = (tmp_path / "project").rglob("wbp.zarr")
    fine, coarse = read_volume(path), read_volume(path, level=1)
    np.testing.assert_array_equal(fine.array, density)
    assert coarse.array.shape == (32, 32, 32)
    assert coarse.voxel_spacing_angstrom == 20.0
    with pytest.raises(mc.MembrainCloudError, match="level 9"):
        read_volume(path, level=9)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(mc.MembrainCloudError, match=r"no\.mrc"):
        read_volume(tmp_path / "no.mrc")


def test_the_same_seed_gives_the_same_phantom() -> None:
    one, two = (simulate(seed=3, shape=(32, 48, 48), membranes=1) for _ in range(2))
    np.testing.assert_array_equal(one.density, two.density)


def test_unknown_numbers_are_missing_in_frames() -> None:
    row = {"membrane_id": 1, "membrane_pairs": None}
    columns = rows_as_frame("membrane_pairs", []).columns
    frame = rows_as_frame("membrane_pairs", [dict.fromkeys(columns) | row])
    assert frame.columns[0] == "membrane_id"
    assert frame.isna().sum().sum() == len(columns) - 1


def test_spacings_that_differ_between_axes_are_refused() -> None:
    xarray = pytest.importorskip("xarray")
    axes = {axis: np.arange(4) * step for axis, step in zip("zyx", (10.0, 10.0, 12.0), strict=True)}
    array = xarray.DataArray(np.zeros((4, 4, 4)), coords=axes, dims=("z", "y", "x"))
    with pytest.raises(mc.MembrainCloudError, match="cubic"):
        grid_of(array, None)
