"""Maps beside a tomogram are copick's features."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import ChunkError, UnfinishedError
from membrain_cloud.geometry import Box, Grid, iterate_chunks
from membrain_cloud.store.refs import FeaturesRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

SCORES = FeaturesRef("TS_1", "wbp", 10.0, "membrane-scores")


def in_copick(project: Project) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copick's own
        import copick

        return copick.from_file(project.config)


def write(project: Project, ref: FeaturesRef, values: np.ndarray) -> None:
    z, y, x = values.shape
    grid = Grid((z, y, x), ref.voxel_spacing_angstrom)
    project.create_features(ref, grid, values.dtype.name, chunk=16)
    for box in iterate_chunks(grid.shape, project.label_chunk(grid, 16)):
        project.write_features(ref, box, values[box.slices])
    project.finish_features(ref)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "float32"])
def test_copick_reads_what_we_write(project: Project, tomogram: TomogramRef, density: np.ndarray, dtype: str) -> None:
    values = (density * 20 + 100).astype(dtype)
    write(project, SCORES, values)
    theirs = in_copick(project).get_run("TS_1").get_voxel_spacing(10.0).get_tomograms("wbp")[0]
    assert [features.feature_type for features in theirs.features] == ["membrane-scores"]
    features = theirs.get_features("membrane-scores")
    np.testing.assert_array_equal(features.numpy(), values)
    part = (slice(3, 30), slice(0, 17), slice(20, 50))
    np.testing.assert_array_equal(features.numpy(slices=part), values[part])
    assert features.numpy(zarr_group="1").shape == (20, 19, 25)
    # reading does not change it
    np.testing.assert_array_equal(project.read_features(SCORES), values)
    np.testing.assert_array_equal(project.read_density(tomogram), density)


def test_we_read_what_copick_writes(project: Project, tomogram: TomogramRef, density: np.ndarray) -> None:
    import zarr

    theirs = in_copick(project).get_run("TS_1").get_voxel_spacing(10.0).get_tomograms("wbp")[0]
    features = theirs.new_features("membrane-scores")
    zarr.open_group(features.zarr()).create_array("0", data=density, chunks=(16, 16, 16))
    assert project.features(tomogram) == [SCORES]
    np.testing.assert_array_equal(project.read_features(SCORES), density)
    assert project.grid(SCORES) == Grid(density.shape, 10.0)  # type: ignore[arg-type]


def test_features_are_listed_beside_their_tomogram_only(
    project: Project, tomogram: TomogramRef, density: np.ndarray
) -> None:
    assert project.features(tomogram) == []
    other = TomogramRef("TS_1", "wbp-denoised", 10.0)
    project.write_tomogram(other, density, chunk=16)
    mine = [FeaturesRef("TS_1", "wbp", 10.0, name) for name in ("edges", "scores")]
    for ref in (*mine, FeaturesRef("TS_1", "wbp-denoised", 10.0, "scores")):
        write(project, ref, density)
    (Path(project.root_url) / "ExperimentRuns/TS_1/VoxelSpacing10.000/wbp_my_own_features.zarr").mkdir()
    assert project.features(tomogram) == mine
    assert project.all_tomograms("TS_1") == [tomogram, other]
    assert project.has(mine[0])
    project.remove(mine[0])
    assert project.features(tomogram) == mine[1:]


def test_complete_only_when_finished(project: Project, tomogram: TomogramRef, density: np.ndarray) -> None:
    with pytest.raises(UnfinishedError, match="not created"):
        project.write_features(SCORES, Box((0, 0, 0), (16, 16, 16)), density[:16, :16, :16])
    project.create_features(SCORES, Grid((40, 37, 50), 10.0), "float32", chunk=16)
    assert not project.is_complete(SCORES)
    project.write_features(SCORES, Box((0, 0, 0), (16, 16, 16)), density[:16, :16, :16])
    np.testing.assert_array_equal(project.read_features(SCORES, Box((0, 0, 0), (9, 9, 9))), density[:9, :9, :9])
    with pytest.raises(ChunkError, match="missing"):
        project.read_features(SCORES)
    write(project, SCORES, density)
    assert project.is_complete(SCORES)
    before = project.identity(SCORES)
    os.utime(Path(project.root_url) / SCORES.path / "0" / "0" / "0" / "0", ns=(1, 1))
    assert project.identity(SCORES) != before


def test_only_numbers_of_known_types(project: Project) -> None:
    with pytest.raises(ValueError, match="complex64"):
        project.create_features(SCORES, Grid((4, 4, 4), 10.0), "complex64")
