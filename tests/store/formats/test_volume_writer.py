"""Volume files that are written, box by box or whole, open with other programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest
import zarr

from membrain_cloud.errors import StorageError, UsageError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.store.formats.volume_reader import read_header, read_volume
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter, write_mrc
from membrain_cloud.store.volumes import scratch_array
from membrain_cloud.store.volumes.scratch_array import ScratchSpace

if TYPE_CHECKING:
    from pathlib import Path

SHAPE: Zyx = (9, 11, 13)
BOXES = [Box((0, 0, 0), SHAPE), Box((2, 0, 0), (5, 11, 13))]
VALUES = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(10, 3, SHAPE).astype(np.float32)


def mrc(path: Path, values: np.ndarray = VALUES, spacing: float = 10.0) -> Path:
    write_mrc(str(path), values, spacing)
    return path


def write_with(path: str, array: np.ndarray, boxes: list[Box], **options: bool) -> None:
    z, y, x = array.shape
    with VolumeFileWriter(path, (z, y, x), 7.84, array.dtype, **options) as writer:
        for box in boxes:
            writer.write(box, array[box.slices])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
def test_mrc_is_read_back(tmp_path: Path, dtype: str) -> None:
    values = (VALUES * 10).astype(dtype) if dtype[0] != "u" else (abs(VALUES) * 10000).astype(dtype)
    stored, header = read_volume(str(mrc(tmp_path / "x.mrc", values, 7.84)))
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, values)
    assert header.voxel_spacing_angstrom == pytest.approx(7.84)
    assert header.notes == ()
    with mrcfile.open(tmp_path / "x.mrc") as file:
        assert file.is_volume()
        assert file.voxel_size.x == pytest.approx(7.84)
    assert mrcfile.validate(str(tmp_path / "x.mrc"))


def test_types_mrc_does_not_have_are_widened(tmp_path: Path) -> None:
    for values, dtype in (
        (np.ones((2, 2, 2), bool), "int8"),
        (np.full((2, 2, 2), 127, np.uint8), "int8"),
        (np.full((2, 2, 2), 200, np.uint8), "uint16"),
        (np.full((2, 2, 2), 40000, np.uint32), "uint16"),
        (np.full((2, 2, 2), 70000, np.uint32), "float32"),
        (np.full((2, 2, 2), 0.5, np.float64), "float32"),
    ):
        stored, _ = read_volume(str(mrc(tmp_path / "x.mrc", values)))
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored, values)


def test_equal_volumes_give_equal_mrc_bytes(tmp_path: Path) -> None:
    assert mrc(tmp_path / "a.mrc").read_bytes() == mrc(tmp_path / "b.mrc").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.mrc", "b.mrc"]


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
    assert "overwrite" in caught.value.next_step
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

    monkeypatch.setattr(scratch_array.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(StorageError, match="left") as caught:
        VolumeFileWriter(str(tmp_path / "a.mrc"), SHAPE, 7.84, "float32")
    assert "output" in caught.value.next_step
    with (
        ScratchSpace(str(tmp_path), memory_bytes=0, moved_by="TMPDIR") as space,
        pytest.raises(StorageError, match="left") as caught,
    ):
        space.array((100, 100, 100), np.complex64)
    assert "TMPDIR" in caught.value.next_step
    with pytest.raises(StorageError, match=str(tmp_path)):
        write_with(str(tmp_path / "b.mrc"), volume, [BOXES[0]])
