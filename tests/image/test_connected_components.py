"""Components found slab by slab are those of the whole volume, number by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

from membrain_cloud.image.connected_components import SLAB_VOXELS, ComponentMap, find_components

if TYPE_CHECKING:
    from membrain_cloud.geometry import Box, Zyx


def _found(mask: np.ndarray, min_voxels: int, slab_voxels: int) -> tuple[ComponentMap, np.ndarray]:
    z, y, x = mask.shape
    shape: Zyx = (z, y, x)
    found = find_components(lambda box: mask[box.slices], shape, min_voxels=min_voxels, slab_voxels=slab_voxels)
    labels = [found.labels(i, mask[slab.slices]) for i, slab in enumerate(found.slabs)]
    assert [slab.shape for slab in found.slabs] == [part.shape for part in labels]
    return found, np.concatenate(labels)


def _expected(mask: np.ndarray, min_voxels: int) -> np.ndarray:
    """Scipy numbers components by their first voxel in zyx order."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = [i for i in range(1, count + 1) if sizes[i] >= min_voxels]
    renumber = np.zeros(count + 1, int)
    renumber[keep] = np.arange(1, len(keep) + 1)
    return renumber[labels]


@pytest.mark.parametrize("density", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("min_voxels", [1, 4])
def test_however_it_is_cut_it_is_the_whole_volume(density: float, min_voxels: int) -> None:
    mask = np.random.default_rng(7).random((13, 11, 12)) < density
    expected = _expected(mask, min_voxels)
    for depth in (1, 2, 5, 13):
        found, labels = _found(mask.astype(np.uint8) * 3, min_voxels, depth * 11 * 12)
        assert len(found.slabs) == -(-13 // depth)
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(found.sizes, np.bincount(expected.ravel())[1:])


def test_corners_edges_and_faces_across_a_cut_join() -> None:
    for step in ((0, 0), (0, 1), (1, 1), (1, -1), (-1, -1)):
        mask = np.zeros((4, 6, 6), bool)
        mask[1, 3, 3] = mask[2, 3 + step[0], 3 + step[1]] = True
        assert _found(mask, 1, 72)[0].sizes.tolist() == [2]
    apart = np.zeros((4, 6, 6), bool)
    apart[1, 3, 3] = apart[2, 3, 5] = True
    assert _found(apart, 1, 72)[0].sizes.tolist() == [1, 1]


def test_what_joins_only_far_below_is_one() -> None:
    comb = np.zeros((10, 3, 21), bool)
    comb[:, 1, ::2] = True  # eleven teeth ...
    assert _found(comb, 1, 2 * 63)[0].count == 11
    comb[9, 1] = True  # ... with a back in the last plane
    found, labels = _found(comb, 1, 2 * 63)
    assert found.count == 1
    np.testing.assert_array_equal(labels, comb)


def test_order_is_that_of_the_first_voxel_and_not_of_the_slab() -> None:
    mask = np.zeros((6, 5, 9), bool)
    mask[0:6, 2, 8] = True  # reaches furthest, starts second
    mask[0, 0, 0:2] = True
    mask[3, 0, 0] = True
    labels = _found(mask, 1, 2 * 45)[1]
    assert (labels[0, 0, 0], labels[0, 2, 8], labels[3, 0, 0]) == (1, 2, 3)


def test_nothing_and_everything() -> None:
    empty, labels = _found(np.zeros((5, 4, 3), np.uint8), 1, 24)
    assert empty.count == 0
    assert not labels.any()
    full, labels = _found(np.ones((5, 4, 3), np.uint8), 60, 24)
    assert full.sizes.tolist() == [60]
    assert (labels == 1).all()
    assert _found(np.ones((5, 4, 3), np.uint8), 61, 24)[0].count == 0


def test_many_components_need_wider_labels() -> None:
    mask = np.zeros((101, 101, 101), bool)
    mask[::2, ::2, ::2] = True
    found, labels = _found(mask, 1, 20 * 101 * 101)
    assert found.count == 51**3
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels[mask], np.arange(1, 51**3 + 1))


def test_reads_only_slabs_of_the_size_asked_for() -> None:
    mask, seen = np.zeros((20, 10, 10), np.uint8), []

    def read(box: Box) -> np.ndarray:
        seen.append(box.shape)
        return mask[box.slices]

    find_components(read, (20, 10, 10), min_voxels=1, slab_voxels=350)
    assert seen == [(3, 10, 10)] * 6 + [(2, 10, 10)]
    assert SLAB_VOXELS > 10**6
