"""NIfTI-1: files of SimpleITK, as MemBrain-seg's training data are, and what is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.layouts.nifti import nifti_layout
from membrain_cloud.store.formats.volume_reader import file_stem, open_volume_file, read_header, read_volume

DATA = Path(__file__).parents[3] / "data"


def header(**changed: object) -> bytearray:
    """Of 2 x 3 x 4 (z, y, x) voxels of int16 in voxels of 10."""
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into("<8h", raw, 40, *changed.get("dim", (3, 4, 3, 2, 1, 1, 1, 1)))  # type: ignore[misc]
    struct.pack_into("<2h", raw, 70, *changed.get("type", (4, 16)))  # type: ignore[misc]
    struct.pack_into("<8f", raw, 76, 1, *changed.get("step", (10.0, 10.0, 10.0)), 1, 1, 1, 1)  # type: ignore[misc]
    struct.pack_into("<3f", raw, 108, 352, *changed.get("scale", (0.0, 0.0)))  # type: ignore[misc]
    raw[123] = int(changed.get("unit", 0))  # type: ignore[call-overload]
    raw[344:348] = b"n+1\0"
    return raw


def written(folder: Path, raw: bytes, voxels: bytes = b"") -> str:
    path = folder / "v.nii"
    path.write_bytes(bytes(raw) + voxels)
    return str(path)


def test_a_volume_of_simpleitk_is_read_as_it_was_written() -> None:
    """Made by SimpleITK 2.5 of an array z, y, x of 100 z + 10 y + x, with a spacing of 10."""
    volume, facts = read_volume(str(DATA / "simpleitk.nii.gz"))
    z, y, x = np.mgrid[:5, :6, :7]
    np.testing.assert_array_equal(volume, 100 * z + 10 * y + x)
    assert volume.dtype == np.float32
    assert facts.voxel_spacing_angstrom == 10.0
    labels, facts = read_volume(str(DATA / "simpleitk-labels.nii.gz"))
    np.testing.assert_array_equal(labels, (z + y + x) % 3)
    assert facts.voxel_spacing_angstrom is None  # 1 mm is SimpleITK's default
    assert file_stem("a/X_0000.nii.gz") == "X_0000"


@pytest.mark.parametrize(
    ("unit", "step", "expected"), [(0, 10.0, 10.0), (2, 7.84, 7.84), (2, 1e-6, 10.0), (3, 1e-3, 10.0)]
)
def test_spacings_are_in_angstrom_in_every_unit(tmp_path: Path, unit: int, step: float, expected: float) -> None:
    raw = header(unit=unit, step=(step, step, step))
    facts = read_header(written(tmp_path, raw, bytes(48)))
    assert facts.voxel_spacing_angstrom == pytest.approx(expected, rel=1e-5)
    assert facts.shape == (2, 3, 4)


def test_slope_and_intercept_and_the_other_byte_order(tmp_path: Path) -> None:
    values = np.arange(24, dtype="<i2")
    path = written(tmp_path, header(scale=(0.5, 3.0)), values.tobytes())
    volume, _ = read_volume(path)
    np.testing.assert_array_equal(volume.ravel(), np.arange(24) * 0.5 + 3)
    with open_volume_file(path) as file:
        np.testing.assert_array_equal(file[1:, :2, 1:3], volume[1:, :2, 1:3])
        assert file.dtype == volume.dtype == np.float32
    raw = header()
    for offset, count, size in ((0, 1, 4), (40, 8, 2), (70, 2, 2), (76, 8, 4), (108, 3, 4)):
        for k in range(count):
            raw[offset + k * size : offset + (k + 1) * size] = raw[offset + k * size : offset + (k + 1) * size][::-1]
    volume, _ = read_volume(written(tmp_path, raw, values.astype(">i2").tobytes()))
    np.testing.assert_array_equal(volume.ravel(), np.arange(24))
    assert volume.dtype.isnative


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not one of a NIfTI file"),
        (bytes(348), "not one of a NIfTI file"),
        (struct.pack("<i", 540) + bytes(600), "NIfTI-2"),
        (bytes(header())[:344] + b"ni1\0" + bytes(100), "two files"),
        (bytes(header(type=(128, 24))) + bytes(100), "type 128"),
        (bytes(header(dim=(4, 4, 3, 2, 5, 1, 1, 1))) + bytes(500), "no single volume"),
        (bytes(header()) + bytes(47), "truncated"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, raw: bytes, says: str) -> None:
    with pytest.raises(TomogramError, match=says):
        read_volume(written(tmp_path, raw))


def test_files_of_nibabel_are_read_as_nibabel_reads_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    image = nibabel.Nifti1Image(values, np.diag([8.0, 8.0, 8.0, 1.0]))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"an extension"))
    path = tmp_path / "v.nii"
    nibabel.save(image, path)
    with path.open("rb") as file:
        layout = nifti_layout(file, str(path))
    assert layout.offset == nibabel.load(path).dataobj.offset > 352
    volume, facts = read_volume(str(path))
    np.testing.assert_array_equal(volume, values.T)
    assert facts.voxel_spacing_angstrom == 8.0


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    path.write_bytes(gzip.compress(bytes(header()) + bytes(48))[:-20])
    with pytest.raises(TomogramError, match="damaged"):
        read_volume(str(path))
