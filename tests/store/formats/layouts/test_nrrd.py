"""NRRD as SimpleITK writes it (tests/data), and what is none."""

from __future__ import annotations

from pathlib import Path

import nrrd
import numpy as np
import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.layouts.nrrd import nrrd_layout
from membrain_cloud.store.formats.volume_reader import file_stem, open_volume_file, read_header, read_volume

DATA = Path(__file__).parents[3] / "data"


@pytest.mark.parametrize(("name", "dtype"), [("simpleitk.nrrd", np.uint8), ("simpleitk-raw.nrrd", np.int16)])
def test_files_of_simpleitk_are_read_with_x_fastest(name: str, dtype: type) -> None:
    volume, header = read_volume(str(DATA / name))
    expected = np.zeros((4, 5, 6), dtype)
    expected[1, 2, 3], expected[3, 4, 5], expected[0, 0, 1] = 1, 2, 3
    np.testing.assert_array_equal(volume, expected)
    assert volume.dtype == dtype
    assert header.voxel_spacing_angstrom is None
    assert read_header(str(DATA / name)).shape == (4, 5, 6)
    assert file_stem(name) == name.removesuffix(".nrrd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"NRRD000", b"NOTNRRD"), "not one of a NRRD"),
        ((b"type: short", b"type: block"), "'block' are not read"),
        ((b"sizes: 6 5 4", b"sizes: 6 5 5"), "truncated"),
        ((b"sizes: 6 5 4", b"sizes: 6 20"), "no single volume"),
        ((b"encoding: raw", b"encoding: hex"), "not read"),
        ((b"encoding: raw", b"encoding: gzip"), "damaged"),
        ((b"\n\n", b"\ndata file: other.raw\n\n"), "in one file"),
        ((b"\n\n", b"\nno field\n\n"), "not one of a NRRD"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: tuple[bytes, bytes], message: str) -> None:
    content = (DATA / "simpleitk-raw.nrrd").read_bytes()
    assert change[0] in content
    path = tmp_path / "bad.nrrd"
    path.write_bytes(content.replace(*change, 1))
    with pytest.raises(TomogramError, match=message):
        read_volume(str(path))


def test_big_endian_and_comments_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    header = b"NRRD0004\n# by hand\ntype: short\ndimension: 3\nsizes: 3 2 1\nendian: big\nencoding: raw\nkey:=value\n\n"
    path.write_bytes(header + np.arange(6, dtype=">i2").tobytes())
    np.testing.assert_array_equal(read_volume(str(path))[0], np.arange(6).reshape(1, 2, 3))


def test_raw_voxels_are_read_in_place_and_packed_ones_unpacked(tmp_path: Path) -> None:
    with (DATA / "simpleitk-raw.nrrd").open("rb") as file:
        layout = nrrd_layout(file, "x")
    assert layout.decode is None
    assert (DATA / "simpleitk-raw.nrrd").stat().st_size == layout.offset + 4 * 5 * 6 * 2
    values = np.random.default_rng(0).integers(-9, 9, (4, 5, 6)).astype(np.int32)
    for encoding in ("raw", "gzip", "bzip2"):
        path = tmp_path / f"{encoding}.nrrd"
        nrrd.write(str(path), values, {"encoding": encoding}, index_order="C")
        with open_volume_file(str(path)) as opened:
            np.testing.assert_array_equal(opened[1:3, :, 2:], values[1:3, :, 2:])


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), np.random.default_rng(0).normal(size=(4, 5, 6)), {"encoding": "gzip"}, index_order="C")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TomogramError, match="damaged"):
        read_volume(str(path))
