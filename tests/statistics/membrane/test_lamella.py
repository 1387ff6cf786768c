"""Planes fitted to the upper and lower end of a lamella's mask."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.geometry import Grid
from membrain_cloud.statistics.membrane.lamella import lamella_of

GRID = Grid((60, 80, 100), 10.0)


def test_a_tilted_slab_with_a_hole() -> None:
    z, _, x = np.indices(GRID.shape)
    top, bottom = 40.0 + 0.1 * x, 15.0 + 0.1 * x
    mask = (z < top) & (z > bottom)
    mask[30:, 20:24, 20:24] = False  # a hole in the mask is no surface
    lamella = lamella_of(mask.astype(np.uint8), GRID)
    points = np.array([[500.0, 400.0, 10 * (27.5 + 5.0)], [500.0, 400.0, 10 * (44.0 + 5.0)], [0.0, 0.0, 160.0]])
    slope = np.cos(np.arctan(0.1))
    # to the upper surface, to the upper one from outside, to the lower one
    expected = [125.0 * slope, -40.0 * slope, 10.0 * slope]
    np.testing.assert_allclose(lamella.depths(points), expected, atol=6.0)


def test_a_surface_outside_the_volume_is_unknown() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[:30] = True
    lamella = lamella_of(mask, GRID)
    assert lamella.bottom is None
    assert lamella.top is not None
    np.testing.assert_allclose(lamella.depths(np.array([[100.0, 100.0, 95.0]])), 200.0)
    assert np.isinf(lamella_of(np.ones(GRID.shape, bool), GRID).depths(np.zeros((1, 3)))).all()


def test_empty_and_misshapen_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="no voxel"):
        lamella_of(np.zeros(GRID.shape, bool), GRID)
    with pytest.raises(ValueError, match="does not fit"):
        lamella_of(np.ones((3, 3, 3), bool), GRID)
