"""The uncertainty map by its definition, and the same however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from membrain_cloud.segmentation import uncertainty
from membrain_cloud.segmentation.uncertainty import HALO, uncertainty_planes


@pytest.fixture
def sheet() -> tuple[np.ndarray, np.ndarray]:
    """Return a thick tilted sheet with a speck, and noise as variance; no two values are equal."""
    z, y, x = np.indices((40, 34, 30))
    mask = np.abs(z - 18 + 0.4 * y - 0.3 * x) < 3.2
    mask[30, 20:22, 20] = True
    variance = np.random.default_rng(2).permutation(mask.size).reshape(mask.shape) / mask.size
    return mask, variance.astype(np.float32)


def test_follows_the_definition(sheet: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    mask, variance = sheet
    made = uncertainty_planes(variance, mask, 0, 40)
    monkeypatch.setattr(uncertainty, "_MEDIAN", (1, 1, 1))
    taken = uncertainty_planes(variance, mask, 0, 40)
    np.testing.assert_array_equal(made, ndimage.median_filter(taken, (1, 5, 5)))
    np.testing.assert_array_equal(taken[~mask], variance[~mask])
    # no two variances are equal: they tell from where each was taken
    eroded = ndimage.binary_erosion(mask)
    distance = ndimage.distance_transform_edt(~eroded)
    order = np.argsort(variance, axis=None)
    voxels = np.argwhere(mask)
    places = order[np.searchsorted(variance.ravel()[order], taken[mask])]
    sources = np.stack(np.unravel_index(places, mask.shape), axis=1)
    reached = distance[mask] <= 6
    assert eroded[tuple(sources[reached].T)].all()
    moved = np.linalg.norm(voxels - sources, axis=1)
    np.testing.assert_allclose(moved[reached], distance[mask][reached])
    assert (~reached).sum() == 2  # the speck
    assert (moved[~reached] == 0).all()


def test_a_voxel_takes_the_nearest_inner_value() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[3:6] = True  # three planes: the middle one is left when eroded
    variance = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None, None], mask.shape)
    made = uncertainty_planes(variance, mask, 0, 9)
    assert made[:, 4, 4].tolist() == [0, 1, 2, 4, 4, 4, 6, 7, 8]


def test_thin_parts_keep_their_own_value() -> None:
    mask = np.zeros((9, 12, 12), bool)
    mask[4] = True
    variance = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None, None], mask.shape)
    np.testing.assert_array_equal(uncertainty_planes(variance, mask, 0, 9), variance)


@pytest.mark.parametrize("depth", [1, 3, 16])
def test_the_same_however_it_is_cut(sheet: tuple[np.ndarray, np.ndarray], depth: int) -> None:
    mask, variance = sheet
    whole = uncertainty_planes(variance, mask, 0, len(mask))
    for first in range(0, len(mask), depth):
        last = min(first + depth, len(mask))
        low, high = max(0, first - HALO), min(len(mask), last + HALO)
        part = uncertainty_planes(variance[low:high], mask[low:high], first - low, last - low)
        np.testing.assert_array_equal(part, whole[first:last])


def test_the_median_is_taken_in_the_plane() -> None:
    variance = np.zeros((7, 9, 9), np.float32)
    variance[3, 4, 4] = 1.0
    assert not uncertainty_planes(variance, np.zeros_like(variance), 0, 7).any()
    variance[3] = 1.0
    made = uncertainty_planes(variance, np.zeros_like(variance), 0, 7)
    np.testing.assert_array_equal(made, variance)
