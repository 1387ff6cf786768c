"""Shapes, the fading border and nearest labels, against direct whole-volume forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from membrain_cloud.errors import UsageError, VoxelSpacingError
from membrain_cloud.image.resampling import nearest_indices, resampled_labels, resampled_shape, smooth_border

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx


def test_shapes_are_scaled_rounded_and_even() -> None:
    assert resampled_shape((256, 384, 384), 7.84, 10.0) == (202, 302, 302)
    assert resampled_shape((65, 71, 83), 7.84, 10.0) == (52, 56, 66)
    assert resampled_shape((65, 71, 83), 10.0, 10.0) == (65, 71, 83)
    with pytest.raises(VoxelSpacingError, match=r"8 x 8 x 8 voxels") as caught:
        resampled_shape((64, 64, 64), 1.3, 10.0)
    assert "voxel spacing" in caught.value.next_step


def direct_border(shape: Zyx, radii: tuple[float, float, float]) -> np.ndarray:
    """Return the whole mask by its definition, with frequency 0 in the middle."""
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    inside = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2) <= 1
    distance = distance_transform_edt(~inside)
    return np.where(distance <= 12, 0.5 * (1 + np.cos(np.pi * distance / 12)), 0)


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1])
@pytest.mark.parametrize("shape", [(40, 50, 64), (51, 45, 61)])
def test_the_border_fades_as_a_cosine_of_the_distance_to_the_ellipsoid(shape: Zyx, memory_bytes: int) -> None:
    z, y, x = ((n - 25) / 2 for n in shape)
    expected = np.fft.ifftshift(direct_border(shape, (z, y, x)))[..., : shape[2] // 2 + 1]
    kernel = smooth_border((80, 80, 80), shape, memory_bytes=memory_bytes)
    found = np.concatenate([kernel(range(a, min(a + 7, shape[1]))) for a in range(0, shape[1], 7)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_where_a_spectrum_grows_the_border_is_the_old_ones() -> None:
    kernel = smooth_border((40, 40, 40), (60, 60, 60), memory_bytes=1 << 30)
    whole = kernel(range(60))
    assert whole.shape == (60, 60, 31)
    assert whole[0, 0, 0] == whole[0, 0, 7] == 1
    assert 0 < whole[0, 0, 18] < 0.1
    assert not whole[0, 0, 20:].any()
    np.testing.assert_array_equal(whole[7, 53, :20], whole[53, 7, :20])


def test_short_axes_keep_a_quarter_of_their_frequencies() -> None:
    whole = smooth_border((16, 64, 64), (16, 64, 64), memory_bytes=1 << 30)(range(64))
    assert whole[2, 0, 0] == 1
    assert whole[3, 0, 0] < 1


def test_nearest_voxels_lie_at_the_same_place() -> None:
    np.testing.assert_array_equal(nearest_indices(4, 8), [0, 1, 1, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(nearest_indices(8, 4), [0, 2, 4, 6])
    for length, target in ((100, 137), (137, 100), (7, 7)):
        places = np.arange(target) * length / target
        assert np.abs(nearest_indices(length, target) - places)[:-1].max() <= 0.5


def test_labels_stay_labels_and_are_the_same_however_cut() -> None:
    labels = np.random.default_rng(0).choice([0, 3, 700], (9, 10, 11)).astype(np.int16)
    shapes: list[Zyx] = [(20, 13, 7), (5, 10, 22)]
    for target in shapes:
        z, y, x = (nearest_indices(n, m) for n, m in zip(labels.shape, target, strict=True))
        for planes in (1, 3, 100):
            out = np.full(target, -1, np.int16)
            parts = resampled_labels(
                lambda box: labels[box.slices], (9, 10, 11), target, planes=planes, advance=lambda _: None
            )
            for box, part in parts:
                assert part.dtype == np.int16
                out[box.slices] = part
            np.testing.assert_array_equal(out, labels[np.ix_(z, y, x)])


def test_fractions_are_no_labels() -> None:
    density = np.full((4, 4, 4), 0.5, np.float32)
    with pytest.raises(UsageError, match="fractions") as caught:
        list(resampled_labels(lambda box: density[box.slices], (4, 4, 4), (8, 8, 8), planes=8, advance=lambda _: None))
    assert "density" in caught.value.next_step
