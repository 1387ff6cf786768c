"""Volume files box by box: what is read equals the whole file, what is written opens with other programs."""

from __future__ import annotations

import bz2
import gzip
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import zarr

from membrain_cloud.errors import ChunkError, StorageError, TomogramError, UsageError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.store.formats.any_volume import read_header, read_volume, write_mrc
from membrain_cloud.store.formats.volume_reader import VolumeFileWriter, open_volume_file
from membrain_cloud.store.volumes import scratch_array as raw_arrays
from membrain_cloud.store.volumes.scratch_array import RawArray, ScratchSpace

SHAPE: Zyx = (9, 11, 13)
BOXES = [
    Box((0, 0, 0), SHAPE),
    Box((2, 0, 0), (5, 11, 13)),
    Box((0, 3, 0), (9, 7, 13)),
    Box((1, 2, 3), (8, 9, 10)),
    Box((8, 10, 12), SHAPE),
]


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(10, 3, SHAPE).astype(np.float32)


def write_with(path: str, array: np.ndarray, boxes: list[Box], **options: bool) -> None:
    z, y, x = array.shape
    with VolumeFileWriter(path, (z, y, x), 7.84, array.dtype, **options) as writer:
        for box in boxes:
            writer.write(box, array[box.slices])


@pytest.mark.parametrize("name", ["a.mrc", "a.rec", "a.map", "a.mrc.gz", "a.rec.bz2", "a.zarr", "a.npy"])
def test_boxes_of_a_file_are_those_of_its_volume(tmp_path: Path, volume: np.ndarray, name: str) -> None:
    path = str(tmp_path / name)
    if name.endswith((".gz", ".bz2")):
        write_mrc(str(tmp_path / "plain.mrc"), volume, 7.84)
        packer = gzip.compress if name.endswith(".gz") else bz2.compress
        Path(path).write_bytes(packer((tmp_path / "plain.mrc").read_bytes()))
    elif name.endswith(".npy"):
        np.save(path, volume)
    else:
        write_with(path, volume, [BOXES[0]])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with open_volume_file(path, str(scratch)) as file:
        assert file.shape == SHAPE
        assert file.dtype == np.float32
        assert file.voxel_spacing_angstrom == (None if name.endswith(".npy") else 7.84)
        for box in BOXES:
            np.testing.assert_array_equal(file.read(box), volume[box.slices])
        with pytest.raises(ValueError, match="not inside"):
            file.read(Box((0, 0, 0), (10, 11, 13)))
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("axes", [(1, 2, 3), (2, 1, 3), (3, 1, 2), (1, 3, 2), (2, 3, 1), (3, 2, 1)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_turned_axes_and_either_byte_order(
    tmp_path: Path, volume: np.ndarray, axes: tuple[int, int, int], order: str
) -> None:
    path = str(tmp_path / "turned.mrc")
    with mrcfile.new(path) as file:
        file.set_data(volume.astype(order + "f4"))
        file.voxel_size = 5.0
        file.header.mapc, file.header.mapr, file.header.maps = axes
    whole, _ = read_volume(path)
    with open_volume_file(path) as opened:
        assert opened.shape == whole.shape
        assert sorted(opened.shape) == sorted(SHAPE)
        for box in (Box((0, 0, 0), opened.shape), Box((1, 2, 3), (7, 8, 9)), Box((4, 0, 0), (5, *opened.shape[1:]))):
            found = opened.read(box)
            assert found.dtype.isnative
            np.testing.assert_array_equal(found, whole[box.slices])


def test_what_is_no_volume_is_refused(tmp_path: Path, volume: np.ndarray) -> None:
    with pytest.raises(TomogramError, match="no such file"):
        open_volume_file(str(tmp_path / "absent.mrc"))
    write_mrc(str(tmp_path / "a.mrc"), volume, 7.84)
    content = (tmp_path / "a.mrc").read_bytes()
    (tmp_path / "short.mrc").write_bytes(content[:-100])
    with pytest.raises(TomogramError, match="truncated"):
        open_volume_file(str(tmp_path / "short.mrc"))
    for name, damaged in (("a.mrc.gz", gzip.compress(content)[:-20]), ("a.mrc.bz2", bz2.compress(content)[:-20])):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(TomogramError, match="damaged"):
            open_volume_file(str(tmp_path / name))
    (tmp_path / "noise.mrc.bz2").write_bytes(b"no bzip2 at all")
    with pytest.raises(TomogramError, match="damaged"):
        open_volume_file(str(tmp_path / "noise.mrc.bz2"))


def test_a_missing_chunk_is_never_zeros(tmp_path: Path, volume: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    write_with(str(path), volume, [BOXES[0]])
    (path / "0" / "0" / "0" / "0").write_bytes(b"")
    with open_volume_file(str(path)) as file, pytest.raises(ChunkError):
        file.read(BOXES[0])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("step", [(1, 11, 13), (9, 2, 13), (4, 5, 6)])
def test_mrc_written_by_boxes_is_a_valid_file(tmp_path: Path, volume: np.ndarray, dtype: str, step: Zyx) -> None:
    array = volume.astype(dtype)
    path = str(tmp_path / "folder" / "a.mrc")
    write_with(path, array, list(iterate_chunks(SHAPE, step)))
    assert mrcfile.validate(path)
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, array)
        assert file.data.dtype == array.dtype
        assert float(file.voxel_size.x) == pytest.approx(7.84)
        header = file.header
        exact = array.astype(np.float64)
        assert float(header.dmin) == exact.min()
        assert float(header.dmax) == exact.max()
        assert float(header.dmean) == pytest.approx(exact.mean(), rel=1e-6)
        assert float(header.rms) == pytest.approx(exact.std(), rel=1e-5)
    assert os.listdir(tmp_path / "folder") == ["a.mrc"]


@pytest.mark.parametrize("labels", [False, True])
def test_zarr_written_by_boxes_opens_with_zarr_and_has_levels(tmp_path: Path, volume: np.ndarray, labels: bool) -> None:
    array = (volume > 10).astype(np.uint8) * 3 if labels else volume
    path = str(tmp_path / "a.zarr")
    for _ in range(2):
        write_with(path, array, list(iterate_chunks(SHAPE, (4, 5, 6))), labels=labels, overwrite=True)
    group = zarr.open(path, mode="r")
    np.testing.assert_array_equal(group["0"][:], array)
    assert group["1"].shape == (5, 6, 7)
    if labels:
        np.testing.assert_array_equal(group["1"][:], array[::2, ::2, ::2])
    assert read_header(path).voxel_spacing_angstrom == 7.84
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_nothing_is_left_by_a_writer_that_fails(tmp_path: Path, volume: np.ndarray) -> None:
    for name in ("a.mrc", "a.zarr"):
        path = str(tmp_path / name)
        with pytest.raises(AttributeError):
            write_with(path, volume, [BOXES[1], "no box"])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="429 of 1287"):
            write_with(path, volume, [BOXES[1]])
        assert not list(tmp_path.iterdir())


def test_an_output_that_exists_stays_unless_asked(tmp_path: Path, volume: np.ndarray) -> None:
    path = str(tmp_path / "a.mrc")
    write_with(path, volume, [BOXES[0]])
    with pytest.raises(UsageError, match="exists already") as caught:
        write_with(path, volume, [BOXES[0]])
    assert "--overwrite" in caught.value.next_step
    write_with(path, volume + 1, [BOXES[0]], overwrite=True)
    np.testing.assert_array_equal(mrcfile.read(path), volume + 1)


@pytest.mark.parametrize(
    ("name", "dtype", "what"),
    [
        ("a.tif", "float32", "cannot be written"),
        ("a.mrc", "uint32", "no type uint32"),
        ("s3://a/b.zarr", "float32", "cannot be written"),
    ],
)
def test_names_and_types_that_cannot_be_are_refused(tmp_path: Path, name: str, dtype: str, what: str) -> None:
    path = name if "://" in name else str(tmp_path / name)
    with pytest.raises(UsageError, match=what):
        VolumeFileWriter(path, SHAPE, 7.84, dtype)


def test_values_beyond_float16_are_refused(tmp_path: Path, volume: np.ndarray) -> None:
    with (
        pytest.raises(StorageError, match="beyond float16"),
        VolumeFileWriter(str(tmp_path / "a.mrc"), SHAPE, 7.84, "float16") as writer,
    ):
        writer.write(BOXES[0], volume * 1e5)


def test_a_disk_without_room_is_refused_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, volume: np.ndarray
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(raw_arrays.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(StorageError, match="left") as caught:
        VolumeFileWriter(str(tmp_path / "a.mrc"), SHAPE, 7.84, "float32")
    assert "--output" in caught.value.next_step
    with (
        ScratchSpace(str(tmp_path), memory_bytes=0, moved_by="TMPDIR") as space,
        pytest.raises(StorageError, match="left") as caught,
    ):
        space.array((100, 100, 100), np.complex64)
    assert "TMPDIR" in caught.value.next_step
    with pytest.raises(StorageError, match=str(tmp_path)):
        write_with(str(tmp_path / "b.mrc"), volume, [BOXES[0]])


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_scratch_is_the_same_in_memory_and_on_disk(tmp_path: Path, memory_bytes: int) -> None:
    values = np.random.default_rng(0).normal(size=(9, 11, 13)).astype(np.complex64)
    with ScratchSpace(str(tmp_path), memory_bytes=memory_bytes, moved_by="TMPDIR") as space:
        array = space.array(SHAPE, np.complex64)
        assert isinstance(array, RawArray) == (memory_bytes == 0)
        for box in iterate_chunks(SHAPE, (9, 4, 13)):
            array.write(box, values[box.slices])
        for box in BOXES:
            found = array.read(box)
            np.testing.assert_array_equal(found, values[box.slices])
            found[:] = 0  # a copy
        np.testing.assert_array_equal(array.read(BOXES[0]), values)
        assert not list(tmp_path.iterdir())  # its file has no name


def test_scratch_in_no_folder_is_refused(tmp_path: Path) -> None:
    with (
        ScratchSpace(str(tmp_path / "absent"), memory_bytes=0, moved_by="TMPDIR") as space,
        pytest.raises(StorageError, match="absent") as caught,
    ):
        space.array(SHAPE, np.float32)
    assert "TMPDIR" in caught.value.next_step
