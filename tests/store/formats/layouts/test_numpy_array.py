"""NumPy files: where the voxels lie, and which arrays are no volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.layouts.numpy_array import numpy_layout
from membrain_cloud.store.formats.volume_reader import read_volume

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize(("array", "axes"), [(VALUES, (0, 1, 2)), (np.asfortranarray(VALUES), (2, 1, 0))])
def test_the_layout_says_where_the_voxels_are(tmp_path: Path, array: np.ndarray, axes: tuple[int, ...]) -> None:
    path = tmp_path / "x.npy"
    np.save(path, array)
    with path.open("rb") as file:
        layout = numpy_layout(file, str(path))
    assert layout.axes == axes
    assert path.stat().st_size == layout.offset + VALUES.nbytes
    assert layout.header.voxel_spacing_angstrom is None
    np.testing.assert_array_equal(read_volume(str(path))[0], VALUES)


@pytest.mark.parametrize(
    "array", [VALUES[0], VALUES.astype(complex), np.array([[[{}]]], object), np.zeros((0, 3, 4), np.float32)]
)
def test_arrays_that_are_no_volume_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "x.npy"
    np.save(path, array)
    with pytest.raises(TomogramError, match="no volume"):
        read_volume(str(path))
