"""Volumes are OME-Zarr as zarr, ome-zarr and copick read it, and absent chunks are never filled in silently."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

import numcodecs
import numpy as np
import pytest
import zarr
from standins.foreign_volumes import write_foreign

from membrain_cloud.errors import ChunkError, ProjectError, TomogramError, UnfinishedError, VoxelSpacingError
from membrain_cloud.geometry import Box, Grid, iterate_chunks
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.store.volumes.pyramid import every_second, local_mean

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

LABELS = SegmentationRef("TS_1", "membrane", "membrain", "ab12", 10.0)
GRID = Grid((40, 37, 50), 10.0)


def path_of(project: Project, ref: TomogramRef | SegmentationRef) -> Path:
    return Path(project.root_url) / ref.path


def test_boxes_of_a_tomogram_come_back(project: Project, tomogram: TomogramRef, density: np.ndarray) -> None:
    assert project.grid(tomogram) == GRID
    for box in (None, Box((0, 0, 0), (1, 1, 1)), Box((15, 16, 17), (33, 37, 50)), Box((39, 36, 49), (40, 37, 50))):
        expected = density if box is None else density[box.slices]
        found = project.read_density(tomogram, box)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="not inside"):
        project.read_density(tomogram, Box((0, 0, 0), (41, 1, 1)))


def test_zarr_and_ome_zarr_read_what_we_write(project: Project, tomogram: TomogramRef, density: np.ndarray) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    group = zarr.open(str(path_of(project, tomogram)), mode="r")
    np.testing.assert_array_equal(group["0"][:], density)
    assert group["0"].chunks == (16, 16, 16)
    assert group["0"].compressors == (numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),)
    (node,) = list(Reader(parse_url(str(path_of(project, tomogram))))())
    assert [level.shape for level in node.data] == [(40, 37, 50), (20, 19, 25), (10, 10, 13)]
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["angstrom"] * 3
    scales = [transforms[0]["scale"] for transforms in node.metadata["coordinateTransformations"]]
    assert scales == [[10.0] * 3, [20.0] * 3, [40.0] * 3]
    np.testing.assert_allclose(group["1"][3, 4, 5], density[6:8, 8:10, 10:12].mean(), rtol=1e-6)
    np.testing.assert_allclose(group["1"][3, 18, 5], density[6:8, 36:, 10:12].mean(), rtol=1e-6)


def test_pyramids() -> None:
    values = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)
    means = local_mean(values)
    assert means.dtype == np.int16
    assert means.shape == (3, 2, 2)
    assert means[0, 0, 0] == round(values[:2, :2, :2].mean())
    assert means[2, 1, 1] == round(values[4:, 2:, 2:].mean())
    labels = np.random.default_rng(0).choice(np.array([0, 7, 60000], np.uint16), (9, 8, 7))
    assert set(np.unique(every_second(labels))) <= {0, 7, 60000}


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8", "uint16", "float16", "float32", "float64"])
def test_types_of_tomograms_are_kept(project: Project, density: np.ndarray, dtype: str) -> None:
    values = (density * 20 + (100 if dtype.startswith("u") else 0)).astype(dtype)
    ref = TomogramRef("TS_1", dtype, 7.84)
    project.write_tomogram(ref, values, chunk=32)
    found = project.read_density(ref)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_other_types_are_refused(project: Project, dtype: str) -> None:
    values = np.ones((8, 8, 8), dtype)
    with pytest.raises(TomogramError, match=dtype):
        project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), values)
    path = path_of(project, TomogramRef("TS_2", "wbp", 10.0))
    write_foreign(path, values, chunks=(8, 8, 8))
    with pytest.raises(TomogramError, match=r"bool|int32|complex64"):
        project.read_density(TomogramRef("TS_2", "wbp", 10.0))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("compressor", [None, numcodecs.Zstd(3), numcodecs.GZip(1), numcodecs.Blosc("zstd")])
def test_volumes_of_other_programs_are_read(
    project: Project, density: np.ndarray, order: str, separator: str, compressor: object
) -> None:
    ref = TomogramRef("TS_1", "wbp", 10.0)
    write_foreign(
        path_of(project, ref),
        density.astype(">f4"),
        chunks=(13, 20, 50),
        order=order,
        compressors=compressor,
        separator=separator,
        filters=[numcodecs.Delta(">f4")] if order == "C" and compressor is None else None,
    )
    found = project.read_density(ref, Box((3, 2, 1), (40, 30, 20)))
    np.testing.assert_allclose(found, density[3:40, 2:30, 1:20], atol=1e-4)
    assert project.grid(ref) == GRID


def test_leading_axes_of_length_one_are_skipped(project: Project, density: np.ndarray) -> None:
    ref = TomogramRef("TS_1", "wbp", 10.0)
    write_foreign(path_of(project, ref), density[None, None], chunks=(1, 1, 16, 16, 16), separator="/")
    np.testing.assert_array_equal(project.read_density(ref), density)


def test_a_missing_chunk_of_a_tomogram_is_named(project: Project, tomogram: TomogramRef) -> None:
    (path_of(project, tomogram) / "0/1/2/0").unlink()
    assert project.read_density(tomogram, Box((0, 0, 0), (16, 37, 50))).any()
    with pytest.raises(ChunkError, match=r"chunk 1/2/0 .* missing \(35 of 36") as caught:
        project.read_density(tomogram)
    assert "copy" in caught.value.next_step


@pytest.mark.parametrize("keep", [0, 7, 16, 1000, -1])
def test_a_truncated_chunk_is_named(project: Project, tomogram: TomogramRef, keep: int) -> None:
    chunk = path_of(project, tomogram) / "0/0/1/2"
    chunk.write_bytes(chunk.read_bytes()[:keep])
    with pytest.raises(ChunkError, match=r"chunk 0/1/2 .* truncated"):
        project.read_density(tomogram)


@pytest.mark.parametrize("compressor", [None, numcodecs.Zstd(3), numcodecs.GZip(1)])
def test_truncation_is_found_without_blosc(project: Project, density: np.ndarray, compressor: object) -> None:
    ref = TomogramRef("TS_1", "wbp", 10.0)
    write_foreign(path_of(project, ref), density, chunks=(40, 37, 50), compressors=compressor)
    chunk = path_of(project, ref) / "0/0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(ChunkError, match=r"chunk 0\.0\.0 "):
        project.read_density(ref)


def test_a_damaged_chunk_is_named(project: Project, tomogram: TomogramRef) -> None:
    chunk = path_of(project, tomogram) / "0/0/0/0"
    raw = bytearray(chunk.read_bytes())
    raw[4:8] = (123).to_bytes(4, "little")  # the length of the decoded chunk
    chunk.write_bytes(raw)
    with pytest.raises(ChunkError, match="chunk 0/0/0 "):
        project.read_density(tomogram)


def test_torn_metadata_is_named(project: Project, tomogram: TomogramRef) -> None:
    path = path_of(project, tomogram)
    (path / "0/.zarray").write_text((path / "0/.zarray").read_text()[:40])
    with pytest.raises(ChunkError, match="metadata"):
        project.grid(tomogram)
    (path / ".zattrs").write_text("{")
    with pytest.raises(ChunkError, match=r"\.zattrs"):
        project.grid(tomogram)


def test_empty_volumes(project: Project) -> None:
    announced = TomogramRef("TS_1", "wbp", 10.0)
    write_foreign(path_of(project, announced), shape=(8, 8, 8), chunks=(4, 4, 4))
    assert project.grid(announced).shape == (8, 8, 8)
    with pytest.raises(ChunkError, match="empty"):
        project.read_density(announced)
    flat = TomogramRef("TS_2", "wbp", 10.0)
    write_foreign(path_of(project, flat), shape=(0, 8, 8), chunks=(4, 4, 4))
    with pytest.raises(TomogramError, match="empty"):
        project.grid(flat)
    slice_only = TomogramRef("TS_3", "wbp", 10.0)
    write_foreign(path_of(project, slice_only), shape=(8, 8), chunks=(4, 4))
    with pytest.raises(TomogramError, match="not a volume"):
        project.grid(slice_only)
    with pytest.raises(ProjectError):
        project.grid(TomogramRef("TS_4", "wbp", 10.0))
    version_3 = TomogramRef("TS_5", "wbp", 10.0)
    path_of(project, version_3).mkdir(parents=True)
    (path_of(project, version_3) / "zarr.json").write_text("{}")
    with pytest.raises(ChunkError, match="metadata"):
        project.grid(version_3)


def rescale(project: Project, ref: TomogramRef, scale: list[float], unit: str = "angstrom") -> None:
    path = path_of(project, ref) / ".zattrs"
    attributes = json.loads(path.read_text())
    attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = scale
    for axis in attributes["multiscales"][0]["axes"]:
        axis["unit"] = unit
    path.write_text(json.dumps(attributes))


def test_the_spacing_in_the_metadata_must_agree_with_the_name(project: Project, tomogram: TomogramRef) -> None:
    rescale(project, tomogram, [10.0004] * 3)
    assert project.grid(tomogram).voxel_spacing_angstrom == 10.0004
    rescale(project, tomogram, [1.0] * 3, "nanometer")
    assert project.grid(tomogram).voxel_spacing_angstrom == 10.0
    rescale(project, tomogram, [1.0] * 3)  # as programs write that know no spacing
    assert project.grid(tomogram).voxel_spacing_angstrom == 10.0
    for scale, unit, why in (
        ([20.0] * 3, "angstrom", "its name says 10"),
        ([20.0, 10.0, 10.0], "angstrom", "not cubes"),
        ([10.0] * 3, "furlong", "not known"),
    ):
        rescale(project, tomogram, scale, unit)
        with pytest.raises(VoxelSpacingError, match=why):
            project.grid(tomogram)


def test_an_absurd_spacing_is_refused(project: Project, density: np.ndarray) -> None:
    project.write_tomogram(TomogramRef("TS_1", "wbp", 3173.75), density)
    with pytest.raises(VoxelSpacingError, match="absurd") as caught:
        project.grid(TomogramRef("TS_1", "wbp", 3173.75))
    assert "voxel spacing" in caught.value.next_step


def write_slab(config: str, first: int) -> None:
    project = CopickProject.open(config)
    for box in list(iterate_chunks(GRID.shape, (16, 16, 16)))[first::2]:
        project.write_labels(LABELS, box, np.full(box.shape, first + 1, np.uint16))


def test_two_processes_write_one_volume(project: Project) -> None:
    project.create_labels(LABELS, GRID, "uint16", chunk=16)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_slab, args=(project.config, first)) for first in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = project.read_labels(LABELS)
    for index, box in enumerate(iterate_chunks(GRID.shape, (16, 16, 16))):
        assert (found[box.slices] == index % 2 + 1).all()


def test_only_whole_chunks_are_written(project: Project) -> None:
    project.create_labels(LABELS, GRID, "uint8", chunk=16)
    assert project.label_chunk(GRID) == GRID.shape
    assert project.label_chunk(GRID, 16) == (16, 16, 16)
    for box in (Box((0, 0, 0), (8, 16, 16)), Box((8, 0, 0), (16, 16, 16)), Box((32, 32, 48), (48, 37, 50))):
        with pytest.raises(ValueError, match="whole chunks"):
            project.write_labels(LABELS, box, np.zeros(box.shape, np.uint8))
    box = Box((16, 32, 32), (40, 37, 50))
    with pytest.raises(ValueError, match="asks for"):
        project.write_labels(LABELS, box, np.zeros(box.shape, np.uint16))
    project.write_labels(LABELS, box, np.ones(box.shape, np.uint8))
    assert project.read_labels(LABELS, box).all()


def test_empty_chunks_are_written_so_an_absent_one_is_an_error(project: Project) -> None:
    project.create_labels(LABELS, GRID, "uint8", chunk=16)
    box = Box((0, 0, 0), (40, 37, 32))
    project.write_labels(LABELS, box, np.zeros(box.shape, np.uint8))
    assert (path_of(project, LABELS) / "0/0/0/0").is_file()
    assert not project.read_labels(LABELS, box).any()
    with pytest.raises(ChunkError, match=r"chunk 0/0/2 .* missing"):
        project.read_labels(LABELS)
    with pytest.raises(UnfinishedError, match=r"membrane.*cannot be finished: chunk 0/0/2 .* missing"):
        project.finish_labels(LABELS)
    assert not project.is_complete(LABELS)


def test_creating_again_removes_the_earlier_volume(project: Project) -> None:
    project.write_segmentation(LABELS, np.ones(GRID.shape, np.uint8), chunk=16)
    assert project.is_complete(LABELS)
    project.create_labels(LABELS, GRID, "uint16", chunk=32)
    assert not project.is_complete(LABELS)
    assert sorted(p.name for p in path_of(project, LABELS).iterdir()) == [".zattrs", ".zgroup", "0"]
    with pytest.raises(ChunkError, match="empty"):
        project.read_labels(LABELS)
    with pytest.raises(UnfinishedError, match="was not created"):
        project.write_labels(SegmentationRef("TS_1", "membrane", "x", "1", 10.0), GRID.box, np.zeros(GRID.shape))


def test_masks_of_other_programs_may_leave_out_background(project: Project) -> None:
    ref = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)
    values = np.zeros(GRID.shape, np.int8)
    array = write_foreign(path_of(project, ref), values, chunks=(16, 16, 16), every_chunk=False, separator="/")
    array[20, 20, 20] = 1
    found = project.read_labels(ref)
    assert found.dtype == np.uint8
    assert found.sum() == 1
    assert found[20, 20, 20] == 1


@pytest.mark.parametrize(("values", "why"), [([0.0, 0.5], "whole"), ([0.0, np.nan], "whole"), ([-1, 1], "below 0")])
def test_values_that_are_not_labels_are_refused(project: Project, values: list[float], why: str) -> None:
    ref = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)
    data = np.resize(values, (4, 4, 4))
    write_foreign(path_of(project, ref), data)
    with pytest.raises(TomogramError, match=why):
        project.read_labels(ref)


def test_pyramids_of_labels_keep_their_values(project: Project) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 3, 60000], np.uint16), GRID.shape)
    project.write_segmentation(LABELS, labels, chunk=16)
    group = zarr.open(str(path_of(project, LABELS)), mode="r")
    np.testing.assert_array_equal(group["1"][:], labels[::2, ::2, ::2])
    np.testing.assert_array_equal(group["2"][:], labels[::4, ::4, ::4])
