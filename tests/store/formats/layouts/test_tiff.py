"""TIFF stacks: ImageJ's units, compressed slices, and what is no stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.layouts.tiff import tiff_layout
from membrain_cloud.store.formats.volume_reader import read_header, read_volume

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def test_imagej_says_the_spacing_and_plain_tiff_none(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, VALUES, imagej=True, resolution=(1.0, 1.0), metadata={"unit": "nm", "spacing": 1.0})
    values, header = read_volume(str(path))
    np.testing.assert_array_equal(values, VALUES)
    assert header.voxel_spacing_angstrom == 10.0
    tifffile.imwrite(path, VALUES, imagej=True, resolution=(1.0, 1.0), metadata={"unit": "nm", "spacing": 2.0})
    assert "no cubes" in read_header(str(path)).notes[0]
    tifffile.imwrite(path, VALUES, compression="zlib", photometric="minisblack")
    values, header = read_volume(str(path))
    np.testing.assert_array_equal(values, VALUES)
    assert header.voxel_spacing_angstrom is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order(tmp_path: Path, order: str) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, VALUES, byteorder=order, photometric="minisblack")
    values, _ = read_volume(str(path))
    np.testing.assert_array_equal(values, VALUES)
    assert values.dtype.isnative


def test_one_slice_is_no_stack(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, VALUES[0])
    with path.open("rb") as file, pytest.raises(TomogramError, match="no stack of slices"):
        tiff_layout(file, str(path))


# The bytes, by position, of a damaged file of 263 bytes whose chain of pages leads back into itself.
ENDLESS_CHAIN = {
    0: 73,
    1: 73,
    2: 42,
    4: 8,
    8: 15,
    12: 4,
    23: 1,
    24: 4,
    29: 73,
    30: 73,
    33: 8,
    40: 1,
    51: 1,
    53: 4,
    55: 1,
    71: 32,
    77: 3,
    79: 1,
    124: 1,
    135: 22,
    139: 1,
    161: 5,
    171: 27,
    179: 238,
    191: 1,
    207: 83,
    219: 62,
    223: 123,
    225: 115,
    226: 104,
    227: 97,
    234: 53,
    235: 44,
    237: 54,
    239: 32,
    241: 93,
    242: 125,
    259: 1,
}


def test_a_chain_of_pages_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.tif"
    path.write_bytes(bytes(ENDLESS_CHAIN.get(position, 0) for position in range(263)))
    with pytest.raises(TomogramError, match=r"chain\.tif"), path.open("rb") as file:
        tiff_layout(file, str(path))
