"""MRC headers: what is believed of them, and the lies that real ones tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest

from membrain_cloud.store.formats.layouts.mrc import HEADER_BYTES, mrc_layout
from membrain_cloud.store.formats.volume_reader import read_header, read_volume
from membrain_cloud.store.formats.volume_writer import write_mrc

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def patch(path: Path, offset: int, content: bytes) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)
    return path


def mrc(path: Path, values: np.ndarray = VALUES, spacing: float = 10.0) -> Path:
    write_mrc(str(path), values, spacing)
    return path


def test_the_layout_says_where_the_voxels_are(tmp_path: Path) -> None:
    path = mrc(tmp_path / "x.mrc")
    patch(path, 92, np.int32(80).tobytes())  # the length of an extended header
    with path.open("rb") as file:
        layout = mrc_layout(file, str(path))
    assert layout.offset == HEADER_BYTES + 80
    assert (layout.axes, layout.header.shape, layout.chunk) == ((0, 1, 2), (5, 6, 7), (1, 6, 7))


@pytest.mark.parametrize("spacing", [0.0, 1.0, -5.0, 0.1, 3173.75, float("nan")])
def test_an_unbelievable_spacing_is_none(tmp_path: Path, spacing: float) -> None:
    _, header = read_volume(str(mrc(tmp_path / "x.mrc", spacing=spacing)))
    assert header.voxel_spacing_angstrom is None
    assert any("spacing" in note for note in header.notes)


def test_voxels_that_are_no_cubes_are_not_believed(tmp_path: Path) -> None:
    path = patch(mrc(tmp_path / "x.mrc"), 48, np.float32(33.0).tobytes())
    header = read_header(str(path))
    assert header.voxel_spacing_angstrom is None
    assert "no cubes" in header.notes[0]


def test_an_origin_is_told(tmp_path: Path) -> None:
    path = patch(mrc(tmp_path / "x.mrc"), 196, np.array([0, 0, 3173.75], np.float32).tobytes())
    header = read_header(str(path))
    assert header.origin == (0.0, 0.0, 3173.75)
    assert "origin (0, 0, 3173.75) Å is left out" in header.notes[0]


def test_a_missing_map_id_and_stamp_are_told(tmp_path: Path) -> None:
    path = patch(mrc(tmp_path / "x.mrc"), 208, bytes(8))
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES)
    assert any("map id" in note for note in header.notes)


def test_big_endian_and_turned_axes(tmp_path: Path) -> None:
    path = tmp_path / "x.mrc"
    with mrcfile.new(path) as file:
        file.set_data(VALUES)
        file.voxel_size = 10.0
        file.header.mapc, file.header.maps = 3, 1
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES.transpose(2, 1, 0))
    assert header.shape == (7, 6, 5)
    assert any("axes" in note for note in header.notes)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(VALUES.astype(">f4"))
        file.voxel_size = 10.0
    found, _ = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES)
    assert found.dtype.isnative


def test_unsigned_bytes_under_mode_0(tmp_path: Path) -> None:
    values = np.arange(210, dtype=np.uint8).reshape(5, 6, 7)
    path = mrc(tmp_path / "x.mrc", values.view(np.int8))
    assert read_header(str(path)).dtype == np.int8
    patch(path, 76, np.array([0.0, 209.0], np.float32).tobytes())
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, values)
    assert "unsigned" in header.notes[0]
    for flags, dtype in ((1, np.int8), (0, np.uint8)):
        patch(path, 152, np.array([1146047817, flags], np.int32).tobytes())
        assert read_header(str(path)).dtype == dtype


def test_mrc_is_read_as_mrcfile_reads_it(reference: Path) -> None:
    for name in ("membrain-seg/tomo.mrc", "membrain-seg/tomo_int8.mrc", "simulated-mixed/tomogram_snr_hi.mrc.gz"):
        found, header = read_volume(str(reference / name))
        np.testing.assert_array_equal(found, mrcfile.read(reference / name))
        assert header.voxel_spacing_angstrom == 10.0
