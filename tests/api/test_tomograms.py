"""A tomogram with its annotations as one tree of xarray: variables, grids, choices, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import membrain_cloud as mc
from membrain_cloud.api.tomograms import open_tomogram
from membrain_cloud.geometry import Grid
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.manifest import freeze
from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

SHAPE = (20, 24, 28)
TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
MASK = SegmentationRef("TS_1", "membrane", "membrain", "1a2b", 10.0)
INSTANCES = SegmentationRef("TS_1", "membrane", "membrain", "3c4d", 10.0, instance=True)
SCORES = FeaturesRef("TS_1", "wbp", 10.0, "membrane-score-1a2b3c4d")
PICKS = ObjectRef("TS_1", "ribosome", "alice", "1")


@pytest.fixture
def density() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def project(tmp_path: Path, density: np.ndarray) -> Project:
    """Make a project with a tomogram, mask, instances, scores and picks of one run."""
    objects = [("membrane", False, None), ("ribosome", True, None)]
    project = create_project(str(tmp_path / "project"), objects=objects)
    project.write_tomogram(TOMOGRAM, density, chunk=16)
    project.write_segmentation(MASK, (density > 1).astype(np.uint8), chunk=16)
    project.write_segmentation(INSTANCES, (density > 1).astype(np.uint16) * 300, chunk=16)
    grid = Grid(SHAPE, 10.0)
    project.create_features(SCORES, grid, "float16")
    project.write_features(SCORES, grid.box, density.astype(np.float16))
    project.finish_features(SCORES)
    project.write_picks(PICKS, mc.Picks(np.ones((2, 3))))
    return project


def test_all_volumes_share_one_grid_in_angstrom(project: Project, density: np.ndarray) -> None:
    tree = mc.open_tomogram(project.config, "TS_1")
    assert list(tree.data_vars) == ["tomogram", "mask", "instances", "scores"]
    assert [tree[name].dtype for name in tree.data_vars] == [np.float32, np.uint8, np.uint16, np.float16]
    np.testing.assert_array_equal(tree.tomogram, density)
    np.testing.assert_array_equal(tree.instances, (density > 1) * 300)
    np.testing.assert_allclose(tree.x, 10.0 * np.arange(28))
    assert tree.z.attrs["units"] == "angstrom"
    assert tree.attrs["voxel_spacing_angstrom"] == 10.0
    assert tree.mask.attrs["reference"] == MASK.key
    inside = tree.tomogram.where(tree.mask > 0).sel(z=slice(50, 100))
    np.testing.assert_allclose(inside.mean(), density[5:11][density[5:11] > 1].mean(), rtol=1e-5)


def test_annotations_are_listed_by_their_uris(project: Project) -> None:
    tree = open_tomogram(project, "TS_1")
    assert tree["segmentations/uri"].values.tolist() == [MASK.uri, INSTANCES.uri]
    (uri,) = tree["picks/uri"].values.tolist()
    assert project.object("TS_1", uri) == PICKS
    assert tree["picks/user"].values.tolist() == ["alice"]
    assert tree["meshes"].sizes["uri"] == 0


def test_chunked_trees_are_dask_arrays_in_the_chunks_of_the_store(project: Project, density: np.ndarray) -> None:
    tree = open_tomogram(project, "TS_1", chunks={"x": -1})
    assert tree.mask.chunks == ((16, 4), (16, 8), (28,))
    assert open_tomogram(project, "TS_1", chunks={}).mask.chunks == ((16, 4), (16, 8), (16, 12))
    assert float(tree.tomogram.max().compute()) == density.max()
    assert len(pickle.dumps(open_tomogram(project, "TS_1").tomogram.variable)) < 10_000


def test_a_pick_selects_its_voxel(project: Project, density: np.ndarray) -> None:
    import xarray

    where = xarray.DataArray(np.array([[98.0, 52.0, 11.0], [0.0, 234.0, 191.0]]), dims=("pick", "xyz"))
    tree = open_tomogram(project, "TS_1")
    x, y, z = (where[:, axis] for axis in range(3))
    found = tree.tomogram.sel(x=x, y=y, z=z, method="nearest")
    np.testing.assert_array_equal(found.values, density[[1, 19], [5, 23], [10, 0]])


def test_several_masks_are_refused_until_one_is_chosen(project: Project) -> None:
    other = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)
    project.write_segmentation(other, np.ones(SHAPE, np.uint8))
    with pytest.raises(mc.MembrainCloudError, match=r"2 mask: membrane:alice/1@10\.000, membrane:membrain/1a2b"):
        open_tomogram(project, "TS_1")
    assert open_tomogram(project, "TS_1", mask=other.uri).mask.values.all()
    assert "mask" not in open_tomogram(project, "TS_1", mask=False)


def test_segmentations_of_other_objects_are_opened_by_uri(project: Project) -> None:
    other = SegmentationRef("TS_1", "ribosome", "alice", "1", 10.0)
    project.write_segmentation(other, np.full(SHAPE, 5, np.uint8))
    assert not (open_tomogram(project, "TS_1").mask == 5).any()
    assert (open_tomogram(project, "TS_1", mask="ribosome:alice/1").mask == 5).all()


def test_another_grid_is_refused_with_both(project: Project) -> None:
    coarse = SegmentationRef("TS_1", "membrane", "alice", "1", 20.0)
    project.write_segmentation(coarse, np.ones((10, 12, 14), np.uint8))
    assert open_tomogram(project, "TS_1").mask.attrs["reference"] == MASK.key
    with pytest.raises(mc.MembrainCloudError, match=r"\(10, 12, 14\) voxels of 20 Å.*\(20, 24, 28\) of 10 Å"):
        open_tomogram(project, "TS_1", mask=coarse.uri)


@pytest.mark.parametrize(
    ("run", "keywords", "words"),
    [
        ("TS_9", {}, "TS_9"),
        ("TS_1", {"tomogram_type": "denoised"}, "denoised"),
        ("TS_1", {"mask": "membrane:no/1"}, "membrane:no/1"),
        ("TS_1", {"scores": "none"}, "membrane-score-1a2b3c4d"),
    ],
)
def test_what_is_not_there_is_refused_by_name(project: Project, run: str, keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(mc.MembrainCloudError, match=words):
        open_tomogram(project, run, **keywords)


def test_an_absent_chunk_raises_when_it_is_read(project: Project) -> None:
    (Path(project.root_url) / MASK.path / "0" / "0" / "0" / "0").unlink()
    tree = open_tomogram(project, "TS_1")
    assert tree.mask[17, 17, 17].values in (0, 1)
    with pytest.raises(mc.MembrainCloudError, match="0/0/0"):
        tree.mask.load()


def test_the_tomogram_of_a_manifest_is_read_from_its_source(
    project: Project, density: np.ndarray, tmp_path: Path
) -> None:
    path = str(tmp_path / "frozen.parquet")
    freeze(project, path, [TOMOGRAM], dataset="d", selection={})
    tree = open_tomogram(path, "TS_1", instances=False)
    assert list(tree.data_vars) == ["tomogram", "mask", "scores"]
    np.testing.assert_array_equal(tree.tomogram, density)
