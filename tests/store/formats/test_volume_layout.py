"""Reading boxes behind a header: axes, scales, truncated files, and spacings that are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.geometry import Box
from membrain_cloud.store.formats.volume_layout import (
    VolumeHeader,
    VolumeLayout,
    believable_spacing,
    cubic_voxels,
    open_voxels,
)

if TYPE_CHECKING:
    from pathlib import Path

STORED = np.arange(24, dtype=">i2").reshape(2, 3, 4)


def layout(axes: tuple[int, int, int] = (0, 1, 2), scale: tuple[float, float] | None = None) -> VolumeLayout:
    z, y, x = (STORED.shape[axis] for axis in axes)
    dtype = STORED.dtype if scale is None else np.dtype(np.float32)
    return VolumeLayout(VolumeHeader((z, y, x), dtype, 10.0), STORED.dtype, offset=5, axes=axes, scale=scale)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "voxels").write_bytes(b"12345" + STORED.tobytes())
    return tmp_path / "voxels"


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_axes_are_permuted(path: Path, axes: tuple[int, int, int]) -> None:
    expected = STORED.transpose(axes)
    box = Box((1, 0, 1), expected.shape)  # type: ignore[arg-type]
    with path.open("rb") as file:
        np.testing.assert_array_equal(open_voxels(layout(axes), file, "x").read(box), expected[box.slices])
    assert layout(axes).chunk[axes.index(0)] == 1


def test_values_are_scaled_to_float32(path: Path) -> None:
    with path.open("rb") as file:
        values = open_voxels(layout(scale=(0.5, -3.0)), file, "x").read(Box((0, 0, 0), (2, 3, 4)))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, STORED * 0.5 - 3.0)


def test_voxels_inside_of_a_packed_file_are_decoded(path: Path) -> None:
    header = VolumeHeader((2, 3, 4), STORED.dtype, None)
    packed = VolumeLayout(header, STORED.dtype, decode=lambda file: STORED + len(file.read(5)))
    with path.open("rb") as file:
        values = open_voxels(packed, file, "x").read(Box((1, 0, 0), (2, 3, 4)))
    np.testing.assert_array_equal(values, STORED[1:] + 5)


def test_a_truncated_file_is_named(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with path.open("rb") as file, pytest.raises(TomogramError, match=r"x\.mrc: .* truncated \(52 bytes"):
        open_voxels(layout(), file, "x.mrc")


@pytest.mark.parametrize(
    ("spacing", "expected"), [(10.0, 10.0), (7.8400001, 7.84), (1.0, None), (0.0, None), (1e6, None), (np.nan, None)]
)
def test_placeholders_and_absurd_spacings_are_not_believed(spacing: float, expected: float | None) -> None:
    notes: list[str] = []
    assert believable_spacing(spacing, notes, "MRC header") == expected
    assert len(notes) == (expected is None)


def test_voxels_are_cubes_within_a_percent() -> None:
    assert cubic_voxels([10.0, 10.05, 9.96])
    assert not cubic_voxels([10.0, 10.2, 10.0])
